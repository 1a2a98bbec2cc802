"""Rows of images and captions: what names an image, how its captions are joined, split and drawn."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_processor import make_image_processor, make_tokenizer

from hf_multimodal import MultimodalProcessor
from hf_multimodal.data.loading import load_data
from hf_multimodal.data.pair_collator import PairCollator
from hf_multimodal.data.pairs import group_pairs
from hf_multimodal.data.splits import complete_splits
from hf_multimodal.inference.embedding import embed_images


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Ten images with three captions each, two rows of which lack a side."""
    path = tmp_path / "captions.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "id", "kind", "label"])
        for number in range(10):
            Image.new("RGB", (8, 8), (20 * number, 9, 9)).save(tmp_path / f"{number}.png")
            for caption in range(3):
                writer.writerow([f"{number}.png", f"caption {caption} of {number}", number, "ab"[number % 2], "0.5"])
        writer.writerow(["", "of nothing", 10, "a", "0.5"])
        writer.writerow(["0.png", " ", 0, "a", "0.5"])
    return path


def test_a_image_is_named_by_its_path_and_keeps_its_captions(table):
    data = load_data(table, pairs=True, id_column="caption", group_column="kind")
    assert data.columns["text"] == "caption" and set(data.splits["train"]["label"]) == {None}  # .5 is no class
    images, incomplete = group_pairs(data.splits["train"])
    assert incomplete == 2 and len(images) == 10
    assert images[3]["texts"] == [f"caption {caption} of 3" for caption in range(3)]
    assert Path(images[3]["id"]).name == "3.png" and images["index"][:] == list(range(10))
    assert images["group"][:] == ["a", "b"] * 5


def test_a_column_may_name_the_image(table):
    named = load_data(table, pairs=True, image_id_column="id")  # and is then no id of the rows
    assert group_pairs(named.splits["train"])[0]["id"][:] == [str(number) for number in range(10)]
    with pytest.raises(ValueError, match=r"no column 'kidn' \(group_by\), .* Did you mean 'kind'\?"):
        load_data(table, pairs=True, group_column="kidn")
    with pytest.raises(ValueError, match=r"no column 'imag_id' \(image_id_column\)"):
        load_data(table, pairs=True, image_id_column="imag_id")


def test_the_captions_of_a_image_stay_on_one_side_of_a_split(table):
    rows = load_data(table, pairs=True, image_id_column="id").splits
    splits = complete_splits(rows)
    sides = [set(part["image_id"]) for part in splits.values()]
    assert set(splits) == {"train", "validation", "test"} and sum(map(len, sides)) == len(set().union(*sides)) == 11


def test_controlled_images_are_all_different():
    data = load_data("controlled:retrieval", pairs=True, group_column="colour", splits=["test"], test_size=30)
    images, incomplete = group_pairs(data.splits["test"])
    assert len(images) == 30 and incomplete == 0
    assert images["group"][:] == list(map(str, data.splits["test"]["colour"]))


def test_captions_are_drawn_by_seed_epoch_and_image(table):
    images, _ = group_pairs(load_data(table, pairs=True, id_column="caption").splits["train"])
    rows = [images[number] for number in (4, 2)]
    processor = MultimodalProcessor(make_image_processor(), make_tokenizer())
    seen = []
    processor.tokenizer.__class__ = type("Spy", (type(processor.tokenizer),), {"__call__": spy(seen)})
    collator = PairCollator(processor, captions_per_image=2, seed=3)
    batch = collator(rows)
    assert batch["image_ids"].tolist() == [4, 4, 2, 2] and batch["return_loss"] is True
    assert len(batch["pixel_values"]) == 2 and len(batch["input_ids"]) == 4 and "modality_mask" not in batch
    collator(rows[::-1])
    collator.epoch.fill_(1)
    for _ in range(2):
        collator(rows)
    first, turned, later, again = seen
    assert [text[-1] for text in first] == ["4", "4", "2", "2"] and first[0] != first[1]
    assert turned == first[2:] + first[:2] and later == again != first
    draws = [tuple(PairCollator(processor, captions_per_image=5, seed=seed)._draw(rows[0])) for seed in range(4)]
    assert all(set(draw) == set(rows[0]["texts"]) and len(draw) == 5 for draw in draws) and len(set(draws)) > 1
    with pytest.raises(ValueError, match="captions_per_image must be 1 or more, got 0"):
        PairCollator(processor, captions_per_image=0)


def spy(seen):
    def call(self, text, **kwargs):
        seen.append(text)
        return super(type(self), self).__call__(text, **kwargs)

    return call


def test_cached_features_are_embedded_in_the_place_of_images():
    class Cache:
        def batch(self, images):
            return torch.tensor([[float(image)] for image in images])

    class Model(torch.nn.Module):
        device = torch.device("cpu")

        def get_image_features(self, pixel_values):
            return type("Output", (), {"pooler_output": torch.cat([pixel_values, torch.ones_like(pixel_values)], 1)})

    embeds, rows, bad = embed_images(Model(), None, [0, 1, 2], batch_size=2, feature_cache=Cache())
    assert rows == [0, 1, 2] and not bad
    np.testing.assert_allclose(embeds[:, 0] / embeds[:, 1], [0, 1, 2], atol=1e-6)


def test_rows_that_group_pairs_did_not_make_are_named() -> None:
    processor = MultimodalProcessor(make_image_processor(), make_tokenizer())
    rows = [{"image": Image.new("RGB", (4, 4)), "texts": ["a"]}]
    with pytest.raises(ValueError, match=r"\['image', 'texts'\] is no row of group_pairs: it lacks \['index'\]"):
        PairCollator(processor)(rows)
