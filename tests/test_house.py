"""The rooms of the house: what each may import, so that arrows run down only and there are no circles."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hf_multimodal

PACKAGE = Path(hf_multimodal.__file__).parent
ROOMS = {  # what each may import beside itself; `cli` stands on top
    "training": {"inference", "evaluation", "data", "synthetic", "models", "hub", "validation"},
    "inference": {"evaluation", "data", "synthetic", "models", "hub", "validation"},
    "evaluation": {"data", "models", "hub", "validation"},
    "data": {"synthetic", "models", "hub", "validation"},
    "synthetic": {"models", "validation"},
    "models": set(),
    "hub": {"models", "validation"},
    "validation": set(),
}
# All that data and evaluation know of models: the processor, and the names of modalities and patterns of presence.
KNOWN = {"hf_multimodal.models.processing_multimodal", "hf_multimodal.models.configuration_vision_text"}
KNOWN |= {"hf_multimodal.hub.storage", "hf_multimodal.hub.tables"}  # of the Hub: safe files, and a table's words


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(path: Path) -> set[str]:
    """The modules of this package that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("hf_multimodal"):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("hf_multimodal")}
    return found


def files_of(room: str) -> list[Path]:
    return [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").is_file() else sorted((PACKAGE / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_below_only(room):
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in files_of(room)
        for module in sorted(imports(path))
        if room_of(module) not in {room} | ROOMS[room]
    ]
    assert files_of(room) and wrong == []


def test_every_room_is_listed():
    found = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} | {path.stem for path in PACKAGE.glob("*.py")}
    assert found - {"__init__", "cli"} == set(ROOMS)


@pytest.mark.parametrize("room", ["data", "evaluation"])
def test_a_room_knows_no_model_but_the_processor_and_of_the_hub_only_safe_files(room):
    known = {module for path in files_of(room) for module in imports(path) if room_of(module) in ("models", "hub")}
    assert known <= KNOWN


def test_no_two_modules_import_each_other():
    modules = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if path.name != "__init__.py":
            modules[".".join(parts)] = path
    below = {module: imports(path) & set(modules) for module, path in modules.items()}
    list(TopologicalSorter(below).static_order())  # raises on a circle


@pytest.mark.parametrize("room", [*ROOMS])
def test_a_room_prints_nothing_and_has_one_logger(room):
    for path in files_of(room):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
        assert "print" not in calls, path
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert "logging" not in names, f"{path}: the logger is that of transformers.utils.logging"
