"""An image of 12 bits in 16 comes to every model, and onto every page, as the processor's range says."""

import io

import numpy as np
import pytest
import torch
from conftest import PATCHES
from PIL import Image
from test_embedding import SIZE, WORDS, make_pair
from test_processor import make_tokenizer
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from hf_multimodal import MultimodalCollator, MultimodalProcessor, Retriever, ZeroShotClassifier
from hf_multimodal.data.pair_collator import PairCollator
from hf_multimodal.inference.embedding import embed_images
from hf_multimodal.inference.index import Hits
from hf_multimodal.inference.result_sheet import result_sheet
from hf_multimodal.models.processing_multimodal import to_rgb
from hf_multimodal.training.feature_cache import FeatureCache, features_after
from hf_multimodal.training.freezing import freeze_layers

TWELVE_BITS = (0.0, 4095.0)


def deep_images() -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 4096, (32, 32)).astype(np.uint16)) for _ in range(3)]


def written(tmp_path) -> list:
    """The same three images: in memory, a path, and a dict with bytes."""
    images = deep_images()
    images[1].save(tmp_path / "1.png")
    buffer = io.BytesIO()
    images[2].save(buffer, "PNG")
    return [images[0], tmp_path / "1.png", {"bytes": buffer.getvalue(), "path": None}]


@pytest.fixture
def seen():
    """A model and a processor with a range, and the pixels that the model was given."""
    model = make_pair("clip")[0]
    processor = MultimodalProcessor(ViTImageProcessor(size=SIZE), make_tokenizer(), image_value_range=TWELVE_BITS)
    pixels: list[torch.Tensor] = []
    embed = model.get_image_features

    def keep(pixel_values, **kwargs):
        pixels.append(pixel_values)
        return embed(pixel_values=pixel_values, **kwargs)

    model.get_image_features = keep
    return model, processor, pixels


def expected(processor) -> torch.Tensor:
    """By the processor's own image processor, of what the one function makes of the images."""
    return processor.image_processor([to_rgb(image, TWELVE_BITS) for image in deep_images()], return_tensors="pt")[
        "pixel_values"
    ]


def test_embedding_search_and_zero_shot_read_the_range(seen, tmp_path):
    model, processor, pixels = seen
    images, wanted = written(tmp_path), expected(processor)
    assert float(wanted.std()) > 0.2 and not torch.equal(wanted[0], wanted[1])  # neither black nor white
    embed_images(model, processor, images)
    assert torch.equal(pixels.pop(), wanted)
    retriever = Retriever(model, processor, show_progress=False)
    retriever.add_images(images)
    assert torch.equal(pixels.pop(), wanted)
    for number, image in enumerate(images):
        found = retriever.search_similar_images(image, 1)
        assert torch.equal(pixels.pop()[0], wanted[number])
        assert found.ids == [str(number)] and found.scores[0] == pytest.approx(1.0, abs=1e-5)
    retriever.add_texts(WORDS)
    retriever.search_texts(images[0], 1)
    assert torch.equal(pixels.pop()[0], wanted[0])
    ZeroShotClassifier(model, processor, ["cat", "dog"], "a {}").predict(images)
    assert torch.equal(pixels.pop(), wanted) and not pixels


def test_collators_and_the_feature_cache_read_the_range(seen, tmp_path):
    _, processor, _ = seen
    images, wanted = written(tmp_path), expected(processor)
    rows = [{"image": image, "text": "a cat", "texts": ["a cat"], "index": row} for row, image in enumerate(images)]
    assert torch.equal(MultimodalCollator(processor)(rows)["pixel_values"], wanted)
    assert torch.equal(PairCollator(processor)(rows)["pixel_values"], wanted)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.vision_model = ViTModel(ViTConfig(**PATCHES)).eval()

    model = Model()
    freeze_layers(model, "vision", 1)
    cells = [{"bytes": None, "path": str(images[1])}, images[2]]
    cache = FeatureCache(tmp_path / "cache", model, processor.image_processor, cells, value_range=TWELVE_BITS)
    with torch.no_grad():
        features = features_after(model.vision_model, 1, wanted[1:])
    torch.testing.assert_close(cache.batch(cells), features, rtol=0, atol=1e-5)


def test_a_result_sheet_draws_what_the_model_saw(tmp_path):
    images = written(tmp_path)
    hits = Hits(["a", "b", "c"], [0.9, 0.8, 0.7], [{}, {"image": str(images[1])}, {}])
    known = {"a": images[0], "c": images[2]}
    figure = result_sheet(images[0], hits, images=known, value_range=TWELVE_BITS)
    drawn = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    rgb = [np.asarray(to_rgb(image, TWELVE_BITS)) for image in deep_images()]
    for found, wanted in zip(drawn, [rgb[0], *rgb], strict=True):
        assert np.array_equal(found, wanted)
