"""Code written for CLIP runs on an aligner unchanged: transformers' example, its pipeline, sentence-transformers."""

import logging

import pytest
import torch
from conftest import make_batch
from PIL import Image
from test_aligner_model import build
from test_processor import make_tokenizer
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
    ViTImageProcessor,
    pipeline,
)

from hf_multimodal import MultimodalProcessor
from hf_multimodal.inference.embedding import embed_texts

IMAGES = [Image.new("RGB", (40, 30), colour) for colour in ((200, 10, 10), (10, 200, 10), (10, 10, 200))]
TEXTS = ["a red dog", "cat", "a dog a cat"]


@pytest.fixture(params=["bert", "siglip_text_model"])
def folder(request, tmp_path):
    """A trained aligner as it lies on the disk.

    BERT takes token_type_ids, which its tokenizer makes; SigLIP's text model reads the last of a fixed number of
    tokens, whether or not who calls it knows.
    """
    build("vit", request.param, loss="sigmoid", hidden_size=12).save_pretrained(tmp_path)
    names = ["input_ids", "token_type_ids", "attention_mask"] if request.param == "bert" else ["input_ids"]
    tokenizer = make_tokenizer(model_input_names=names)
    tokenizer.model_max_length = 40  # as many as the text model reads
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    MultimodalProcessor(processor, tokenizer).save_pretrained(tmp_path)
    return tmp_path


def collate(examples: list[dict]) -> dict:
    """What the example script run_clip.py hands to the model."""
    names = ("pixel_values", "input_ids", "attention_mask")
    return {**{name: torch.stack([example[name] for example in examples]) for name in names}, "return_loss": True}


def test_the_example_script_trains_it(folder, tmp_path):
    model = AutoModel.from_pretrained(folder)
    assert model.config.vision_config.image_size == 32
    for part in (model.vision_model, model.text_model):  # as with --freeze_vision_model and --freeze_text_model
        for parameter in part.parameters():
            parameter.requires_grad = False
    batch = make_batch(rows=12)
    rows = [{name: value[row] for name, value in batch.items()} for row in range(12)]
    arguments = TrainingArguments(
        tmp_path / "run",
        use_cpu=True,
        num_train_epochs=8,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=5,
        learning_rate=1e-2,
        remove_unused_columns=False,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows, data_collator=collate)
    before = trainer.evaluate()["eval_loss"]
    scale = model.logit_scale.item()
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.8 * before
    assert model.logit_scale.item() != scale
    text_embeds, image_embeds = trainer.predict(rows).predictions  # what a metric reads, of batches of unequal sizes
    assert image_embeds.shape == text_embeds.shape == (12, 12)
    with torch.no_grad():
        expected = model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
    torch.testing.assert_close(torch.from_numpy(text_embeds), expected, rtol=0, atol=1e-5)


def logits_by_hand(folder, texts: list[str]) -> torch.Tensor:
    model = AutoModelForZeroShotImageClassification.from_pretrained(folder)
    pixels = AutoImageProcessor.from_pretrained(folder)(images=IMAGES, return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(**pixels, **tokens).logits_per_image


def test_the_usual_snippet_of_clip_runs_it(folder):
    model = AutoModel.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(text=TEXTS, images=IMAGES[0], return_tensors="pt", padding=True)
    outputs = model(**inputs)
    assert outputs.logits_per_image.softmax(dim=1).shape == (1, 3)
    torch.testing.assert_close(outputs.logits_per_image, logits_by_hand(folder, TEXTS)[:1], rtol=0, atol=1e-5)
    assert torch.equal(outputs[2], outputs.text_embeds)


def test_scores_do_not_depend_on_the_longest_text_of_a_batch(folder):
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    alone = torch.cat([embed_texts(model, processor, [text]) for text in TEXTS])
    torch.testing.assert_close(embed_texts(model, processor, TEXTS), alone, rtol=0, atol=1e-5)
    tokens = processor(text=TEXTS, return_tensors="pt", padding=True)
    tokens.pop("modality_mask")
    with torch.no_grad():
        torch.testing.assert_close(model.get_text_features(**tokens).pooler_output, alone, rtol=0, atol=1e-5)


def test_the_zero_shot_pipeline_runs_it(folder, caplog):
    logging.getLogger("transformers").propagate = True
    classify = pipeline("zero-shot-image-classification", model=str(folder))
    predictions = classify(IMAGES, candidate_labels=["dog", "cat"], hypothesis_template="a {}")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    expected = logits_by_hand(folder, ["a dog", "a cat"]).softmax(dim=-1)
    for prediction, row in zip(predictions, expected, strict=True):
        scores = {one["label"]: one["score"] for one in prediction}
        torch.testing.assert_close(torch.tensor([scores["dog"], scores["cat"]]), row, rtol=0, atol=1e-5)


def test_sentence_transformers_encodes_with_it(folder):
    library = pytest.importorskip("sentence_transformers")
    encoder = library.SentenceTransformer(str(folder), device="cpu")
    assert encoder.get_embedding_dimension() == 12
    texts, images = encoder.encode(TEXTS, convert_to_tensor=True), encoder.encode(IMAGES, convert_to_tensor=True)
    torch.testing.assert_close(texts.norm(dim=-1), torch.ones(3))
    expected = logits_by_hand(folder, TEXTS)
    torch.testing.assert_close(10 * images @ texts.T - 10, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(encoder.similarity(images, texts), images @ texts.T)
