"""Who lacks what: drawn tables, hiding, and the presence that training modality dropouts."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import training_data
from datasets import Dataset
from PIL import Image

from hf_multimodal.data.counts import presence
from hf_multimodal.data.presence import MissingRate, ModalityDropout, hide, uniform, what_is_left, write_presence
from hf_multimodal.synthetic.classification import make_controlled


@pytest.mark.parametrize(
    ("text", "counts"),
    [("both:0.7", (65, 65)), ("text:0.9", (100, 10)), ("image:0.5", (50, 100)), ("both:0", (100, 100))],
)
def test_an_exact_share_lacks_something_and_nobody_lacks_both(text, counts):
    present = MissingRate.parse(text).draw(100, seed=3)
    assert tuple(present.sum(axis=0)) == counts
    assert present.any(axis=1).all()


@pytest.mark.parametrize("which", ["both", "image", "text"])
def test_who_lacks_something_at_a_low_rate_lacks_the_same_at_a_high_one(which):
    low, high = (MissingRate(which, rate).draw(1000, seed=1) for rate in (0.3, 0.7))
    assert (high <= low).all() and not (high == low).all()
    assert not np.array_equal(low, MissingRate(which, 0.3).draw(1000, seed=2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("both", r"missing must be one of \['both', 'image', 'text'\] and a rate, as in 'both:0.7', got 'both'"),
        ("both:x", "missing must be one of .* got 'both:x'"),
        ("img:0.5", "missing must be one of .* got 'img'"),
        ("text:1.5", r"the rate of missing 'text' must lie in \[0, 1\], got 1.5"),
        ("text:nan", r"the rate of missing 'text' must lie in \[0, 1\], got nan"),
    ],
)
def test_a_rate_that_makes_no_sense_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        MissingRate.parse(text)


def test_hiding_leaves_everything_else_as_it_was():
    rows = make_controlled("unique", size=6).select([4, 2, 0, 5])
    present = np.array([[1, 1], [0, 1], [1, 0], [0, 0]], dtype=bool)
    left = hide(rows, present)
    assert left.features == rows.features and left.column_names == rows.column_names
    assert np.array_equal(presence(left), present)
    for name in rows.column_names:
        kept = {"image": present[:, 0], "text": present[:, 1]}.get(name, np.ones(4, dtype=bool))
        for before, after, stays in zip(rows[:][name], left[:][name], kept, strict=True):
            assert after == before if stays else after is None


def test_a_row_that_would_be_left_with_nothing_keeps_what_it_had():
    rows = Dataset.from_dict({"image": [None] * 4 + ["a.jpg"] * 4, "text": ["words"] * 8})
    left = what_is_left(presence(rows), MissingRate("text", 1.0).draw(8, seed=0))
    assert left.tolist() == [[False, True]] * 4 + [[True, False]] * 4


def test_a_blank_text_is_none():
    columns = {"image": [None, "a", None, "b"], "text": ["a dog", "", None, " \t"]}
    expected = [[False, True], [True, False], [False, False], [True, False]]
    assert presence(Dataset.from_dict(columns)).tolist() == expected
    columns["text"] = [None] * 4  # a column of no type
    assert not presence(Dataset.from_dict(columns))[:, 1].any()


def test_presence_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"presence must have shape \(2, 2\), got \(3, 2\)"):
        hide(Dataset.from_dict({"image": [None] * 2, "text": ["a", "b"]}), np.ones((3, 2), dtype=bool))


def test_the_table_of_presence(tmp_path: Path):
    rows = Dataset.from_dict({"id": ["a", "b,c"], "image": ["x.jpg", None], "text": [None, "words"]})
    write_presence(tmp_path / "presence.csv", {"train": rows})
    with open(tmp_path / "presence.csv", newline="", encoding="utf-8") as stream:
        assert list(csv.DictReader(stream)) == [
            {"split": "train", "id": "a", "has_image": "1", "has_text": "0"},
            {"split": "train", "id": "b,c", "has_image": "0", "has_text": "1"},
        ]


def test_the_modality_dropout_depends_on_seed_epoch_and_example_only():
    index, mask = torch.arange(4000), torch.ones(4000, 2, dtype=torch.long)
    modality_dropout = ModalityDropout(seed=5)
    first = modality_dropout(2, index, mask)
    order = torch.randperm(4000)
    assert torch.equal(modality_dropout(2, index[order], mask), first[order])
    shares = [
        (first == torch.tensor(pattern)).all(dim=1).float().mean().item() for pattern in ([1, 1], [1, 0], [0, 1])
    ]
    assert shares == pytest.approx([0.7, 0.15, 0.15], abs=0.03)
    for other in (modality_dropout(3, index, mask), ModalityDropout(seed=6)(2, index, mask)):
        same = (other == first).all(dim=1).float().mean().item()
        assert same == pytest.approx(0.535, abs=0.03)  # as independent draws agree: .7² + .15² + .15²


def test_an_incomplete_example_keeps_its_pattern():
    mask = torch.tensor([[1, 0], [0, 1], [0, 0]]).repeat(50, 1)
    assert torch.equal(ModalityDropout(0)(0, torch.arange(150), mask), mask)


@pytest.mark.parametrize(
    ("counts", "shares"),
    [  # rows with both, image only, text only, neither; what the complete ones among them show
        ((100, 0, 0, 0), (0.7, 0.15, 0.15)),
        ((80, 10, 10, 30), (0.875, 0.0625, 0.0625)),
        ((30, 35, 35, 0), (1.0, 0.0, 0.0)),
        ((60, 30, 10, 0), (11 / 12, 0.0, 1 / 12)),
        ((10, 90, 0, 0), (0.85, 0.0, 0.15)),
        ((0, 5, 5, 0), (1.0, 0.0, 0.0)),
    ],
)
def test_no_more_is_hidden_than_incomplete_rows_leave_to_hide(counts, shares):
    present = np.repeat([[True, True], [True, False], [False, True], [False, False]], counts, axis=0)
    assert ModalityDropout.for_rows(present, seed=3).shares == pytest.approx(shares)
    assert ModalityDropout.for_rows(present, seed=3, shares=(1, 0, 0)).shares == (1.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="three numbers from 0 that sum to 1"):
        ModalityDropout.for_rows(present, seed=3, shares=(0.5, 0.5, 0.5))


def test_uniform_numbers_are_uniform():
    numbers = torch.cat([uniform(seed, epoch, torch.arange(500)) for seed in range(4) for epoch in range(4)])
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = torch.histc(numbers, bins=10, min=0, max=1)
    assert ((counts - 800) ** 2 / 800).sum() < 27.9  # chi-squared with 9 degrees of freedom, one in a thousand
    assert len(numbers.unique()) == len(numbers)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.25, 0.2), (1.5, -0.25, -0.25)])
def test_shares_that_do_not_sum_to_one_are_refused(shares):
    with pytest.raises(ValueError, match="three numbers from 0 that sum to 1"):
        ModalityDropout(0, shares)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """100 rows of text of which the first ten have no image."""
    lines = ["image,text,label"]
    for number in range(100):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
        lines.append(f"{'' if number < 10 else f'{number}.png'},text {number},{number % 2}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    return tmp_path / "table.csv"


def prepared(table: Path, modality: str, **options) -> dict[str, dict[int, tuple[bool, bool]]]:
    """Index to presence, by split."""
    data, _ = training_data(modality, data=str(table), **options)
    return {
        name: dict(zip(rows["index"], map(tuple, presence(rows).tolist()), strict=True))
        for name, rows in data.splits.items()
    }


def test_runs_of_other_modalities_lose_the_same(table):
    options = {"missing": "both:0.5", "eval_missing": "text:0.5"}
    both = prepared(table, "both", **options)
    image = prepared(table, "image", on_bad_sample="drop", **options)
    complete = prepared(table, "both", complete_only=True, **options)
    assert len(both["train"]) == 70
    assert image["train"] == {index: has for index, has in both["train"].items() if has[0]}
    assert complete["train"] == {index: has for index, has in both["train"].items() if all(has)}
    assert image["test"] == complete["test"] == both["test"] and len(both["test"]) == 20
    assert all(index >= 10 or has == (False, True) for index, has in both["train"].items())


def test_training_and_test_rows_lose_theirs_separately(table):
    found = prepared(table, "both", eval_missing="image:1")
    assert not any(image for image, _ in found["test"].values())
    assert all(image for index, (image, _) in found["train"].items() if index >= 10)


def test_no_row_left_is_an_error(table):
    with pytest.raises(ValueError, match="no usable row is left in the split 'train'"):
        prepared(table, "both", missing="text:1", complete_only=True)
