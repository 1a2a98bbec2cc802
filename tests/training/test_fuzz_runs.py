"""Mutated run folders load whole or are refused by a documented error."""

import pytest
from fuzz_runs import fuzz


@pytest.mark.keys_do_not_fit
def test_mutated_runs_load_or_are_refused_by_a_documented_error() -> None:
    counts = fuzz(seconds=60, seed=3, most=120)
    assert counts["mutations"] >= 60
