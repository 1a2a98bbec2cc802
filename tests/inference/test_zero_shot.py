"""The zero-shot classifier beside a plain loop and beside transformers' own pipeline."""

import datasets
import numpy as np
import pytest
import torch
from test_embedding import make_pair, pil_images
from test_embedding import pair as pair
from transformers import pipeline

from hf_multimodal import ZeroShotClassifier
from hf_multimodal.data.images import BadImageError

NAMES = ["cat", "red dog", "dog"]
TEMPLATES = ["a {}", "{} a red", "a a {}"]


@torch.no_grad()
def loop_logits(model, processor):
    """One class, one template, one image at a time."""
    padding = "max_length" if model.config.model_type == "siglip" else False
    rows = []
    for pil_image in pil_images():
        pixels = processor.image_processor([pil_image], return_tensors="pt")["pixel_values"]
        image = model.get_image_features(pixel_values=pixels).pooler_output[0]
        logits = []
        for name in NAMES:
            total = 0
            for template in TEMPLATES:
                tokens = processor.tokenizer([template.format(name)], padding=padding, return_tensors="pt")
                text = model.get_text_features(**tokens).pooler_output[0]
                total = total + text / text.norm()
            logit = model.logit_scale.exp() * (image / image.norm()) @ (total / total.norm())
            logits.append(float(logit + getattr(model, "logit_bias", 0)))
        rows.append(logits)
    return torch.tensor(rows, dtype=torch.float64)


def test_templates_are_averaged_and_renormalised_by_class(pair):
    found = ZeroShotClassifier(*pair, NAMES, TEMPLATES, batch_size=4).predict(pil_images())
    expected = loop_logits(*pair)
    np.testing.assert_allclose(found.probabilities, expected.softmax(-1), atol=1e-4)
    assert found.predicted.tolist() == expected.argmax(-1).tolist()
    assert found.class_names == NAMES and found.ids == [str(row) for row in range(6)]
    assert found.has_image.all() and not found.has_text.any()


def test_the_sigmoid_of_a_siglip_answers_each_class_alone():
    model, processor = make_pair("siglip")
    kind = "multi_label_classification"
    found = ZeroShotClassifier(model, processor, NAMES, TEMPLATES, problem_type=kind).predict(pil_images())
    expected = loop_logits(model, processor)
    np.testing.assert_allclose(found.probabilities, expected.sigmoid(), atol=1e-4)
    # that exactly one class holds has, given independent answers, the probabilities of the softmax
    odds = expected.exp()
    single = ZeroShotClassifier(model, processor, NAMES, TEMPLATES).predict(pil_images())
    np.testing.assert_allclose(single.probabilities, odds / odds.sum(-1, keepdim=True), atol=1e-4)
    with pytest.raises(ValueError, match="multi_label_classification needs a model with a logit_bias"):
        ZeroShotClassifier(*make_pair("clip"), NAMES, TEMPLATES, problem_type=kind)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_one_template_gives_what_the_pipeline_gives(kind, tmp_path):
    model, processor = make_pair(kind)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    answer = pipeline("zero-shot-image-classification", model=str(tmp_path), device="cpu")
    options = {"problem_type": "multi_label_classification"} if kind == "siglip" else {}
    found = ZeroShotClassifier(model, processor, NAMES, "a {}", **options).predict(pil_images()[:1])
    (scores,) = answer(pil_images()[:1], candidate_labels=NAMES, hypothesis_template="a {}")
    theirs = {entry["label"]: entry["score"] for entry in scores}
    np.testing.assert_allclose(found.probabilities[0], [theirs[name] for name in NAMES], atol=1e-4)


def test_labels_give_metrics_and_incomplete_rows_are_flagged():
    model, processor = make_pair("clip")
    classifier = ZeroShotClassifier(model, processor, NAMES, TEMPLATES)
    whole = classifier.predict(pil_images())
    images = [*pil_images()[:2], None, *pil_images()[2:], b"\x89PNG\r\n\x1a\n"]
    with pytest.raises(BadImageError, match=r"row 7\)' is not an image"):
        classifier.predict(images)
    labels = [*whole.predicted[:2], None, *whole.predicted[2:], 0]
    ids = [f"p{row}" for row in range(8)]
    with pytest.warns(UserWarning, match=r"row 7\)' is not an image.*treated as missing"):
        found = classifier.predict(images, ids=ids, labels=labels, on_bad_image="missing")
    assert found.has_image.tolist() == [True, True, False, True, True, True, True, False]
    np.testing.assert_allclose(found.probabilities[[2, 7]], 1 / 3)
    np.testing.assert_allclose(found.probabilities[[0, 1, 3, 4, 5, 6]], whole.probabilities, atol=1e-6)
    assert found.metrics()["count"] == 7 and found.take(found.has_image).metrics()["accuracy"] == 1.0
    assert classifier.predict([None]).probabilities.tolist() == [[1 / 3] * 3]


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        (["cat", "dog", " cat"], TEMPLATES, "class_names must differ from each other, 'cat' stands there twice"),
        (["cat"], TEMPLATES, r"class_names must be at least two, got \['cat'\]"),
        (["cat", " "], TEMPLATES, r"class_names must not be empty, got \['cat', ' '\]"),
        (NAMES, ["a {}", "a cat"], "every template needs a {} for the class name, 'a cat' has none"),
        (NAMES, [], "templates must be at least one, such as 'a photo of a {}.'"),
    ],
)
def test_what_cannot_be_classified_is_named(names, templates, message):
    with pytest.raises(ValueError, match=message):
        ZeroShotClassifier(*make_pair("clip"), names, templates)
    with pytest.raises(ValueError, match="there are no images to classify"):
        ZeroShotClassifier(*make_pair("clip"), NAMES, TEMPLATES).predict([])


def test_several_are_several_and_one_is_refused():
    classifier = ZeroShotClassifier(*make_pair("clip"), np.array(NAMES), (one for one in TEMPLATES))
    expected = classifier.predict(pil_images())
    column = datasets.Dataset.from_dict({"image": pil_images()})["image"]
    for images in (column, (pil_image for pil_image in pil_images())):
        found = classifier.predict(images, ids=np.arange(6))
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
        assert list(found.ids) == expected.ids
    with pytest.raises(TypeError, match="class_names must be several, such as a list, got 'dog' alone"):
        ZeroShotClassifier(*make_pair("clip"), "dog", TEMPLATES)
    with pytest.raises(TypeError, match="class_names must be texts, got 1, a int"):
        ZeroShotClassifier(*make_pair("clip"), [1, 2], TEMPLATES)
    with pytest.raises(TypeError, match="images must be several"):
        classifier.predict(pil_images()[0])
