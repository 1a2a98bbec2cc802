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
from two_ranks_aligner import CASES, step
from two_ranks_missing import step_weights

from hf_multimodal.training.running import train

TOLERANCE = 1e-4  # of metrics and probabilities: sums are rounded in another order


def test_two_ranks_equal_one_by_the_same_yaml(tmp_path: Path) -> None:
    hf.ViTConfig(**PATCHES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).save_pretrained(tmp_path / "v")
    plain = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    hf.ViTImageProcessor(size={"height": 32, "width": 32}, **plain).save_pretrained(tmp_path / "v")
    hf.BertConfig(**TEXT, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).save_pretrained(tmp_path / "t")
    arguments = {
        "data": "controlled:unique",
        "from_scratch": True,
        "use_cpu": True,
        "disable_tqdm": True,
        "dropout": 0,
    }
    arguments |= {"vision_model": str(tmp_path / "v"), "text_model": str(tmp_path / "t"), "augment": True}
    arguments |= {"max_train_samples": 96, "max_eval_samples": 33, "max_predict_samples": 40, "disable_tqdm": True}
    arguments |= {"num_train_epochs": 3, "hidden_size": 16, "dataloader_num_workers": 1}
    arguments |= {"load_best_model_at_end": False, "save_strategy": "no"}  # the last step's weights are compared
    arguments |= {"per_device_train_batch_size": 16}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(arguments))

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    program = [str(Path(__file__).with_name("two_ranks.py")), str(tmp_path), "--config", str(config)]
    result = subprocess.run(
        [*command, *program],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
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
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    program = [str(Path(__file__).with_name("two_ranks_missing.py")), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([*command, *program], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    for vision, checkpointing in (("vit", False), ("vit", True), ("resnet", False)):
        expected = step_weights(vision, checkpointing, rank=None)
        for rank in range(2):
            found = torch.load(tmp_path / f"{vision}-{checkpointing}-{rank}.pt")
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=0, atol=1e-12)


def test_negatives_of_two_ranks_are_those_of_the_doubled_batch(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    program = [str(Path(__file__).with_name("two_ranks_aligner.py")), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([*command, *program], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for case in CASES:
        expected = step(*case, rank=None)
        assert expected["loss"] > 0 and expected["incomplete_pairs"] == 4
        for found in ranks:
            for name, value in expected.items():
                torch.testing.assert_close(found[case][name], value, rtol=0, atol=1e-10, msg=f"{case} {name}")
