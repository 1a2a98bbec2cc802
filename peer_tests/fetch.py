"""`python peer_tests/fetch.py`: fetch transformers' own tests, of the installed version, into `.transformers/`.

The source distribution holds the mixins that every model and every processor of transformers is tested with. It is not
ours: the folder is ignored by git.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers

FOLDER = Path(__file__).parent / ".transformers"
# What the mixins import and the distribution lacks; by file, nothing of it is used.
STUBS = {
    "peer/__init__.py": "",
    "peer/exporters/__init__.py": "",
    "peer/exporters/test_export.py": "class ExportTesterMixin: pass\n",
    "peer/generation/__init__.py": "",
    "peer/generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url, return_url_if_not_found=True): return url\n",
}


def fetch(version: str) -> None:
    """Unpack `tests/` of a version as the package `peer`."""
    with tempfile.TemporaryDirectory() as folder:
        where = ["--dest", folder, "--no-deps", "--no-binary", ":all:", f"transformers=={version}"]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *where], check=True)
        with tarfile.open(next(Path(folder).glob("transformers-*.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.copytree(Path(folder) / f"transformers-{version}" / "tests", FOLDER / "peer")
    for name, text in STUBS.items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (FOLDER / "version.txt").write_text(version, encoding="utf-8")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    version_file = FOLDER / "version.txt"
    if not version_file.exists() or version_file.read_text(encoding="utf-8") != transformers.__version__:
        fetch(transformers.__version__)
