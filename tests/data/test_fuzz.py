"""A quick seeded run of the fuzz harness, and that it would tell."""

import fuzz
import pytest


@pytest.mark.slow  # it replaces how datasets hash, which other tests of the process read
def test_mutated_tables_give_a_result_or_a_documented_error():
    ends, failures = fuzz.tables(0, iter(range(300)))
    assert failures == {}
    assert sum(ends.values()) == 300 and ends["result"] > 30 and ends["BadSamplesError"] > 10


def test_what_is_undocumented_is_told(monkeypatch, capsys):
    def fail(error):
        raise error

    errors = [ValueError("passed on"), KeyError("x"), UnicodeDecodeError("utf-8", b"", 0, 1, "x"), RecursionError()]
    ends, failures = fuzz.run(enumerate(lambda error=error: fail(error) for error in errors))
    assert ends == {"undocumented": 4} and "KeyError: 'x'" in failures[1]
    monkeypatch.setitem(fuzz.TARGETS, "tables", lambda seed, numbers, show: fuzz.run((n, errors.pop) for n in numbers))
    assert fuzz.main(["tables", "--only", "1"]) == 0
    monkeypatch.setitem(fuzz.TARGETS, "tables", lambda seed, numbers, show: fuzz.run((n, fail) for n in numbers))
    assert fuzz.main(["tables", "--only", "7", "--seed", "3"]) == 1
    assert "--- seed 3, mutation 7" in capsys.readouterr().out


def test_a_mutation_is_a_function_of_seed_and_number(monkeypatch):
    seen = []
    monkeypatch.setattr(fuzz, "load_data", lambda path, **options: seen.append((path.read_bytes(), options)))
    for _ in range(2):
        fuzz.tables(5, iter([3, 1, 2]))
    assert len(seen) == 6 and seen[:3] == seen[3:]


@pytest.mark.slow
def test_two_minutes_of_mutated_tables():
    assert fuzz.main(["tables", "--seconds", "120", "--seed", "1"]) == 0
