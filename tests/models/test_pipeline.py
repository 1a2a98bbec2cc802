"""`pipeline("image-text-classification")`: what it takes and gives, how it travels, with and without the package."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TEXT_CONFIGS, VISION_CONFIGS
from datasets import Dataset, IterableDataset
from test_fusion_model import make_model
from test_processor import make_image_processor, make_tokenizer, pil_image
from test_robust_model import fitted
from transformers import AutoModel, pipeline
from transformers.utils import logging

from hf_multimodal import (
    AlignerModel,
    FusionConfig,
    FusionForImageTextClassification,
    ImageTextClassificationPipeline,
    MultimodalProcessor,
    RobustFusionForImageTextClassification,
)

TASK = "image-text-classification"
NAMES = {0: "no", 1: "maybe", 2: "yes"}
EXAMPLES = [
    {"image": pil_image(), "text": "a red dog"},
    {"image": pil_image(90)},
    {"text": "cat"},
    {"image": None, "text": " "},
    {"image": pil_image(10), "text": None},
]
FAMILIES = [FusionForImageTextClassification, RobustFusionForImageTextClassification]


def make_processor(parts: tuple[str, ...] = ("image", "text")) -> MultimodalProcessor:
    image_processor = make_image_processor() if "image" in parts else None
    if image_processor is not None:
        image_processor.size = {"height": 32, "width": 32}
    return MultimodalProcessor(image_processor, make_tokenizer() if "text" in parts else None)


def save(folder, family=RobustFusionForImageTextClassification, vision="vit", text="bert", **fields):
    """A model and its processor in a folder, and the model."""
    fields = {"id2label": NAMES, "problem_type": "single_label_classification", **fields}
    if family is AlignerModel:
        fields = {}
    model = make_model(vision, text, family, **fields).eval()
    if family is RobustFusionForImageTextClassification:
        fitted(model)
    model.save_pretrained(folder)
    parts = tuple(name for name, side in (("image", vision), ("text", text)) if side is not None)
    make_processor(parts).save_pretrained(folder)
    return model


@pytest.fixture
def warned(caplog):
    """Messages of transformers' loggers so far, each of which is shown once a process."""
    logging.get_logger("transformers").propagate = True
    logging.warning_once.cache_clear()
    return lambda part: sum(part in record.message for record in caplog.records)


def expected(model, examples) -> torch.Tensor:
    """Logits by hand: processor and model."""
    images, texts = ([example.get(name) for example in examples] for name in ("image", "text"))
    with torch.no_grad():
        return model(**make_processor()(images=images, text=texts, return_tensors="pt")).logits


def assert_predictions(predictions, logits: torch.Tensor) -> None:
    for prediction, row in zip(predictions, logits.softmax(-1), strict=True):
        assert prediction == {"label": NAMES[int(row.argmax())], "score": pytest.approx(row.max().item(), abs=1e-6)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_any_mixture_of_presence_in_any_form(family, batch_size, tmp_path):
    model = save(tmp_path, family)
    classify = pipeline(TASK, model=str(tmp_path))
    assert type(classify) is ImageTextClassificationPipeline and type(classify.model) is family
    logits = expected(model, EXAMPLES)
    assert_predictions([classify(example) for example in EXAMPLES], logits)
    rows = {"image": [one.get("image") for one in EXAMPLES], "text": [one.get("text") for one in EXAMPLES]}
    dataset = Dataset.from_dict({**rows, "label": [0, 1, 2, 0, 1]})
    stream = IterableDataset.from_generator(lambda: iter(EXAMPLES))
    for examples in (EXAMPLES, tuple(EXAMPLES), iter(EXAMPLES), (one for one in EXAMPLES), dataset, stream):
        predictions = classify(examples, batch_size=batch_size)
        assert isinstance(predictions, list) is isinstance(examples, list)
        assert_predictions(predictions, logits)


def test_image_and_text_by_name(tmp_path):
    model = save(tmp_path)
    classify = pipeline(TASK, model=str(tmp_path))
    assert_predictions([classify(text="cat")], expected(model, [{"text": "cat"}]))
    assert_predictions([classify(image=pil_image())], expected(model, [{"image": pil_image()}]))
    pairs = classify(image=[pil_image(), None], text=["a red dog", "cat"])
    assert_predictions(pairs, expected(model, [EXAMPLES[0], EXAMPLES[2]]))
    pixels = np.asarray(pil_image())
    assert classify(image=pixels, text="cat") == classify(image=pil_image(), text="cat")


def test_an_example_with_neither_gets_the_prior(tmp_path):
    model = save(tmp_path)
    predictions = pipeline(TASK, model=str(tmp_path))({"image": None, "text": ""}, top_k=None)
    prior = model.stack.prior.softmax(-1)
    assert {prediction["label"]: prediction["score"] for prediction in predictions} == {
        name: pytest.approx(prior[index].item(), abs=1e-6) for index, name in NAMES.items()
    }


@pytest.mark.parametrize("example", [{"text": "cat"}, {"image": pil_image()}, {"image": None, "text": None}])
def test_the_plain_classifier_warns_once_of_what_is_missing(example, tmp_path, warned):
    save(tmp_path, FusionForImageTextClassification)
    classify = pipeline(TASK, model=str(tmp_path), batch_size=2)
    classify([EXAMPLES[0]])
    assert not warned("this classifier was trained on both modalities")
    for _ in range(2):
        classify([EXAMPLES[0], example, example])
    for name in ("image", "text"):
        assert warned(f"{name} is None: this classifier was trained") == (example.get(name) is None)


def test_the_robust_classifier_does_not_warn(tmp_path, warned):
    save(tmp_path)
    pipeline(TASK, model=str(tmp_path))(EXAMPLES)
    assert not warned("trained on both modalities")


def test_text_classification_on_a_plain_classifier_warns_once(tmp_path, warned):
    model = save(tmp_path, FusionForImageTextClassification)
    classify = pipeline("text-classification", model=str(tmp_path))
    for _ in range(2):
        predictions = classify(["cat", "a red dog"])
    assert warned("pixel_values is None: this classifier was trained on both modalities") == 1
    assert_predictions(predictions, expected(model, [{"text": "cat"}, {"text": "a red dog"}]))


def test_top_k_as_in_text_classification(tmp_path):
    save(tmp_path)
    classify = pipeline(TASK, model=str(tmp_path))
    best, two, everything = (classify(EXAMPLES[0], **kwargs) for kwargs in ({}, {"top_k": 2}, {"top_k": None}))
    assert len(two) == 2 and two == everything[:2] and best == two[0]
    assert [prediction["score"] for prediction in everything] == sorted((a["score"] for a in everything), reverse=True)
    assert classify(EXAMPLES[0], top_k=1) == [best]
    assert classify(EXAMPLES[:2], top_k=2)[0] == two
    assert pipeline(TASK, model=str(tmp_path), top_k=2)(EXAMPLES[0]) == two


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("problem_type", "default"),
    [("multi_label_classification", "sigmoid"), ("single_label_classification", "softmax"), ("regression", "none")],
)
def test_function_to_apply(family, problem_type, default, tmp_path):
    model = save(tmp_path, family, problem_type=problem_type)
    classify = pipeline(TASK, model=str(tmp_path), top_k=None)
    logits = expected(model, EXAMPLES[:1])[0]
    functions = {"sigmoid": logits.sigmoid(), "softmax": logits.softmax(-1), "none": logits}
    for name, scores in functions.items():
        predictions = classify(EXAMPLES[0], function_to_apply=name)
        assert {prediction["label"]: prediction["score"] for prediction in predictions} == {
            label: pytest.approx(scores[index].item(), abs=1e-6) for index, label in NAMES.items()
        }
    assert classify(EXAMPLES[0]) == classify(EXAMPLES[0], function_to_apply=default)


@pytest.mark.parametrize("family", FAMILIES)
def test_thresholds_of_the_configuration_say_which_labels_hold(family, tmp_path):
    model = save(tmp_path / "usual", family, problem_type="multi_label_classification")
    scores = expected(model, EXAMPLES[:1])[0].sigmoid().tolist()
    model.config.thresholds = [scores[0] + 0.01, scores[1] - 0.01, 0.99]
    model.save_pretrained(tmp_path / "own")
    make_processor().save_pretrained(tmp_path / "own")
    usual, own = (pipeline(TASK, model=str(tmp_path / name)) for name in ("usual", "own"))
    assert own.model.config.thresholds == model.config.thresholds
    plain, predictions = usual(EXAMPLES[0], top_k=None), own(EXAMPLES[0], top_k=None)
    assert all(set(prediction) == {"label", "score"} for prediction in plain)  # as before where there are none
    assert {prediction["label"]: prediction.pop("predicted") for prediction in predictions} == {
        "no": False,
        "maybe": True,
        "yes": False,
    }
    assert predictions == plain
    assert own([EXAMPLES[0]], top_k=1, function_to_apply="none")[0][0].keys() == {"label", "score", "predicted"}
    assert own(EXAMPLES[0])["predicted"] is (max(scores) == scores[1])


def test_regression_of_one_number(tmp_path):
    model = save(tmp_path, problem_type="regression", id2label={0: "score"}, num_labels=1)
    prediction = pipeline(TASK, model=str(tmp_path))(EXAMPLES[0])
    assert prediction == {"label": "score", "score": pytest.approx(expected(model, EXAMPLES[:1]).item(), abs=1e-6)}


@pytest.mark.parametrize("modality", ["image", "text"])
def test_a_model_of_one_modality_reads_that_alone(modality, tmp_path, warned):
    sides = {"vision": None} if modality == "text" else {"text": None}
    save(tmp_path, FusionForImageTextClassification, **sides)
    classify = pipeline(TASK, model=str(tmp_path), batch_size=2)
    alone = [{modality: example.get(modality)} for example in EXAMPLES[:1] + EXAMPLES[3:]]
    assert classify(alone) == classify(EXAMPLES[:1] + EXAMPLES[3:])
    assert not warned("trained on both modalities")
    assert warned(f"{modality} is None: it is all that this classifier reads") == 1
    other = "image" if modality == "text" else "text"
    with pytest.raises(ValueError, match=rf"an example needs one of \['{modality}'\], got the keys \['{other}'\]"):
        classify([{other: EXAMPLES[0][other]}])


@pytest.mark.parametrize(
    ("vision", "text"), [(name, "bert") for name in VISION_CONFIGS] + [("vit", name) for name in TEXT_CONFIGS]
)
def test_every_model_type(vision, text):
    model = make_model(vision, text, RobustFusionForImageTextClassification, id2label=NAMES).eval()
    fixed = {"padding": "max_length"} if text == "siglip_text_model" else {}
    classify = ImageTextClassificationPipeline(model, make_processor(), device="cpu", top_k=None, **fixed)
    together, alone = classify(EXAMPLES[:3], batch_size=3), classify(EXAMPLES[:3])
    for row, other in zip(together, alone, strict=True):
        scores, others = (
            {prediction["label"]: prediction["score"] for prediction in predictions} for predictions in (row, other)
        )
        assert scores == pytest.approx(others, abs=1e-5)


def test_arguments_of_the_processor(tmp_path):
    model = save(tmp_path)
    long, short = {"text": "a red dog cat"}, {"text": "a red"}
    classify = pipeline(TASK, model=str(tmp_path), max_length=4)
    assert_predictions([classify(long)], expected(model, [short]))
    assert_predictions([classify(long, max_length=8)], expected(model, [long]))


def test_dtype_and_device(tmp_path):
    save(tmp_path)
    classify = pipeline(TASK, model=str(tmp_path), dtype=torch.bfloat16, device_map="cpu")
    assert classify.model.dtype == torch.bfloat16 and classify.device == torch.device("cpu")
    assert len(classify(EXAMPLES, batch_size=2)) == 5


def test_a_model_in_training_mode_is_put_into_evaluation_mode():
    model = make_model(family=RobustFusionForImageTextClassification).train()
    classify = pipeline(TASK, model=model, processor=make_processor())
    assert not model.training and classify(EXAMPLES[0]) == classify(EXAMPLES[0])


def test_save_pretrained_holds_the_processor_and_the_code(tmp_path):
    save(tmp_path / "model")
    classify = pipeline(TASK, model=str(tmp_path / "model"))
    classify.save_pretrained(tmp_path / "again")
    assert sorted(path.name for path in tmp_path.joinpath("model").iterdir()) == sorted(
        path.name for path in tmp_path.joinpath("again").iterdir()
    )
    assert pipeline(TASK, model=str(tmp_path / "again"))(EXAMPLES) == classify(EXAMPLES)


def test_custom_pipelines_is_written_and_asks_nobody_who_has_the_package(tmp_path):
    save(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())["custom_pipelines"]
    assert written == {
        TASK: {"impl": "pipeline_image_text_classification.ImageTextClassificationPipeline", "pt": ["AutoModel"]}
    }
    config = FusionConfig.from_pretrained(tmp_path)
    assert not hasattr(config, "custom_pipelines") and config.to_dict()["custom_pipelines"] == written
    config.to_dict()["custom_pipelines"][TASK]["pt"] = "spoilt"
    assert config.to_dict()["custom_pipelines"] == written
    assert type(pipeline(TASK, model=str(tmp_path), trust_remote_code=True)) is ImageTextClassificationPipeline


@pytest.mark.parametrize(
    ("inputs", "kwargs", "message"),
    [
        (None, {}, "give examples, image=, text=, or both of these; got nothing"),
        ({"text": "a"}, {"text": "b"}, "give either examples or image= and text=, not both"),
        (None, {"image": [None], "text": ["a", "b"]}, r"image and text must be of one length, got \[1, 2\]"),
        (None, {"image": None, "text": []}, "there are no examples"),
        (None, {"image": [None, None], "text": "a"}, "either both lists or both single, got list and str"),
        ({"img": 1, "caption": "a"}, {}, r"needs one of \['image', 'text'\], got the keys \['caption', 'img'\]"),
        ("a red dog", {}, r"an example is a dict with 'image' and 'text'.* got str"),
        (["a red dog"], {}, r"an example is a dict with 'image' and 'text'.* got str"),
        ([], {}, "there are no examples"),
        ({"text": "a"}, {"top_k": 0}, "top_k must be a whole number from 1 on, or None for all, got 0"),
        ({"text": "a"}, {"top_k": "2"}, "top_k must be .* got '2'"),
        (
            {"text": "a"},
            {"function_to_apply": "relu"},
            r"function_to_apply must be one of \['sigmoid', 'softmax', 'none'\], got 'relu'",
        ),
    ],
)
def test_what_cannot_be_read_is_named(inputs, kwargs, message):
    classify = pipeline(
        TASK, model=make_model(family=RobustFusionForImageTextClassification), processor=make_processor()
    )
    with pytest.raises(ValueError, match=message):
        classify(inputs, **kwargs)


@pytest.mark.parametrize("image", ["dog.jpg", "https://example.org/dog.jpg", {"bytes": b"", "path": None}])
def test_nothing_is_opened_or_fetched(image):
    classify = pipeline(
        TASK, model=make_model(family=RobustFusionForImageTextClassification), processor=make_processor()
    )
    with pytest.raises(TypeError, match="an image must be a PIL image, or an array or tensor, not a path or URL"):
        classify(image=image)
    for nested in ([image], (image,), [pil_image(), pil_image()]):
        with pytest.raises(TypeError, match=r"an image must be a PIL image, or an array .* got (list|tuple)"):
            classify({"image": nested})
    with pytest.raises(ValueError, match=r"an array must be \(height, width\), .* got shape \(2, 3, 8, 8\)"):
        classify({"image": np.zeros((2, 3, 8, 8))})


@pytest.mark.parametrize("text", [5, float("nan"), ["a"]])
def test_a_text_that_is_none_is_shown(text):
    classify = pipeline(
        TASK, model=make_model(family=RobustFusionForImageTextClassification), processor=make_processor()
    )
    with pytest.raises(
        TypeError, match=rf"must be a string, or None if it is missing, got .* \({type(text).__name__}\)"
    ):
        classify([{"text": "a"}, {"text": text}])


def test_columns_of_a_data_set_and_frames(tmp_path):
    model = save(tmp_path)
    classify = pipeline(TASK, model=str(tmp_path))
    rows = Dataset.from_dict({"image": [pil_image(), None], "text": ["a", "cat"]})
    examples = [{"image": pil_image(), "text": "a"}, {"text": "cat"}]
    assert_predictions(classify(image=rows["image"], text=rows["text"]), expected(model, examples))
    with pytest.raises(TypeError, match=r"a DataFrame has none: give `.to_dict\('records'\)` of it"):
        classify(rows.select_columns(["text"]).to_pandas())


def test_the_page_runs(tmp_path, monkeypatch):
    model = save(tmp_path / "runs" / "mine").eval()
    monkeypatch.chdir(tmp_path)
    pil_image().save("dog.jpg")
    processor = make_processor()
    processor.tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]  # as BERT's tokenizer
    examples = {"images": [pil_image(), None, pil_image(90)], "text": ["a red dog", "cat", None]}
    inputs = processor(**examples, return_tensors="pt")
    assert "token_type_ids" in inputs
    names = {"dataset": Dataset.from_list([{"text": "a"}] * 3), "model": model, "inputs": inputs}
    page = Path(__file__).parents[2] / "docs" / "pipeline.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 2
    with torch.no_grad():
        logits = names["program"].module()(**inputs).logits
        torch.testing.assert_close(logits, model(**inputs).logits, atol=1e-4, rtol=0)


def test_a_mistyped_key_is_warned_of(warned):
    classify = pipeline(
        TASK, model=make_model(family=RobustFusionForImageTextClassification), processor=make_processor()
    )
    classify({"image": pil_image(), "text": "a", "label": 1})
    assert not warned("are not read")
    classify({"image": pil_image(), "txt": "a"})
    assert warned("an example has no 'text', and its keys ['txt'] are not read") == 1


def test_other_models_are_refused(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"must be one of \['multimodal_fusion', 'multimodal_robust_fusion'\], got 'bert' \(BertModel\)",
    ):
        pipeline(TASK, model=AutoModel.from_config(TEXT_CONFIGS["bert"]()), processor=make_processor())
    save(tmp_path, AlignerModel)
    with pytest.raises(ValueError, match=r"got 'multimodal_aligner' \(AlignerModel\)"):
        pipeline(TASK, model=str(tmp_path))


def test_the_processor_reads_what_the_model_reads():
    model = make_model(family=RobustFusionForImageTextClassification)
    with pytest.raises(ValueError, match=r"the model reads \['image', 'text'\], the processor \['text'\]"):
        pipeline(TASK, model=model, processor=make_processor(("text",)))


STRANGER = (
    Path(__file__).parents[1].joinpath("hide_package.py").read_text()
    + """
import json
from PIL import Image
from transformers import pipeline
folder, again = sys.argv[1:]
examples = [{"image": Image.new("RGB", (10, 6), (200, 10, 10)), "text": "a red dog"}, {"text": "cat"}, {"text": None}]
try:
    pipeline("image-text-classification", model=folder, trust_remote_code=False)
except ValueError as error:
    assert "trust_remote_code" in str(error)
else:
    raise AssertionError("remote code ran unasked")
classify = pipeline("image-text-classification", model=folder, trust_remote_code=True)
assert type(classify).__module__.startswith("transformers_modules")
predictions = [classify(examples, batch_size=2), pipeline(model=folder, trust_remote_code=True)(examples)]
classify.save_pretrained(again)
assert "hf_multimodal" not in sys.modules
print(json.dumps(predictions))
"""
)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stranger_runs_the_pipeline(family, tmp_path):
    save(tmp_path / "model", family)
    folders = [str(tmp_path / "model"), str(tmp_path / "again")]
    run = subprocess.run(
        [sys.executable, "-c", STRANGER, *folders],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    examples = [EXAMPLES[0], {"text": "cat"}, {"text": None}]
    for folder in folders:  # what the stranger saved is as good as what was sent
        own = pipeline(TASK, model=folder)(examples)
        for predictions in json.loads(run.stdout.splitlines()[-1]):
            for prediction, mine in zip(predictions, own, strict=True):
                assert prediction == {"label": mine["label"], "score": pytest.approx(mine["score"], abs=1e-6)}


def test_the_pipelines_of_features_give_the_embeddings_of_an_aligner(tmp_path):
    model = save(tmp_path, AlignerModel)
    inputs = make_processor()(images=[pil_image()], text=["a red dog"], return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs)
    image = pipeline("image-feature-extraction", model=str(tmp_path))(pil_image(), return_tensors=True)
    text = pipeline("feature-extraction", model=str(tmp_path))("a red dog", return_tensors=True)
    torch.testing.assert_close(image, expected.image_embeds, rtol=0, atol=1e-6)
    torch.testing.assert_close(text, expected.text_embeds, rtol=0, atol=1e-6)
    assert image.shape == text.shape == (1, 16)


@pytest.mark.keys_do_not_fit
@pytest.mark.parametrize("family", FAMILIES)
def test_sentence_transformers_is_told_what_a_classifier_is_not_for(family, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    save(tmp_path, family)
    encoder = library.SentenceTransformer(str(tmp_path), device="cpu")
    with pytest.raises(ValueError, match="Modality 'text' is not supported"):
        encoder.encode(["a red dog"])
    with pytest.raises(RuntimeError, match="CrossEncoder of sentence-transformers asks for one label"):
        library.CrossEncoder(str(tmp_path), device="cpu")
