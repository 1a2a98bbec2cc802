"""What happens to a run from outside, through the commands: damaged checkpoints, signals, two runs, full disks."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from test_scripts import FAST, evaluate, make_rows, script, write_table

from hf_multimodal.training.run_folder import claim_folder
from hf_multimodal.training.trainer import MultimodalTrainer

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_fusion.py"
RUN = [*FAST, "--num_train_epochs", "2", "--save_total_limit", "5", "--load_best_model_at_end", "false"]
TIGHT = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2); "
HOLD = """
import sys, time
from pathlib import Path
from hf_multimodal.training.run_folder import claim_folder
with claim_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
train = script("train_fusion")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(folder: Path, other: Path) -> None:
    found, expected = weights(folder), weights(other)
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A whole run with the checkpoints of both its epochs, and the flags that repeat it but for its folder."""
    folder = tmp_path_factory.mktemp("whole")
    table = write_table(folder / "table.csv", make_rows(folder))
    flags = ["--data", str(table), *RUN]
    train([*flags, "--output_dir", str(folder / "run")])
    return folder / "run", flags


def last(folder: Path) -> Path:
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 8):
        content[place] ^= 0x40
    path.write_bytes(content)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero_half(path: Path) -> None:
    half = path.stat().st_size // 2
    path.write_bytes(path.read_bytes()[:-half] + bytes(half))


def empty_state(path: Path) -> None:
    path.write_text("{}")


DAMAGE: list[tuple[str, Callable[[Path], None], bool]] = [
    ("model.safetensors", flip, True),
    ("model.safetensors", zero_half, True),
    ("optimizer.pt", flip, True),
    ("optimizer.pt", halve, False),
    ("optimizer.pt", zero_half, False),
    ("scheduler.pt", halve, False),
    ("scheduler.pt", zero_half, True),
    ("rng_state.pth", halve, False),
    ("rng_state.pth", zero_half, True),
    ("trainer_state.json", empty_state, False),
    ("trainer_state.json", halve, True),
]


@pytest.mark.parametrize(
    ("name", "damage", "manifest"),
    DAMAGE,
    ids=[f"{n}-{d.__name__}-{'with' if m else 'without'}" for n, d, m in DAMAGE],
)
def test_a_damaged_checkpoint_is_passed_over_and_named(
    name: str,
    damage: Callable[[Path], None],
    manifest: bool,
    whole: tuple[Path, list[str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run, flags = whole
    shutil.copytree(run, tmp_path / "run")
    damaged = last(tmp_path / "run")
    damage(damaged / name)
    if not manifest:
        (damaged / "manifest.json").unlink()
    train([*flags, "--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint"])
    said = [record.getMessage() for record in caplog.records if "is passed over" in record.getMessage()]
    assert len(said) == 1 and said[0].startswith(f"Checkpoint {damaged} is passed over, {name} "), said
    assert_same_weights(tmp_path / "run", run)


def test_another_number_of_processes_is_named(whole: tuple[Path, list[str]], tmp_path: Path) -> None:
    run, flags = whole
    shutil.copytree(run, tmp_path / "run")
    checkpoint = last(tmp_path / "run")
    (checkpoint / "manifest.json").unlink()
    shutil.copy(checkpoint / "rng_state.pth", checkpoint / "rng_state_0.pth")
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_1.pth")
    resume = [*flags, "--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint"]
    with pytest.raises(ValueError, match=r"was written by 2 process\(es\), and this run has 1: start as many, or add"):
        train(resume)
    train([*resume, "--accept_other_processes"])
    assert_same_weights(tmp_path / "run", run)  # no step was left to do


def start(flags: list[str], before: str = "import runpy, sys; ", *arguments: str) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    program = f"{before}sys.argv[0] = {str(SCRIPT)!r}; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    threads = str(torch.get_num_threads())  # another number would round otherwise
    environment = {
        **os.environ,
        "PYTHONPATH": str(SCRIPT.parents[1]),
        "OMP_NUM_THREADS": threads,
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-u", "-c", program, *arguments, *flags]
    options: dict[str, Any] = {"env": environment, "text": True, "cwd": SCRIPT.parents[1], "start_new_session": True}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if word in line:
            return
    raise AssertionError("".join(said))


def test_sigterm_saves_a_checkpoint_and_exits_with_143(whole: tuple[Path, list[str]], tmp_path: Path) -> None:
    run, flags = whole
    flags = [*flags, "--num_train_epochs", "60", "--logging_strategy", "steps", "--logging_steps", "1"]
    flags += ["--output_dir", str(tmp_path / "run"), "--eval_strategy", "no", "--save_strategy", "no"]
    flags += ["--lr_scheduler_type", "constant", "--warmup_steps", "0"]  # whatever the number of steps
    flags += ["--dataloader_num_workers", "2"]
    process = start(flags)
    wait_for(process, "train loss")
    os.killpg(process.pid, signal.SIGTERM)  # as schedulers do: the workers are told, too
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143, output
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert f"Told to end: {checkpoint.name} is saved, go on with --resume_from_checkpoint." in output
    steps = int(checkpoint.name.split("-")[1])
    short = [*flags, "--max_steps", str(steps + 3)]
    train([*short, "--resume_from_checkpoint"])
    train([*short, "--output_dir", str(tmp_path / "again")])
    assert_same_weights(tmp_path / "run", tmp_path / "again")


def test_sigterm_in_an_evaluation_saves_a_checkpoint(whole: tuple[Path, list[str]], tmp_path: Path) -> None:
    def told(self: Any, *args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, *args, **kwargs)

    evaluate = MultimodalTrainer.evaluate
    flags = [*whole[1], "--output_dir", str(tmp_path), "--num_train_epochs", "1", "--save_strategy", "no"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit, match="143"):
        patch.setattr(MultimodalTrainer, "evaluate", told)
        train([*flags, "--load_best_model_at_end", "false"])
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert (checkpoint / "manifest.json").is_file()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_weights_that_are_not_finite_do_not_replace_an_earlier_run(
    whole: tuple[Path, list[str]], tmp_path: Path
) -> None:
    shutil.copytree(whole[0], tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    flags = [*whole[1], "--output_dir", str(tmp_path / "run"), "--overwrite_output_dir", "--warmup_steps", "0"]
    flags += ["--num_train_epochs", "1", "--max_steps", "1", "--save_strategy", "no", "--eval_strategy", "no"]
    flags += ["--load_best_model_at_end", "false", "--learning_rate", "1e38", "--head_learning_rate", "1e38"]
    message = r"after step 1, at the learning rate .*, on the rows \d+ \(id 'r\d+'\), .*, weights are not finite"
    with pytest.raises(FloatingPointError, match=message):
        train(flags)
    assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before
    kept = sorted(path.name for path in (tmp_path / "run").glob("*checkpoint-*"))
    assert kept == ["earlier-" + path.name for path in sorted(whole[0].glob("checkpoint-*"))]
    with pytest.raises(FloatingPointError, match=message):  # before an evaluation could stumble over them
        train([*flags, "--eval_strategy", "epoch"])


def test_a_damaged_best_checkpoint_is_passed_over(
    whole: tuple[Path, list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged(self: Any) -> None:
        flip(Path(self.state.best_model_checkpoint, "model.safetensors"))
        load(self)

    load = MultimodalTrainer._load_best_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MultimodalTrainer, "_load_best_model", damaged)
        flags = [*whole[1], "--load_best_model_at_end", "true", "--output_dir", str(tmp_path)]
        train(flags)
        pattern = r"The best checkpoint (\S+) is passed over, model.safetensors .*: the best of the rest is (\S+)\."
        said = re.search(pattern, caplog.text)
        assert said is not None
        assert {Path(said[1]), Path(said[2])} == set(tmp_path.glob("checkpoint-*"))
        chosen = weights(Path(said[2]))
        assert all(torch.equal(value, chosen[name]) for name, value in weights(tmp_path).items())
        patch.setattr(MultimodalTrainer, "_best_whole_checkpoint", lambda self: None)
        with pytest.raises(ValueError, match="the best checkpoint .* cannot be loaded, model.safetensors .* no other"):
            train([*flags, "--overwrite_output_dir"])


def test_a_loss_that_is_not_finite_stops_the_run(whole: tuple[Path, list[str]], tmp_path: Path) -> None:
    flags = [*whole[1], "--output_dir", str(tmp_path), "--learning_rate", "1e30", "--head_learning_rate", "1e30"]
    flags += ["--warmup_steps", "0", "--save_strategy", "steps", "--save_steps", "1", "--eval_strategy", "no"]
    rows = (
        r"on the rows \d+ \(id 'r\d+'\), .*\. (The last checkpoint is .*checkpoint-\d+|There is no checkpoint yet)\."
    )
    with pytest.raises(
        FloatingPointError, match=rf"the loss of step \d is (nan|inf), at the learning rate .*, {rows}"
    ):
        train(flags)
    for checkpoint in tmp_path.glob("checkpoint-*"):
        assert all(value.isfinite().all() for value in weights(checkpoint).values())


def test_weights_that_are_not_finite_are_not_saved(whole: tuple[Path, list[str]], tmp_path: Path) -> None:
    def break_weights(self: Any, *args: Any) -> torch.Tensor:
        loss = forward(self, *args)
        with torch.no_grad():
            self.model.classifier.bias[0] = float("nan")
        return loss

    forward = MultimodalTrainer._forward_and_backward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MultimodalTrainer, "_forward_and_backward", break_weights)
        message = r"after step 1, .* weights are not finite: \['classifier.bias'\] \(1 in all\)\. They are not saved"
        with pytest.raises(FloatingPointError, match=message):
            train([*whole[1], "--output_dir", str(tmp_path), "--save_strategy", "steps", "--save_steps", "1"])
    assert list(tmp_path.glob("checkpoint-*")) == []


def test_a_second_run_in_the_same_folder_is_refused(whole: tuple[Path, list[str]], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "run")
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        owner = rf"is in use by process {holder.pid} on {socket.gethostname()}, since .*: wait for it, end it, or"
        try:
            with pytest.raises(BlockingIOError, match=owner):
                train([*whole[1], "--output_dir", str(tmp_path / "run"), "--overwrite_output_dir"])
        finally:
            holder.kill()
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 2
    # Held by a process that was killed: free again.
    train([*whole[1], "--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint"])
    assert not (tmp_path / "run" / ".run.owner.json").exists()


def test_no_command_writes_into_the_folder_of_a_run_that_lasts(whole: tuple[Path, list[str]], tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "run")
    folder = str(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    with claim_folder(tmp_path / "run"):
        with pytest.raises(BlockingIOError, match="run' is in use by process"):
            evaluate(["--model", folder, *whole[1][:2], "--output_dir", folder])
        with pytest.raises(BlockingIOError, match="run' is in use by process"):
            script("write_card")(["--run", folder])
    assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before


def test_a_file_or_a_folder_that_cannot_be_made_is_named(whole: tuple[Path, list[str]], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match=r"output_dir '.*file' is a file: name a folder\."):
        train([*whole[1], "--output_dir", str(tmp_path / "file")])
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(OSError, match=r"file/run' cannot be made, Not a directory: name a folder with --output_dir$"):
        train([*whole[1], "--output_dir", str(tmp_path / "file" / "run")])
    with pytest.raises(OSError, match=r"cannot be made, .*: name a folder that can be .* with --output_dir"):
        train([*whole[1], "--output_dir", "/proc/run"])


def test_a_full_disk_leaves_the_earlier_checkpoints(whole: tuple[Path, list[str]], tmp_path: Path) -> None:
    run, flags = whole
    shutil.copytree(run, tmp_path / "run")
    size = max(path.stat().st_size for path in last(run).iterdir())
    process = start([*flags, "--output_dir", str(tmp_path / "run"), "--overwrite_output_dir"], TIGHT, str(size // 2))
    output, _ = process.communicate(timeout=120)
    assert process.returncode not in (0, None), output
    remedy = "allow larger files (ulimit -f), or name a folder on another disk with --output_dir"
    full = "free some space, or name a folder on another disk with --output_dir"
    final = output.strip().splitlines()[-1]
    assert "checkpoint-" in final and "could not be written" in final and (remedy in final or full in final), output
    kept = sorted((tmp_path / "run").glob("*checkpoint-*"))
    assert [path.name for path in kept] == ["earlier-" + path.name for path in sorted(run.glob("checkpoint-*"))]
    for path in kept:
        told = json.loads((path / "manifest.json").read_text())["files"]
        assert {name: (path / name).stat().st_size for name in told} == {n: f["size"] for n, f in told.items()}


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_ends_both_at_one_step(whole: tuple[Path, list[str]], tmp_path: Path) -> None:
    flags = [*whole[1], "--num_train_epochs", "60", "--logging_strategy", "steps", "--logging_steps", "1"]
    flags += ["--output_dir", str(tmp_path / "run"), "--eval_strategy", "no", "--save_strategy", "no"]
    flags += ["--lr_scheduler_type", "constant", "--warmup_steps", "0", "--use_cpu"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29541"]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1]), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    options: dict[str, Any] = {"env": environment, "text": True, "cwd": SCRIPT.parents[1]}
    options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen([*launch, str(SCRIPT), *flags], **options)
    wait_for(process, "train loss")
    ranks = psutil.Process(process.pid).children()
    assert len(ranks) == 2
    ranks[1].send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=180)
    assert output.count("exitcode  : 143") + output.count("exitcode: 143") >= 1, output
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    told = json.loads((checkpoint / "manifest.json").read_text())["files"]
    assert {"rng_state_0.pth", "rng_state_1.pth", "model.safetensors", "optimizer.pt"} <= set(told)
    steps = str(int(checkpoint.name.split("-")[1]) + 3)
    for folder, resume in (("run", ["--resume_from_checkpoint"]), ("again", [])):
        command = [*launch, str(SCRIPT), *flags, "--max_steps", steps, "--output_dir", str(tmp_path / folder), *resume]
        run = subprocess.run(command, **options)
        assert run.returncode == 0, run.stdout
    assert_same_weights(tmp_path / "run", tmp_path / "again")
