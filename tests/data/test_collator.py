"""The collator: what a batch holds, what it refuses, and that its epoch reaches the workers."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import ViTImageProcessor

from hf_multimodal import MultimodalCollator, MultimodalProcessor
from hf_multimodal.data.images import BadImageError
from hf_multimodal.training.from_scratch import train_tokenizer

TOKENIZER = train_tokenizer(["a red square", "one two three four five six seven"])
IMAGES = ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.0] * 3, image_std=[1.0] * 3)


@pytest.fixture
def processor() -> MultimodalProcessor:
    return MultimodalProcessor(IMAGES, TOKENIZER)


def png(value: int = 255) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value,) * 3).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def row(**changes: Any) -> dict[str, Any]:
    return {"image": png(), "text": "a red square", "label": 1, "id": "x", "index": 0, **changes}


def test_a_batch_of_all_kinds_of_images(processor: MultimodalProcessor, tmp_path: Any) -> None:
    Image.new("RGB", (8, 8), (51,) * 3).save(tmp_path / "p.png")
    images = [png(), {"bytes": None, "path": str(tmp_path / "p.png")}, Image.new("RGB", (8, 8), (102,) * 3), None]
    batch = MultimodalCollator(processor)([row(image=image) for image in images])
    assert batch["pixel_values"].shape == (4, 3, 8, 8)
    assert batch["pixel_values"].amax(dim=(1, 2, 3)).tolist() == pytest.approx([1.0, 0.2, 0.4, 0.0])
    assert batch["modality_mask"].tolist() == [[1, 1], [1, 1], [1, 1], [0, 1]]


def test_texts_are_padded_to_the_longest_of_the_batch(processor: MultimodalProcessor) -> None:
    collator = MultimodalCollator(processor)
    short, long = row(), row(text="one two three four five six seven")
    assert collator([short, short])["input_ids"].shape == (2, 5)
    batch = collator([short, long, row(text=None)])
    assert batch["input_ids"].shape == (3, 9)
    assert batch["attention_mask"].sum(dim=1).tolist() == [5, 9, 0]
    assert batch["modality_mask"][:, 1].tolist() == [1, 1, 0]
    assert MultimodalCollator(processor, max_length=6)([short, long])["input_ids"].shape == (2, 6)


def test_all_texts_go_through_the_tokenizer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    tokenizer = train_tokenizer(["a red square"])
    original = type(tokenizer).__call__

    def count(self: Any, text: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(text)
        return original(self, text, *args, **kwargs)

    monkeypatch.setattr(type(tokenizer), "__call__", count)
    MultimodalCollator(MultimodalProcessor(None, tokenizer))([row(), row(text="red")])
    assert calls == [["a red square", "red"]]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([2, 0], torch.tensor([2, 0])),
        ([[1.0, 0.0], [0.0, 1.0]], torch.tensor([[1.0, 0.0], [0.0, 1.0]])),
        ([0.25, 3.0], torch.tensor([0.25, 3.0])),
    ],
)
def test_labels_keep_their_kind(processor: MultimodalProcessor, labels: list, expected: torch.Tensor) -> None:
    found = MultimodalCollator(processor)([row(label=label) for label in labels])["labels"]
    assert torch.equal(found, expected) and found.dtype == expected.dtype


def test_unlabelled_rows_give_no_labels(processor: MultimodalProcessor) -> None:
    assert "labels" not in MultimodalCollator(processor)([row(label=None), row(label=None)])
    with pytest.raises(ValueError, match=r"1 of 2 rows have no label in column 'label': \['b'\]"):
        MultimodalCollator(processor)([row(), row(label=None, id="b")])


def test_labels_that_the_model_has_not_are_refused(processor: MultimodalProcessor) -> None:
    known = MultimodalCollator(processor, num_labels=3)
    assert known([row(label=2), row(label=-100)])["labels"].tolist() == [2, -100]
    for label in (3, -1):
        message = rf"label of row 'b', column 'label', is {label}, but the model has 3 classes, 0 to 2: num_labels or"
        with pytest.raises(ValueError, match=message):
            known([row(), row(label=label, id="b")])
    with pytest.raises(ValueError, match="2 labels each in column 'label', but the model has 3: num_labels or id2"):
        known([row(label=[0.0, 1.0])])
    assert known([row(label=[0.0, 1.0, -100.0])])["labels"].tolist() == [[0, 1, -100]]
    for numbers in (None, 1):  # not known, or those of a regression
        assert MultimodalCollator(processor, num_labels=numbers)([row(label=-7)])["labels"].tolist() == [-7]


def test_an_empty_example_is_kept_out_of_training(processor: MultimodalProcessor) -> None:
    rows = [row(), row(image=None, text=" ", id="b")]
    with pytest.raises(ValueError, match=r"1 of 2 labelled examples have neither image nor text, such as \['b'\]"):
        MultimodalCollator(processor)(rows)
    assert MultimodalCollator(processor, on_empty="keep")(rows)["modality_mask"].tolist() == [[1, 1], [0, 0]]
    unlabelled = [{**one, "label": None} for one in rows]
    assert MultimodalCollator(processor)(unlabelled)["modality_mask"].tolist() == [[1, 1], [0, 0]]
    with pytest.raises(ValueError, match=r"1 of 2 labelled examples have no text, such as \['b'\]"):
        MultimodalCollator(MultimodalProcessor(None, TOKENIZER))([row(), row(text=None, id="b")])
    with pytest.raises(ValueError, match=r"on_empty must be one of \['error', 'keep'\], got 'kep'"):
        MultimodalCollator(processor, on_empty="kep")


def test_a_text_model_opens_no_image() -> None:
    collator = MultimodalCollator(MultimodalProcessor(None, TOKENIZER))
    batch = collator([row(image={"bytes": b"no image", "path": None})])
    assert "pixel_values" not in batch
    batch = MultimodalCollator(MultimodalProcessor(IMAGES, None))([row(text=3.5)])
    assert "input_ids" not in batch


def test_a_bad_image_is_named(processor: MultimodalProcessor) -> None:
    bad = row(image={"bytes": None, "path": "gone.png"}, id="7")
    with pytest.raises(BadImageError, match=r"image 'gone.png \(row 7, column image\)' is missing: there is no such"):
        MultimodalCollator(processor)([bad])
    with pytest.warns(UserWarning, match=r"gone.png \(row 7, column image\)' is missing: .* as one without an image"):
        batch = MultimodalCollator(processor, on_bad_image="missing")([bad, row()])
    assert batch["modality_mask"].tolist() == [[0, 1], [1, 1]]


def test_a_image_that_pillow_opened_and_cannot_read_goes_by_the_policy(processor, tmp_path) -> None:
    content = io.BytesIO()
    Image.effect_noise((60, 60), 90).save(content, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(content.getvalue()[:1000])
    with pytest.raises(BadImageError, match=r"cut.jpg \(row 7, column image\)' is truncated"):
        MultimodalCollator(processor)([row(image=Image.open(tmp_path / "cut.jpg"), id="7")])
    with pytest.warns(UserWarning, match=r"cut.jpg \(row 7, column image\)' is truncated: .* as one without an image"):
        batch = MultimodalCollator(processor, on_bad_image="missing")(
            [row(image=Image.open(tmp_path / "cut.jpg"), id="7"), row()]
        )
    assert batch["modality_mask"].tolist() == [[0, 1], [1, 1]]


def test_typos_are_errors(processor: MultimodalProcessor) -> None:
    with pytest.raises(ValueError, match=r"on_bad_image must be one of \['error', 'missing'\], got 'mising'"):
        MultimodalCollator(processor, on_bad_image="mising")
    with pytest.raises(ValueError, match=r"no column 'txt', only .* Did you mean 'text'\?.*remove_unused_columns"):
        MultimodalCollator(processor, text_column="txt")([row()])
    with pytest.raises(ValueError, match="holds words such as 'dog': number them by dataset.class_encode_column"):
        MultimodalCollator(processor)([row(label="dog")])


def test_augmentation_is_told_epoch_and_index(processor: MultimodalProcessor) -> None:
    seen = []

    def augment(image: Image.Image, epoch: int, index: int) -> Image.Image:
        seen.append((epoch, index))
        return image

    collator = MultimodalCollator(processor, augment=augment)
    collator.epoch.fill_(3)
    collator([row(index=11), row(image=None, index=12), row(index=13)])
    assert seen == [(3, 11), (3, 13)]


def paint_epoch(image: Image.Image, epoch: int, index: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (51 * epoch,) * 3)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_the_epoch_reaches_workers_that_live_on(processor: MultimodalProcessor, context: str) -> None:
    collator = MultimodalCollator(processor, augment=paint_epoch)
    loader = DataLoader(
        [row(index=index) for index in range(4)],  # type: ignore[arg-type]
        batch_size=1,
        num_workers=2 if context == "fork" else 1,
        persistent_workers=True,
        collate_fn=collator,
        multiprocessing_context=context,
    )
    for epoch in range(3):
        collator.epoch.fill_(epoch)
        pixels = np.concatenate([batch["pixel_values"].numpy() for batch in loader])
        assert np.unique(pixels.round(3)).tolist() == pytest.approx([0.2 * epoch])


def test_an_absent_key_is_a_missing_modality(processor: MultimodalProcessor, recwarn: pytest.WarningsRecorder) -> None:
    whole = {"__key__": "s0", "image": png(), "text": "a red square", "label": 1}
    no_image = {"__key__": "s1", "text": "a red square", "label": 0}
    no_text = {"__key__": "s2", "image": png(), "label": 0}
    batch = MultimodalCollator(processor)([whole, no_image, no_text])
    assert batch["modality_mask"].tolist() == [[1, 1], [0, 1], [1, 0]]
    assert torch.equal(batch["pixel_values"][1], torch.zeros(3, 8, 8))
    cached = MultimodalCollator(processor, feature_cache=Cache())([whole, no_image])
    assert cached["modality_mask"].tolist() == [[1, 1], [0, 1]]
    assert not recwarn.list


class Cache:
    """What stands for a feature cache."""

    def batch(self, images: list, epoch: int | None) -> torch.Tensor:
        return torch.zeros(len(images), 2)


def test_a_row_without_either_key_is_named(processor: MultimodalProcessor) -> None:
    keys = ({"__key__": "s7"}, "'s7'"), ({"index": 12}, "12"), ({}, "1")
    for key, name in keys:
        empty = {**key, "label": 1}
        message = rf"1 of 2 labelled examples have neither image nor text, such as \[{name}\]: leave them out"
        with pytest.raises(ValueError, match=message):
            MultimodalCollator(processor)([row(), empty])
        kept = MultimodalCollator(processor, on_empty="keep")([row(), empty])
        assert kept["modality_mask"].tolist() == [[1, 1], [0, 0]]
    with pytest.raises(ValueError, match=r"1 of 2 rows have no label in column 'label': \['s7'\]"):
        MultimodalCollator(processor)([row(), {"__key__": "s7", "text": "a"}])
    with pytest.raises(BadImageError, match=r"gone.png \(row s7, column image\)' is missing"):
        MultimodalCollator(processor)([{"__key__": "s7", "image": {"bytes": None, "path": "gone.png"}}])


def test_columns_that_no_row_has_were_taken_away_or_mistyped(processor: MultimodalProcessor) -> None:
    with pytest.raises(ValueError, match=r"no column 'image', only \['label'\].*remove_unused_columns=False"):
        MultimodalCollator(processor)([{"label": 1}, {"label": 0}])
    with pytest.raises(ValueError, match=r"no column 'text', only .*remove_unused_columns=False"):
        MultimodalCollator(MultimodalProcessor(None, TOKENIZER))([{"image": png(), "label": 1}])
    with pytest.raises(ValueError, match=r"no column 'image', only \['images', 'text'\]. Did you mean 'images'\?"):
        MultimodalCollator(processor)([{"images": png(), "text": "a"}])
    with pytest.warns(
        UserWarning, match=r"no row of a batch has a column 'image', only \['photo', 'text'\]: it is tak"
    ):
        batch = MultimodalCollator(processor)([{"photo": png(), "text": "a"}] * 2)
    assert batch["modality_mask"].tolist() == [[0, 1], [0, 1]]


def test_max_length_beyond_the_tokenizers_is_refused() -> None:
    tokenizer = train_tokenizer(["a red square"])
    tokenizer.model_max_length = 12
    processor = MultimodalProcessor(None, tokenizer)
    assert MultimodalCollator(processor, max_length=12).max_length == 12
    with pytest.raises(ValueError, match=r"max_length must be at most 12, which the text model reads .*, got 13"):
        MultimodalCollator(processor, max_length=13)
