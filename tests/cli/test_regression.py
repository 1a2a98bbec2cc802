"""Regression on targets of any unit."""

import json
from pathlib import Path

import pytest
import torch
from conftest import TEXT_CONFIGS, VISION_CONFIGS, make_batch
from PIL import Image
from test_scripts import FAST, script, write_table

from hf_multimodal import FusionConfig, FusionForImageTextClassification, RobustFusionForImageTextClassification

FAMILIES = [FusionForImageTextClassification, RobustFusionForImageTextClassification]
RUN = [
    *FAST,
    "--num_train_epochs",
    "10",
    "--early_stopping_patience",
    "0",
    "--problem_type",
    "regression",
    "--seed",
    "1",
]


def make_model(family: type, **fields):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    config = family.config_class(
        vision_config=VISION_CONFIGS["vit"](),
        text_config=TEXT_CONFIGS["bert"](),
        hidden_size=16,
        num_labels=1,
        problem_type="regression",
        **fields,
    )
    return family(config).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_in_the_unit_of_the_targets_and_the_loss_in_deviations(family: type, tmp_path: Path) -> None:
    plain, scaled = make_model(family), make_model(family, target_mean=[50.0], target_deviation=[20.0])
    scaled.load_state_dict(plain.state_dict())
    batch = make_batch()
    targets = torch.tensor([10.0, 60.0, 50.0, 90.0])
    with torch.no_grad():
        expected = plain(**batch, labels=(targets - 50) / 20)
        found = scaled(**batch, labels=targets)
    torch.testing.assert_close(found.logits, expected.logits * 20 + 50, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=1e-6)
    if family is RobustFusionForImageTextClassification:
        for name in ("joint_logits", "image_logits", "text_logits"):
            torch.testing.assert_close(found[name], expected[name] * 20 + 50, rtol=1e-6, atol=1e-5)
    scaled.save_pretrained(tmp_path)
    again = family.from_pretrained(tmp_path)
    assert again.config.target_mean == [50.0] and again.config.target_deviation == [20.0]
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(**batch).logits, found.logits, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"target_mean": [1.0]}, "target_mean and target_deviation go together"),
        (
            {"target_mean": [1.0, 2.0], "target_deviation": [1.0, 2.0]},
            r"target_mean needs one number an output \(1\), got",
        ),
        ({"target_mean": [1.0], "target_deviation": [0.0]}, r"target_deviation must be above 0, got \[0.0\]"),
    ],
)
def test_scales_that_do_not_fit_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FusionConfig(num_labels=1, problem_type="regression", **fields)


def make_prices(folder: Path) -> tuple[Path, Path]:
    """One table of prices from 5 to 130, told half by the image and half by the text, and one standardised."""
    prices, rows = [], []
    for number in range(160):
        red, word = number % 5, (number // 5) % 4
        Image.new("RGB", (16, 16), (20 + 50 * red, 60, 60)).save(folder / f"{number}.png")
        prices.append(5.0 + 15 * red + 20 * word + number % 3)
        text = f"a {['tiny', 'small', 'large', 'huge'][word]} thing"
        split = ["train", "train", "train", "validation", "test"][(number // 20) % 5]
        rows.append({"id": f"r{number}", "image": f"{number}.png", "text": text, "label": "", "split": split})
    training = torch.tensor([p for p, row in zip(prices, rows, strict=True) if row["split"] == "train"])
    standard = ((torch.tensor(prices) - training.mean()) / training.std(unbiased=False)).tolist()
    tables = []
    for name, values in (("prices", prices), ("standard", standard)):
        filled = [{**row, "label": repr(float(value))} for row, value in zip(rows, values, strict=True)]
        tables.append(write_table(folder / f"{name}.csv", filled))
    return tables[0], tables[1]


@pytest.mark.slow  # two trainings
def test_prices_are_learned_as_well_as_when_they_are_standardised_by_hand(tmp_path: Path) -> None:
    prices, standard = make_prices(tmp_path)
    train = script("train_fusion")
    scaled = train(["--data", str(prices), "--output_dir", str(tmp_path / "scaled"), *RUN])
    by_hand = train(["--data", str(standard), "--output_dir", str(tmp_path / "hand"), *RUN, "--no_target_scaling"])
    assert by_hand["test"]["r2"] > 0.9
    assert scaled["test"]["r2"] == pytest.approx(by_hand["test"]["r2"], abs=0.01)
    in_unit = by_hand["test"]["mae"] * scaled_deviation(tmp_path)
    assert 0.5 * in_unit < scaled["test"]["mae"] < 1.05 * in_unit
    card = (tmp_path / "scaled" / "README.md").read_text()
    assert "It learned the targets scaled by the mean" in card and "answers in their own unit" in card
    assert "scaled by the mean" not in (tmp_path / "hand" / "README.md").read_text()


def scaled_deviation(folder: Path) -> float:
    return json.loads((folder / "scaled" / "config.json").read_text())["target_deviation"][0]
