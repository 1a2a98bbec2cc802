"""The built wheel in an environment of its own: the console command trains, predicts and says what it can do."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = ["--max_train_samples", "64", "--max_eval_samples", "32", "--max_predict_samples", "32", "--use_cpu"]


@pytest.mark.slow
def test_the_command_of_the_wheel_works_without_the_clone(tmp_path: Path) -> None:
    source, pip = tmp_path / "source", [sys.executable, "-m", "pip"]
    shutil.copytree(ROOT / "hf_multimodal", source / "hf_multimodal")  # a build leaves its own files beside
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(source)], check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    install = [*pip, "--python", str(python), "install", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    # The packages that it needs are those of this environment; the package itself comes from the wheel.
    Path(site, "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> str:
        command = [str(tmp_path / "env" / "bin" / "hf-multimodal"), *words]
        options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
        done = subprocess.run(command, check=False, **options)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    where = [str(python), "-c", "import hf_multimodal; print(hf_multimodal.__file__)"]
    found = subprocess.run(where, check=True, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    assert found.startswith(str(tmp_path / "env"))
    assert "train-robust-fusion" in run()
    run("train-fusion", "--data", "controlled:unique", "--from_scratch", "--num_train_epochs", "1", *SMALL)
    assert "accuracy" in run("evaluate", "--model", "runs/fusion", "--data", "controlled:unique", *SMALL[4:6])
    assert "predicted:" in run("predict", "--model", "runs/fusion", "--text", "a green wedge")
    (tmp_path / "runs" / "fusion" / "README.md").read_text(encoding="utf-8")
