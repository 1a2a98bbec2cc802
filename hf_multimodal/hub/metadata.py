"""The metadata of a model card: the YAML at its head, which the Hub reads."""

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from hf_multimodal.hub.runs import VISION_LANGUAGE, Run
from hf_multimodal.hub.tables import plain

# Our name of a metric: the Hub's, and how people call it.
HUB_METRICS = {
    "accuracy": ("accuracy", "accuracy"),
    "label_accuracy": ("label_accuracy", "label accuracy"),
    "subset_accuracy": ("accuracy", "subset accuracy"),  # what the Hub's metric is for several labels
    "macro_f1": ("f1", "macro-F1"),
    "mAP": ("mean_average_precision", "mAP"),
    "nll": ("nll", "NLL"),
    "ece": ("ece", "ECE"),
    "mse": ("mse", "mean squared error"),
    "mae": ("mae", "mean absolute error"),
    "pearson": ("pearsonr", "Pearson's r"),
}
# The same of models without classes.
OTHER_METRICS = {
    "psnr": ("psnr", "PSNR"),
    "nll_per_token": ("nll_per_token", "NLL a token"),
    "exact_match": ("exact_match", "exact match"),
    "token_f1": ("f1", "token F1"),
    "bleu_4": ("bleu", "BLEU-4"),
    "cider": ("cider", "CIDEr"),
}
FAMILY_TASKS = {
    "multimodal_aligner": "zero-shot-image-classification",
    "multimodal_image_tokenizer": "image-feature-extraction",
    "multimodal_text_to_image": "text-to-image",
    VISION_LANGUAGE: "image-text-to-text",
}
FAMILY_TAGS = {
    "multimodal_aligner": "image-text-retrieval",
    "multimodal_image_tokenizer": "vq-vae",
    "multimodal_text_to_image": "dall-e",
    VISION_LANGUAGE: "llava",
}
TASKS = {"both": "text-classification", "text": "text-classification", "image": "image-classification"}


def card_metadata(run: Run) -> ModelCardData:
    """Metadata of a run's card; no class name and no text of an example is among them.

    The Hub has no task of an image and a text with classes, so a classifier of both is filed under
    `text-classification`, with the tag `image-text-classification`. A data set is named only by its Hub id: results
    on local files or generated data have the data set type `unknown`, as those of sentence-transformers have, and say
    in words what they were measured on.

    Args:
        run: The run.

    Returns:
        Metadata whose every string is one line.
    """
    task = FAMILY_TASKS.get(run.family, TASKS[run.modality])
    tags = ["multimodal", FAMILY_TAGS.get(run.family, "image-text-classification")]
    results = _results(run, task)
    return ModelCardData(
        license=run.card.license or "unknown",
        language=run.card.language or None,
        library_name="transformers",
        pipeline_tag=task,
        base_model=run.base_models or None,
        datasets=[run.dataset_id] if run.dataset_id else None,
        tags=tags if run.modality == "both" or not run.is_classifier else [task],
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=plain(run.title or run.name.rpartition("/")[2]) if results else None,
        eval_results=results or None,
    )


def _results(run: Run, task: str) -> list[EvalResult]:
    if run.split is None:
        return []
    found = run.metrics[run.split]
    values: list[tuple[str, str, Any]]
    if run.is_aligner:
        values = [
            (
                f"recall_at_{k}",
                f"R@{k}, {way.replace('_', ' ')}, pool of {found[way]['pool']}",
                found[way][f"recall_at_{k}"],
            )
            for way in ("image_to_text", "text_to_image")
            for k in (1, 5, 10)
        ]
    else:
        known = HUB_METRICS if run.is_classifier else OTHER_METRICS
        values = [(kind, words, found[name]) for name, (kind, words) in known.items() if name in found]
    return [
        EvalResult(
            task_type=task,
            dataset_type=run.dataset_id or "unknown",  # the entry must have one, and only a Hub id names a data set
            dataset_name=plain(run.card.dataset_name or run.dataset_id or _in_words(run)),
            dataset_config=run.data.get("config"),
            dataset_split=run.split,
            metric_type=kind,
            metric_name=words,
            metric_value=round(value, 4),
        )
        for kind, words, value in values
    ]


def _in_words(run: Run) -> str:
    if run.data.get("kind") == "controlled":
        return f"generated data, task {str(run.data['name']).removeprefix('controlled:')}"
    return "local files" if run.data else "unknown"
