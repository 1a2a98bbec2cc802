"""Every public name, used as a typed program uses it: `make check` runs `mypy --strict` over this file."""

from pathlib import Path

import torch

import hf_multimodal
from hf_multimodal import (
    IMAGE_TEXT_CLASSIFICATION,
    AlignerConfig,
    AlignerModel,
    AlignerTrainer,
    CaptionCollator,
    EpochCallback,
    FusionConfig,
    FusionForImageTextClassification,
    ImageCollator,
    ImageTextClassificationPipeline,
    ImageTokenizerConfig,
    ImageTokenizerModel,
    ImageTokenizerTrainer,
    ModalityDropout,
    MultimodalCollator,
    MultimodalProcessor,
    MultimodalTrainer,
    MultimodalTrainingArguments,
    PairCollator,
    RecurrentTextConfig,
    RecurrentTextModel,
    Retriever,
    RobustFusionCallback,
    RobustFusionConfig,
    RobustFusionForImageTextClassification,
    TextToImageConfig,
    TextToImageModel,
    TextToImageProcessor,
    TokenCache,
    TorchvisionConfig,
    TorchvisionModel,
    ZeroShotClassifier,
    add_lengths,
    classification_metrics,
    complete_splits,
    embed_images,
    embed_texts,
    fit_stack,
    group_pairs,
    load_data,
    make_retrieval,
    multilabel_metrics,
    predict_dataset,
    predict_table,
    presence,
    regression_metrics,
    result_sheet,
    retrieval_ceiling,
    retrieval_metrics,
    retrieval_table,
)


def train_robust(folder: Path, vision: str, text: str) -> list[str]:
    data = load_data(folder / "table.csv")
    splits = complete_splits(data.splits, seed=0)
    processor = MultimodalProcessor.from_vision_text_pretrained(vision, text)
    model = RobustFusionForImageTextClassification.from_vision_text_pretrained(vision, text, id2label=data.id2label)
    args = MultimodalTrainingArguments(str(folder / "run"), num_train_epochs=3, modality_dropout=[0.7, 0.15, 0.15])
    rows = add_lengths(splits, processor.tokenizer)
    trainer = MultimodalTrainer(
        model, args, train_dataset=rows["train"], eval_dataset=rows["validation"], processing_class=processor
    )
    trainer.train()
    trainer.save_model()
    dropout = ModalityDropout.for_rows(presence(rows["train"]), seed=0)
    collator = MultimodalCollator(processor, modality_dropout=dropout)
    EpochCallback(collator.epoch)
    RobustFusionCallback(processor, rows["validation"])
    predictions = predict_dataset(model, processor, rows["test"])
    predict_table(model, processor, folder / "new.csv")
    classification_metrics(predictions.probabilities, predictions.labels, predictions.class_names)
    multilabel_metrics([[0.2, 0.8]], [[0, 1]], ["a", "b"])
    regression_metrics([0.1, 0.2], [0.0, 0.3])
    return fit_stack(model, processor, rows["validation"], rows["train"]["label"][:])


def align(folder: Path, vision: str, text: str) -> str:
    pairs, _ = group_pairs(make_retrieval(100))
    model = AlignerModel.from_vision_text_pretrained(vision, text)
    processor = MultimodalProcessor.from_vision_text_pretrained(vision, text)
    args = MultimodalTrainingArguments(str(folder), gradient_cache_chunk_size=32)
    AlignerTrainer(model, args, PairCollator(processor, captions_per_image=2), train_dataset=pairs).train()
    images, _, _ = embed_images(model, processor, ["a.jpg"])
    texts = embed_texts(model, processor, ["a dog"])
    found = retrieval_metrics(images, texts, torch.tensor([0]))
    retriever = Retriever(model, processor)
    retriever.add_images(["a.jpg"])
    hits = retriever.search_images(["a dog"], 1)
    assert isinstance(hits, list)
    result_sheet("a dog", hits[0])
    ZeroShotClassifier(model, processor, ["dog", "cat"], ["a photo of a {}."]).predict(["a.jpg"])
    retrieval_ceiling([["square", "red"]])
    return retrieval_table(found)


def draw(folder: Path, image_processor: object, words: object) -> list[float]:
    rows = make_retrieval(100)
    tokenizer = ImageTokenizerModel(ImageTokenizerConfig(image_size=32, quantizer="vq"))
    args = MultimodalTrainingArguments(str(folder), head_learning_rate=4e-3)
    ImageTokenizerTrainer(tokenizer, args, ImageCollator(image_processor), train_dataset=rows).train()
    config = TextToImageConfig(image_tokenizer_config=tokenizer.config, text_vocab_size=100, prompt_length=16)
    model = TextToImageModel(config)
    processor = TextToImageProcessor(image_processor, words, prompt_length=16)
    cache = TokenCache(folder, model.image_tokenizer, image_processor, rows["image"][:])
    MultimodalTrainer(model, args, CaptionCollator(processor, token_cache=cache), train_dataset=rows).train()
    images = model.generate_images(processor, ["a red circle", None], num_images_per_prompt=2, seed=0)
    images[0].save(folder / "image.png")
    prompts = processor(text=["a red circle"], return_tensors="pt").input_ids
    likelihoods = model.score(prompts, tokenizer.encode(torch.zeros(1, 3, 32, 32)))
    return [float(value) for value in likelihoods.flatten()]


def configure() -> list[str]:
    vision, text = TorchvisionConfig(architecture="resnet18"), RecurrentTextConfig(cell="gru")
    fusion = FusionConfig(vision_config=vision, text_config=text, fusion="gated")
    FusionForImageTextClassification(fusion)
    RobustFusionConfig(vision_config=vision, text_config=text)
    AlignerConfig(vision_config=vision, text_config=text)
    TorchvisionModel(vision)
    RecurrentTextModel(text)
    return [IMAGE_TEXT_CLASSIFICATION, ImageTextClassificationPipeline.__name__, *hf_multimodal.__all__]
