"""The same YAML on two ranks gives what it gives on one, and every worker sees the epoch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
import yaml
from conftest import PATCHES, TEXT
from safetensors.torch import load_file
from two_ranks_aligner import CASES, step
from two_ranks_missing import step_weights

from hf_multimodal.cli.train_aligner import main as train_aligner
from hf_multimodal.cli.train_fusion import main as train

TOLERANCE = 1e-4  # of metrics and probabilities: sums are rounded in another order


def run_two_ranks(program: Path, *arguments: str) -> None:
    """Run a script on two processes, to its end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)  # tests of other rooms are read
    result = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]


def models_without_dropout(folder: Path) -> dict[str, object]:
    """Configurations of two small models, and the arguments of a run that trains them from scratch."""
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    hf.ViTConfig(**PATCHES, **still).save_pretrained(folder / "v")
    plain = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    hf.ViTImageProcessor(size={"height": 32, "width": 32}, **plain).save_pretrained(folder / "v")
    hf.BertConfig(**TEXT, **still).save_pretrained(folder / "t")
    models = {"vision_model": str(folder / "v"), "text_model": str(folder / "t"), "from_scratch": True}
    return {**models, "use_cpu": True, "disable_tqdm": True}


@pytest.mark.slow
def test_two_ranks_equal_one_by_the_same_yaml(tmp_path: Path) -> None:
    arguments = models_without_dropout(tmp_path) | {"data": "controlled:unique", "dropout": 0, "augment": True}
    arguments |= {"max_train_samples": 96, "max_eval_samples": 33, "max_predict_samples": 40}
    arguments |= {"num_train_epochs": 3, "hidden_size": 16, "dataloader_num_workers": 1}
    arguments |= {"load_best_model_at_end": False, "save_strategy": "no"}  # the last step's weights are compared
    arguments |= {"total_train_batch_size": 16}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(arguments))

    run_two_ranks(Path(__file__).parents[1].joinpath("two_ranks.py"), str(tmp_path), "--config", str(config))
    two = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert two["run"]["world_size"] == 2

    one = train(["--config", str(config), "--output_dir", str(tmp_path / "one")])
    assert two["run"]["examples_per_step"] == one["run"]["examples_per_step"] == 16
    assert one["run"]["world_size"] == 1
    assert two["run"]["steps"] == one["run"]["steps"] == 18
    for split in ("validation", "test"):
        assert two[split]["count"] == one[split]["count"]
        for name in ("accuracy", "nll", "brier"):
            assert two[split][name] == pytest.approx(one[split][name], abs=TOLERANCE), (split, name)

    looks = [json.loads((tmp_path / "look" / f"rank_{rank}.json").read_text()) for rank in range(2)]
    assert [look["world_size"] for look in looks] == [2, 2]
    orders = []
    for epoch in range(3):
        first, second = (look["seen"][epoch] for look in looks)
        assert {colour[0] for colour in first + second} == {epoch}
        assert sorted(colour[1] for colour in first + second) == list(range(24))
        orders.append([colour[1] for colour in first])
    assert orders[0] != orders[1] != orders[2]


def test_a_rank_without_any_image_trains_to_the_same_weights(tmp_path: Path) -> None:
    run_two_ranks(Path(__file__).parents[1].joinpath("two_ranks_missing.py"), str(tmp_path))
    for vision, checkpointing in (("vit", False), ("vit", True), ("resnet", False)):
        expected = step_weights(vision, checkpointing, rank=None)
        for rank in range(2):
            found = torch.load(tmp_path / f"{vision}-{checkpointing}-{rank}.pt")
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=0, atol=1e-12)


def test_negatives_of_two_ranks_are_those_of_the_doubled_batch(tmp_path: Path) -> None:
    run_two_ranks(Path(__file__).parents[1].joinpath("two_ranks_aligner.py"), str(tmp_path))
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for case in CASES:
        expected = step(*case, rank=None)
        assert expected["loss"] > 0 and expected["incomplete_pairs"] == 4
        for found in ranks:
            for name, value in expected.items():
                torch.testing.assert_close(found[case][name], value, rtol=0, atol=1e-10, msg=f"{case} {name}")


def test_two_ranks_train_an_aligner_as_one_does(tmp_path: Path) -> None:
    """Several steps, in chunks: what DDP keeps of one step must not reach the next."""
    arguments = models_without_dropout(tmp_path) | {"data": "controlled:retrieval", "projection_dim": 16}
    arguments |= {"max_train_samples": 48, "max_eval_samples": 12, "max_predict_samples": 12}
    arguments |= {"num_train_epochs": 2, "total_train_batch_size": 12, "gradient_cache_chunk_size": 4}
    arguments |= {"load_best_model_at_end": False, "save_strategy": "no", "dataloader_num_workers": 0}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(arguments))
    script = Path(__file__).parents[2] / "scripts" / "train_aligner.py"
    run_two_ranks(script, "--config", str(config), "--output_dir", str(tmp_path / "two"))
    one = train_aligner(["--config", str(config), "--output_dir", str(tmp_path / "one")])
    two = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert (one["run"]["world_size"], two["run"]["world_size"]) == (1, 2)
    assert one["run"]["steps"] == two["run"]["steps"] == 8
    assert one["run"]["examples_per_step"] == two["run"]["examples_per_step"] == 12
    weights = load_file(tmp_path / "two" / "model.safetensors")
    for name, value in load_file(tmp_path / "one" / "model.safetensors").items():
        # The softmax of attention cancels the bias of keys: its gradient is rounding, which Adam makes large.
        if not name.endswith(("k_proj.bias", "key.bias")):
            torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-5, msg=name)
