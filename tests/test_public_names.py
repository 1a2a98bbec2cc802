"""What a user imports: all of it from `hf_multimodal`, and only that in the documentation."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hf_multimodal

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", hf_multimodal.__all__)
def test_each_public_name_is_there_and_explained(name):
    assert name in dir(hf_multimodal)
    public = getattr(hf_multimodal, name)
    assert isinstance(public, str) or public.__doc__


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'hf_multimodal' has no attribute 'Fusion'"):
        _ = hf_multimodal.Fusion


def test_what_is_imported_later_is_not_imported_with_the_package():
    code = "import sys, hf_multimodal; print(sorted(m for m in sys.modules if m.startswith('hf_multimodal.training')))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documentation_imports_public_names_alone(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for part in ast.walk(ast.parse(block)):
            if isinstance(part, ast.ImportFrom) and (part.module or "").startswith("hf_multimodal"):
                assert part.module == "hf_multimodal", ast.unparse(part)
                assert {one.name for one in part.names} <= set(hf_multimodal.__all__), ast.unparse(part)
            if isinstance(part, ast.Import):
                assert not [one.name for one in part.names if one.name.startswith("hf_multimodal.")]
