"""What the pages say of each other, of the public names and of the flags."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

import hf_multimodal

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def script(name: str):
    """One of docs/scripts, imported."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def region(page: str, name: str) -> str:
    """What stands between two markers."""
    return read(page).split(f"<!-- {name}:start -->\n")[1].split(f"<!-- {name}:end -->")[0]


def test_the_readme_has_150_lines_at_most():
    assert len(read("README.md").splitlines()) <= 150


def test_the_numbers_of_the_readme_are_those_of_the_benchmarks():
    table = read("README.md").split("## Results\n")[1].split("\nAll tables")[0]
    numbers = set(re.findall(r"\d+\.\d+(?: ± \d+\.\d+)?|\d+ of \d+", table))
    measured = read("docs/benchmarks.md") + read("docs/guarantees.md").replace(
        "Of the 123 lines of the table, 122 are", "122 of 123"
    )
    assert len(numbers) >= 9 and {number for number in numbers if number not in measured} == set()


def test_the_reference_has_every_public_name_once():
    named = re.findall(r"^::: hf_multimodal\.(\w+)$", read("docs/reference.md"), re.MULTILINE)
    constants = {name for name in hf_multimodal.__all__ if isinstance(getattr(hf_multimodal, name), str)}
    assert sorted(named) == sorted(set(hf_multimodal.__all__) - constants)


def test_the_table_of_flags_is_that_of_the_dataclasses():
    """`python docs/scripts/write_flags.py`, or `make docs`, writes it."""
    assert region("docs/flags.md", "flags").strip() == script("write_flags").tables().strip()


def test_every_page_stands_in_the_navigation():
    named = re.findall(r"\w+\.md", str(yaml.safe_load(read("mkdocs.yml"))["nav"]))
    assert sorted(named) == sorted(path.name for path in DOCS.glob("*.md"))


def test_what_is_not_kept_stands_first():
    lines = region("docs/guarantees.md", "guarantees").splitlines()[2:]
    kept = ["**no**" not in line for line in lines]
    assert kept == sorted(kept)
    summary = [
        re.search(r"\| (\d+) of (\d+) \|", line)
        for line in region("docs/benchmarks.md", "guarantees").splitlines()[2:]
    ]
    whole = [found[1] == found[2] for found in summary if found is not None]
    assert whole == sorted(whole) and len(whole) == 7
    assert sum(int(found[1]) for found in summary if found is not None) == sum(kept)
    assert sum(int(found[2]) for found in summary if found is not None) == len(lines)


@pytest.mark.parametrize(
    ("page", "refused"),
    [
        ('<script src="https://x.org/a.js"></script>', True),
        ('<link rel="stylesheet" href="//x.org/a.css">', True),
        ('<img src="https://x.org/a.png">', True),
        ('<script src="assets/a.js"></script><a href="https://x.org">x</a>', False),
    ],
)
def test_a_site_that_loads_from_the_network_is_refused(tmp_path, page, refused):
    (tmp_path / "index.html").write_text(page)
    assert bool(script("check_site").loaded_from_network(tmp_path)) == refused


def test_a_style_sheet_that_loads_from_the_network_is_refused(tmp_path):
    (tmp_path / "a.css").write_text("@font-face { src: url('https://x.org/a.woff2'); }")
    assert len(script("check_site").loaded_from_network(tmp_path)) == 1


def test_the_curve_of_the_benchmarks_is_that_of_the_card():
    """`make docs` copies it."""
    assert (DOCS / "images" / "missing_curve.png").read_bytes() == (
        ROOT / "model_cards" / "tweets-robust" / "missing_curve.png"
    ).read_bytes()


def test_rooms_import_from_the_floors_below():
    floors = [list(floor) for floor in script("draw_house").FLOORS]
    level = {room: number for number, floor in enumerate(floors) for room in floor}
    package = ROOT / "hf_multimodal"
    for path in package.rglob("*.py"):
        place = path.relative_to(package).parts
        if place == ("__init__.py",):
            continue
        room = place[0].removesuffix(".py")
        for part in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(part, ast.ImportFrom) and (part.module or "").startswith("hf_multimodal."):
                other = part.module.split(".")[1]
                assert other == room or level[other] > level[room], f"{path}: {ast.unparse(part)}"


def test_files_that_the_architecture_names_are_there():
    rooms = "cli|training|inference|evaluation|data|synthetic|models|hub"
    named = re.findall(rf"`((?:{rooms})/\w+\.py)`", read("docs/architecture.md"))
    assert len(named) > 20 and [name for name in named if not (ROOT / "hf_multimodal" / name).is_file()] == []
    run = read("docs/architecture.md").split("## One training run")[1].split("\n## ")[0]
    assert 10 <= len(re.findall(r"^\| +\d+ \|", run, re.MULTILINE)) <= 15


def test_examples_of_docstrings_become_code():
    pytest.importorskip("griffe")
    fenced = script("fenced_examples").fenced
    assert fenced("A [`X`] of [y](z).\n\nExample:\n\n>>> f(\n...     1\n... )\n2\n\nMore.") == (
        "A `X` of [y](z).\n\nExample:\n\n```pycon\n>>> f(\n...     1\n... )\n2\n```\n\nMore."
    )
