"""The tests that the table of docs/reliability.md names are there."""

from pathlib import Path

import pytest
from reliability import FAULTS, PAGE


@pytest.mark.parametrize("test", [test for _, _, test in FAULTS])
def test_a_test_of_the_table_is_there(test: str) -> None:
    file, _, name = test.partition("::")
    content = (Path(__file__).parent / file).read_text(encoding="utf-8")
    assert f"def {name or 'test_'}" in content
    assert f"`{test}`" in PAGE.read_text(encoding="utf-8")
