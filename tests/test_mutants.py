"""The faults of `mutants.py` are still faults of this package."""

import pytest
from mutants import MUTANTS, Mutant, places


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_fault_replaces_stands_in_the_package_once(mutant: Mutant) -> None:
    assert len(places(mutant.before)) == 1
    assert mutant.before != mutant.after
