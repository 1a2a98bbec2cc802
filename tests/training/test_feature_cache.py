"""States of frozen layers: reading them equals computing them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PATCHES, VISION_CONFIGS, make_batch
from test_fusion_model import make_model
from transformers import ViTConfig, ViTImageProcessor

from hf_multimodal import MultimodalCollator, MultimodalProcessor
from hf_multimodal.cli.train_fusion import main as train
from hf_multimodal.data.augmentation import ImageAugmentation
from hf_multimodal.data.images import open_image
from hf_multimodal.synthetic.classification import make_controlled
from hf_multimodal.training.feature_cache import FeatureCache, features_after, image_key, images_of, reading_features
from hf_multimodal.training.freezing import freeze_layers

HAND_ON_TUPLES = ("swin",)


@pytest.mark.parametrize("name", VISION_CONFIGS)
def test_a_model_that_reads_states_gives_what_it_gives_on_images(name):
    model = make_model(name).eval()
    pixels = make_batch()["pixel_values"]
    if name in HAND_ON_TUPLES:
        with pytest.raises(ValueError, match="hand on a tuple, not one tensor"):
            features_after(model.vision_model, 1, pixels)
        return
    with torch.no_grad():
        expected = model(pixel_values=pixels)
        states = features_after(model.vision_model, 1, pixels)
        with reading_features(model.vision_model, 1):
            found = model(pixel_values=states)
        again = model(pixel_values=pixels)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-6)
    assert torch.equal(again.logits, expected.logits)


@pytest.fixture
def kept(tmp_path):
    rows = make_controlled("unique", size=6)
    model = make_model()
    freeze_layers(model, "vision", 1)
    image_processor = ViTImageProcessor(size={"height": 32, "width": 32})
    return rows, model, image_processor, tmp_path / "states"


def test_states_are_computed_once_and_found_by_content(kept):
    rows, model, image_processor, folder = kept
    first = FeatureCache(folder, model, image_processor, images_of([rows]), batch_size=4)
    written = first.path.stat().st_mtime_ns
    again = FeatureCache(folder, model, image_processor, images_of([rows.select([3, 1, 0, 2, 5, 4])]))
    assert again.path == first.path and again.path.stat().st_mtime_ns == written
    cells = images_of([rows])
    batch = first.batch([cells[4], None, cells[0]])
    images = MultimodalCollator(MultimodalProcessor(image_processor))([rows[4], rows[0]])["pixel_values"]
    expected = features_after(model.vision_model, 1, images)
    torch.testing.assert_close(batch[[0, 2]], expected, rtol=0, atol=1e-5)
    assert not batch[1].any()
    with torch.no_grad():
        next(model.vision_model.parameters()).add_(1)
    other = FeatureCache(folder, model, image_processor, images_of([rows]))
    assert other.path != first.path and not np.allclose(other.arrays, first.arrays)


def test_states_need_a_frozen_layer(kept):
    rows, _, image_processor, folder = kept
    with pytest.raises(ValueError, match="no layer of the vision model is frozen"):
        FeatureCache(folder, make_model(), image_processor, images_of([rows]))


def test_a_batch_of_states_tells_who_has_an_image(kept):
    rows, model, image_processor, folder = kept
    cache = FeatureCache(folder, model, image_processor, images_of([rows]))
    collator = MultimodalCollator(MultimodalProcessor(image_processor), feature_cache=cache, on_empty="keep")
    batch = collator([rows[0], {**rows[1], "image": None}])
    assert batch["modality_mask"].tolist() == [[1, 0], [0, 0]]
    assert batch["pixel_values"].shape[1:] == cache.arrays.shape[1:]


def test_a_run_on_states_equals_a_run_on_images(tmp_path: Path):
    ViTConfig(**PATCHES, hidden_dropout_prob=0.0).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    flags = ["--data", "controlled:unique", "--from_scratch", "--vision_model", str(tmp_path / "vit"), "--use_cpu"]
    flags += ["--max_train_samples", "32", "--max_eval_samples", "16", "--max_predict_samples", "16"]
    flags += ["--freeze_vision_layers", "1", "--num_train_epochs", "2", "--dataloader_num_workers", "1"]
    plain = train([*flags, "--output_dir", str(tmp_path / "plain")])
    kept = train([*flags, "--feature_cache", str(tmp_path / "states"), "--output_dir", str(tmp_path / "kept")])
    assert kept["test"]["nll"] == pytest.approx(plain["test"]["nll"], abs=1e-4)
    assert len(list((tmp_path / "states").glob("*.npy"))) == 1


def test_augmented_versions_are_taken_in_turn_and_only_to_learn_from(kept):
    rows, model, image_processor, folder = kept
    taught, measured = (images_of([rows.select(chosen)]) for chosen in ([0, 1, 2], [2, 3]))
    options = {"augmented": taught, "augment": ImageAugmentation(0), "versions": 2}
    cache = FeatureCache(folder, model, image_processor, measured, **options)
    assert len(cache.arrays) == 2 + 3 * 2
    first, second, third = (cache.batch(taught, epoch) for epoch in range(3))
    assert torch.equal(first, third) and not torch.isclose(first, second).all(dim=(1, 2)).any()
    image = ImageAugmentation(0)(open_image(taught[1]), 1, int(image_key(taught[1])[:12], 16))
    expected = features_after(model.vision_model, 1, image_processor(image, return_tensors="pt")["pixel_values"])
    torch.testing.assert_close(second[1], expected[0], rtol=0, atol=1e-5)
    plain = FeatureCache(folder, model, image_processor, measured)
    assert torch.equal(cache.batch(measured), plain.batch(measured)) and plain.path != cache.path

    collator = MultimodalCollator(
        MultimodalProcessor(image_processor), feature_cache=cache, augment=ImageAugmentation(5), on_empty="keep"
    )
    collator.epoch.fill_(3)
    assert torch.equal(collator([rows[0], rows[1], rows[2]])["pixel_values"], second)


def test_a_run_learns_from_cached_augmentations(tmp_path: Path):
    ViTConfig(**PATCHES).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    flags = ["--data", "controlled:unique", "--from_scratch", "--vision_model", str(tmp_path / "vit"), "--use_cpu"]
    flags += ["--max_train_samples", "16", "--max_eval_samples", "8", "--max_predict_samples", "8"]
    flags += ["--freeze_vision_layers", "1", "--num_train_epochs", "1", "--dataloader_num_workers", "1", "--augment"]
    flags += ["--feature_cache", str(tmp_path / "states"), "--output_dir", str(tmp_path / "run")]
    train([*flags, "--cached_augmentations", "3"])
    (file,) = (tmp_path / "states").glob("*.npy")
    assert len(np.load(file)) == 3 * 16 + 8
    with pytest.raises(ValueError, match="cached_augmentations must be 1 or more, got 0"):
        train([*flags, "--cached_augmentations", "0"])


def test_states_where_nothing_is_frozen_are_refused(tmp_path):
    flags = ["--data", "controlled:unique", "--from_scratch", "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match="feature_cache needs freeze_vision_layers"):
        train([*flags, "--feature_cache", str(tmp_path)])
