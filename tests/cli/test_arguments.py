"""Flags and YAML of the scripts: defaults, precedence, and wrong choices known before data are loaded."""

from pathlib import Path

import pytest
from transformers import TrainingArguments

from hf_multimodal.cli.training_flags import parse_training

SCRATCH = ["--data", "controlled:unique", "--from_scratch"]


def test_defaults_of_a_run() -> None:
    flags = parse_training("train-fusion", ["--data", "x", "--vision_model", "v", "--text_model", "t"])
    training, given = flags.training, flags.given
    assert (training.learning_rate, training.weight_decay, training.max_grad_norm) == (2e-5, 0.01, 1.0)
    assert training.get_warmup_steps(200) == 20
    assert (training.metric_for_best_model, training.greater_is_better) == ("nll", False)
    assert training.load_best_model_at_end and training.save_total_limit == 1
    assert training.remove_unused_columns is False and training.report_to == []
    assert given == {"vision_model": "v", "text_model": "t", "data": "x", "total_train_batch_size": 32}
    training = parse_training("train-fusion", SCRATCH).training
    assert training.learning_rate == training.head_learning_rate == 1e-3
    training = parse_training("train-fusion", [*SCRATCH, "--metric_for_best_model", "accuracy"]).training
    assert training.greater_is_better is True


def test_flags_override_the_yaml_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: controlled:unique\nfrom_scratch: true\nlearning_rate: 2e-4\nseed: 3\nfusion: gated\n")
    flags = parse_training("train-fusion", ["--config", str(path), "--seed", "4"])
    training, given = flags.training, flags.given
    assert (training.learning_rate, training.seed) == (2e-4, 4)
    assert (flags.fusion.fusion, flags.source.data) == ("gated", "controlled:unique")
    assert given["seed"] == 4 and given["learning_rate"] == 2e-4
    path.write_text("data: controlled:unique\nfusoin: gated\n")
    with pytest.raises(ValueError, match=r"unknown key 'fusoin' in '.*run.yaml'. Did you mean 'fusion'\?"):
        parse_training("train-fusion", ["--config", str(path)])
    with pytest.raises(FileNotFoundError, match="config: there is no file 'gone.yaml'"):
        parse_training("train-fusion", ["--config", "gone.yaml"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fusion", "gate"], r"fusion must be one of \['concat', .*\], got 'gate'. Did you mean 'gated'\?"),
        (["--modality", "img"], r"modality must be one of \['both', 'image', 'text'\], got 'img'"),
        (["--max_train_sample", "3"], r"unknown argument 'max_train_sample'. Did you mean 'max_train_samples'\?"),
        (["--label_smoothing_factor", "0.1"], "use --label_smoothing"),
        (["--freeze_vision_layers", "some"], "freeze_vision_layers must be a number of layers or 'all', got 'some'"),
        (["--on_bad_sample", "skip"], r"on_bad_sample must be one of \['error', 'missing', 'drop'\], got 'skip'"),
        (["--class_weights", "on"], r"class_weights must be one of \['none', 'balanced'\], got 'on'"),
        (["--class_weights", "balanced", "--oversample"], "class_weights 'balanced' and oversample correct the same"),
        (["--threshold", "tune"], "threshold must be a number between 0 and 1, or 'tuned', got 'tune'"),
        (["--threshold", "1"], "threshold must be a number between 0 and 1, or 'tuned', got '1'"),
        (
            ["--threshold", "tuned", "--fit_on_validation"],
            "fit_on_validation leaves no rows to tune the thresholds on",
        ),
        (["--problem_type", "multi"], "problem_type must be one of"),
        (["--lora_rank", "4"], "lora_rank needs pretrained weights"),
        (["--modality", "image", "--text_model", "t"], "text_model 't' has no use with modality 'image'"),
        (["--modality", "text", "--freeze_vision_layers", "2"], "freeze_vision_layers '2' has no use with modality"),
        (["--modality", "text", "--vision_layers", "2"], "vision_layers needs a pretrained vision model"),
        (["--modality", "text", "--fusion", "gated"], "fusion 'gated' has no use with modality 'text'"),
        (["--modality", "text", "--augment"], "augment has no use with modality 'text'"),
        (["--modality", "text", "--whole_images"], "whole_images has no use with modality 'text'"),
        (["--modality", "image", "--text_pooling", "cls"], "text_pooling 'cls' has no use with modality 'image'"),
        (["--text_model", "lstn"], r"text_model 'lstn' is neither a folder nor one of .* Did you mean 'lstm'\?"),
        (["--modality", "image", "--max_length", "9"], "max_length 9 has no use with modality 'image'"),
    ],
)
def test_a_wrong_choice_is_known_before_data_are_loaded(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_training("train-fusion", [*SCRATCH, *flags])


def test_what_is_needed_is_asked_for() -> None:
    with pytest.raises(ValueError, match="vision_model is needed for modality 'both' unless from_scratch is set"):
        parse_training("train-fusion", ["--data", "controlled:unique"])
    with pytest.raises(ValueError, match="text_model 'lstm' has no pretrained weights: it needs from_scratch"):
        parse_training("train-fusion", ["--data", "controlled:unique", "--vision_model", "v", "--text_model", "lstm"])
    with pytest.raises(FileNotFoundError, match="vision_model: there is no folder '/no/such'"):
        parse_training(
            "train-fusion", ["--data", "controlled:unique", "--vision_model", "/no/such", "--text_model", "t"]
        )
    with pytest.raises(ValueError, match="data is needed"):
        parse_training("train-fusion", ["--from_scratch"])
    training = parse_training("train-fusion", [*SCRATCH, "--resume_from_checkpoint"]).training
    assert training.resume_from_checkpoint == "true"


def test_the_batch_size_is_for_all_processes_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda self: 3))
    flags = [*SCRATCH, "--use_cpu", "--total_train_batch_size"]
    parsed = parse_training("train-fusion", [*flags, "12"])
    assert (parsed.training.per_device_train_batch_size, parsed.given["total_train_batch_size"]) == (4, 12)
    assert "per_device_train_batch_size" not in parsed.given
    parsed = parse_training("train-fusion", [*SCRATCH, "--use_cpu", "--per_device_train_batch_size", "12"])
    assert (parsed.training.per_device_train_batch_size, parsed.given["total_train_batch_size"]) == (12, 36)
    with pytest.raises(ValueError, match="12 on 3 processes and per_device_train_batch_size 12 contradict each other"):
        parse_training("train-fusion", [*flags, "12", "--per_device_train_batch_size", "12"])
    with pytest.raises(ValueError, match="must be a multiple of their number, 3, got 32"):
        parse_training("train-fusion", [*flags, "32"])
    with pytest.raises(SystemExit):
        parse_training("train-fusion", ["--help"])
    assert "Examples of a step on all processes" in " ".join(capsys.readouterr().out.split())
