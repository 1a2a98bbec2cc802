"""The sections of a model card, in Markdown; a section is empty where the run tells nothing of it."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from hf_multimodal.hub.runs import Run
from hf_multimodal.hub.tables import curve_spread, curve_table, inline, markdown_table, retrieval_table

MOST_CLASSES = 50
TRANSFORMERS = "5.23"  # as pyproject.toml asks for
METRICS = {
    "accuracy": "accuracy",
    "label_accuracy": "label accuracy",
    "subset_accuracy": "subset accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "weighted_f1": "weighted F1",
    "micro_f1": "micro-F1",
    "mAP": "mAP",
    "nll": "NLL",
    "brier": "Brier score",
    "ece": "ECE",
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "r2": "R²",
    "pearson": "Pearson's r",
}
READS = {"both": "an image and a text", "image": "an image", "text": "a text"}
PATTERNS = {"both": "image and text", "image": "image only", "text": "text only", "neither": "neither"}
SIZES = {"num_hidden_layers": "{} layers", "n_layer": "{} layers", "hidden_size": "width {}", "n_embd": "width {}"}
LOADING = """from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained({name}, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained({name}, trust_remote_code=True)
"""
ALIGNING = """images = processor(images=Image.open("photo.jpg"), return_tensors="pt")
texts = processor(text=["a photo of a dog", "a photo of a cat"], return_tensors="pt")
image_embeds = model.get_image_features(**images).pooler_output
text_embeds = model.get_text_features(**texts).pooler_output
similarity = image_embeds @ text_embeds.T  # (images, texts), cosines"""
INPUTS = {
    "both": 'images=Image.open("photo.jpg"), text="what a day"',
    "image": 'images=Image.open("photo.jpg")',
    "text": 'text="what a day"',
    "incomplete": 'images=[Image.open("photo.jpg"), None], text=["what a day", "no image here"]',
}
PREDICTIONS = {
    "single_label_classification": """probabilities = logits.softmax(-1)
print([model.config.id2label[number] for number in probabilities.argmax(-1).tolist()])""",
    "multi_label_classification": """probabilities = logits.sigmoid()
print([[model.config.id2label[k] for k, p in enumerate(row) if p >= 0.5] for row in probabilities.tolist()])""",
    "thresholds": """thresholds = model.config.thresholds
holds = [[p >= t for p, t in zip(row, thresholds)] for row in logits.sigmoid().tolist()]
print([[model.config.id2label[k] for k, one in enumerate(row) if one] for row in holds])""",
    "regression": "print(logits[:, 0].tolist())",
}


def summary(run: Run) -> str:
    """What it is: what goes in, what comes out, of which models it is made."""
    if run.is_aligner:
        what = (
            "An image model and a text model aligned in one space: it searches images by text and texts by image, "
            "and classifies images by class names alone."
        )
    else:
        what = f"A classifier that reads {READS[run.modality]} and predicts {_classes_of(run)}."
        if run.problem_type == "regression":
            what = f"A model that reads {READS[run.modality]} and predicts a number."
            if run.config.get("target_deviation") is not None:
                mean, deviation = run.config["target_mean"][0], run.config["target_deviation"][0]
                what += (
                    f" It learned the targets scaled by the mean {mean:.4g} and the deviation {deviation:.4g} of its "
                    "training rows, and predicts in their own unit."
                )
        if run.family == "multimodal_robust_fusion":
            what += " Either may be missing."
    return f"{what}\n\n{_models(run)}"


def usage(run: Run) -> str:
    """How to load it."""
    snippet = LOADING.format(name=json.dumps(run.name, ensure_ascii=False))
    if run.is_aligner:
        snippet += ALIGNING
    else:
        kind = "thresholds" if run.thresholds else run.problem_type
        inputs = INPUTS["incomplete" if run.family == "multimodal_robust_fusion" else run.modality]
        snippet += f'inputs = processor({inputs}, return_tensors="pt")\nlogits = model(**inputs).logits\n'
        snippet += PREDICTIONS[kind]
    if run.modality == "text":
        snippet = snippet.removeprefix("from PIL import Image\n")
    return f"```python\n{snippet}\n```\n\n{loading_notes(run)}{_naming_the_task(run)}"


def loading_notes(run: Run) -> str:
    """What the snippet of any family needs, and what it trusts."""
    folder = "" if "/" in run.name else f" {inline(run.name)} is the folder of this card: give its path."
    return (
        f"It needs Python 3.11, transformers {TRANSFORMERS} or later, torch, torchvision and pillow.{folder}\n\n"
        "`trust_remote_code=True` runs the Python files of this repository: read them, and pin the `revision` that "
        "you have read. With `import hf_multimodal` first it is not needed."
    )


def _naming_the_task(run: Run) -> str:
    """The Hub has no task that reads an image and a text: the one that the model is filed under drops the image."""
    if run.is_aligner or run.modality != "both":
        return ""
    return (
        '\n\nA pipeline needs its task named, `pipeline("image-text-classification", model=...)`: '
        "`text-classification`, under which the Hub files this model and which is taken otherwise, reads texts alone."
    )


def training(run: Run) -> str:
    """What it learned from, and how."""
    parts = [_data(run), _counts(run), _classes(run), _course(run)]
    if run.hyperparameters:
        rows = [[f"`{name}`", _value(value)] for name, value in run.hyperparameters.items()]
        parts.append(markdown_table(rows, ["argument", "value"]))
    if "history.png" in run.images:
        parts.append(f"![Loss and validation scores by epoch]({run.images['history.png']})")
    return joined(parts)


def evaluation(run: Run) -> str:
    """How well it does, beside what needs no model and what no model can do better."""
    if run.split is None:
        return ""
    found = run.metrics[run.split]
    if run.is_aligner:
        return joined([_retrieval(run, found), _retrieval_ceiling(run)])
    parts = [_scores(run, found), _ceiling(run), _thresholds(run), _per_class(run, found)]
    if "confusion.png" in run.images:
        parts.append(f"![Confusion matrix]({run.images['confusion.png']})")
    return joined([*parts, _baselines(run), _missing(run)])


def limits(run: Run) -> str:
    """What it is not good for, as far as the run knows, and what its author adds."""
    found = run.metrics.get(run.split or "", {})
    said = [one_source(run)]
    if run.is_aligner and found:
        said.append("Recall falls as the pool grows: the numbers hold for the pools above.")
    if run.family == "multimodal_fusion" and run.modality == "both":
        said.append("Not made for examples that lack their image or their text: a robust classifier is.")
    for head in run.facts.get("untrained_heads", ()):
        said.append(f"The {inline(head)} head got no gradient in training, so it has no weight in the prediction.")
    per_class = found.get("per_class", {})
    if len(per_class) > 1:
        worst = min(per_class, key=lambda name: per_class[name]["f1"])
        entry = per_class[worst]
        said.append(f"Worst at {inline(worst)}: F1 {entry['f1']:.4f} on {entry['support']:,} rows.")
    if "ece" in found:
        fitted = run.family == "multimodal_robust_fusion" and not run.hyperparameters.get("no_stack")
        how = "they were calibrated on the validation rows" if fitted else "they were not calibrated after training"
        if fitted and run.hyperparameters.get("class_weights", "none") != "none":
            how += ", which does not undo the class weights of training"
        said.append(f"Probabilities are off by {found['ece']:.4f} on average (ECE); {how}.")
    if "test" in run.data.get("made_splits", ()):
        apart = run.data.get("group_duplicates")
        said.append(
            "The test rows were split off the same source; equal images and equal texts "
            + ("were kept on one side." if apart else "may stand on both sides.")
        )
    if run.card.license is None:
        said.append(
            "No licence was stated for the weights; those of the base models and of the data hold in any case."
        )
    return "\n".join(f"- {' '.join(sentence.split())}" for sentence in (*said, *run.limits))


def one_source(run: Run) -> str:
    """What the data of any family do not show."""
    if run.data.get("kind") == "controlled":
        return "The data are generated: it is of no use on others."
    return "Trained and measured on one source of data; what it does on others was not measured."


def joined(parts: Iterable[str]) -> str:
    return "\n\n".join(part for part in parts if part)


def inner_model(config: Mapping[str, Any]) -> str:
    """Kind and size of a model inside ours."""
    size = [words.format(f"{config[key]:,}") for key, words in SIZES.items() if isinstance(config.get(key), int)]
    kind = inline(config.get("architecture") or config.get("model_type"))
    return f"{kind} ({', '.join(size)})" if size else kind


def base_links(run: Run) -> list[str]:
    """Links to those of the models that were started from that have a name on the Hub."""
    return [f"[{inline(name)}](https://huggingface.co/{name})" for name in run.base_models]


def parameter_counts(run: Run) -> str:
    return f"{run.facts['parameters']:,} parameters, {run.facts['trainable_parameters']:,} of them trained."


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_value, value))
    return f"{value:g}" if isinstance(value, float) else inline(value)


def _classes_of(run: Run) -> str:
    kind = "one of" if run.problem_type == "single_label_classification" else "any of"
    names = run.class_names
    listed = f": {', '.join(map(inline, names))}" if len(names) <= MOST_CLASSES else ""
    return f"{kind} {len(names):,} classes{listed}"


def _models(run: Run) -> str:
    sentences = []
    for side, read in (("vision", "Images"), ("text", "Texts")):
        config = run.config.get(f"{side}_config")
        if config:
            sentences.append(f"{read}: {inner_model(config)}.")
    if run.modality == "both" and not run.is_aligner:
        sentences.append(f"Fusion: {inline(run.config.get('fusion'))}.")
    if run.base_models:
        links = base_links(run)
        sides = sum(bool(run.config.get(f"{side}_config")) for side in ("vision", "text"))
        links += ["weights that have no name on the Hub"] if len(links) < sides else []
        sentences.append(f"Started from {' and '.join(links)}.")
    elif run.hyperparameters.get("from_scratch"):
        sentences.append("Started from random weights.")
    if "parameters" in run.facts:
        sentences.append(parameter_counts(run))
    return " ".join(sentences)


def _data(run: Run) -> str:
    name = run.dataset_id
    link = f"[{inline(name)}](https://huggingface.co/datasets/{name})" if name else None
    said = link or inline(run.card.dataset_name or run.data.get("name") or "")
    if run.data and not said:
        said = "local files, not named here"
    sentences = [f"Data: {said}."] if said else []
    if "train_rows" in run.facts and not run.data:
        sentences.append(f"{run.facts['train_rows']:,} training rows.")
    if "train_images" in run.facts:
        left_out = sum(run.facts.get("incomplete_pairs", {}).values())
        captions = f" with their captions; {left_out:,} rows without image or caption were left out."
        paired = "." if run.family == "multimodal_image_tokenizer" else captions
        sentences.append(f"{run.facts['train_images']:,} training images{paired}")
    for name, done in (("rows_too_long", "were left out, being too long"), ("rows_cut", "were cut, being too long")):
        told = run.facts.get(name) or 0
        count = sum(told.values()) if isinstance(told, Mapping) else told
        if count:
            sentences.append(f"{count:,} rows {done}.")
    if run.facts.get("bad_samples"):
        sentences.append(f"{run.facts['bad_samples']:,} bad samples were let pass.")
    return " ".join(sentences)


def _counts(run: Run) -> str:
    splits = run.data.get("splits", {})
    rows = [
        [name, counts["rows"], *(counts["presence"][pattern] for pattern in PATTERNS)]
        for name, counts in _in_order(splits)
    ]
    return markdown_table(rows, ["split", "rows", *PATTERNS.values()]) if rows else ""


def _classes(run: Run) -> str:
    splits = dict(_in_order(run.data.get("splits", {})))
    names = list(dict.fromkeys(name for counts in splits.values() for name in counts["classes"]))
    if not run.is_classifier or not names or len(names) > MOST_CLASSES:
        return ""
    rows = [[inline(name), *(counts["classes"].get(name, 0) for counts in splits.values())] for name in names]
    return markdown_table(rows, ["class", *splits])


def _in_order(splits: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, splits[name]) for name in ("train", "validation", "test") if name in splits]


def _course(run: Run) -> str:
    facts = run.facts
    if "steps" not in facts:
        return ""
    kept = "the last step was kept"
    if facts.get("best_step"):
        metric = run.hyperparameters.get("metric_for_best_model")
        kept = f"that of step {facts['best_step']:,} was kept" + (
            f", the best by validation {inline(metric)}" if metric else ""
        )
    if run.hyperparameters.get("fit_on_validation"):
        kept += ", and the validation rows were trained on too"
    if facts.get("stopped_early"):
        kept = f"training stopped early, of {facts['planned_steps']:,} steps that were planned; {kept}"
    if facts.get("resumed_from_step") is not None:
        kept = f"resumed after step {facts['resumed_from_step']:,}, the seconds being those since; {kept}"
    return _first_stage(run) + (
        f"{facts['steps']:,} steps of {facts['examples_per_step']:,} examples ({facts['epochs']:g} epochs) in "
        f"{facts['train_seconds']:,.0f} seconds, seed {facts['seed']}; {kept}."
    )


def _first_stage(run: Run) -> str:
    """What was trained before all else; nothing of most runs."""
    first = run.facts.get("stage_1")
    if first:
        return (
            f"The projector alone first ({first['trainable_parameters']:,} parameters): {first['steps']:,} steps in "
            f"{first['train_seconds']:,.0f} seconds. Then "
        )
    return "The projector alone was trained: " if run.facts.get("stage") == "projector" else ""


def _scores(run: Run, found: Mapping[str, Any]) -> str:
    intervals = run.metrics.get("intervals", {}).get(run.split, {})
    simplest = "mean_baseline_" if run.problem_type == "regression" else "majority_"
    rows = []
    for name, words in METRICS.items():
        if name in found:
            given, trivial = intervals.get(name), found.get(f"{simplest}{name}")
            interval = f"{given['low']:.4f} to {given['high']:.4f}" if given else ""
            rows.append([words, found[name], interval, "" if trivial is None else f"{trivial:.4f}"])
    baseline = "always the mean" if run.problem_type == "regression" else "always the most frequent"
    columns = ["metric", "value", "95 % interval", baseline]
    if not intervals:
        rows, columns = [[row[0], row[1], row[3]] for row in rows], ["metric", "value", baseline]
    told = "; intervals by bootstrap over these rows" if intervals else ""
    return f"{found['count']:,} rows of the {run.split} split{told}.\n\n{markdown_table(rows, columns)}"


def _ceiling(run: Run) -> str:
    known = run.data.get("ceiling")
    if not known or run.is_aligner:
        return ""
    rows = [[seen, entry["accuracy"], entry["nll"]] for seen, entry in known.items()]
    return "The best possible on complete examples of this task:\n\n" + markdown_table(
        rows, ["seen", "accuracy", "NLL"]
    )


def _thresholds(run: Run) -> str:
    if not run.thresholds:
        return ""
    if run.hyperparameters.get("threshold") == "tuned":
        return "A label is said to hold from a threshold on: its own, that of the best F1 on the validation rows."
    return f"A label is said to hold from the probability {run.thresholds[0]:g} on."


def _per_class(run: Run, found: Mapping[str, Any]) -> str:
    per_class = found.get("per_class", {})
    if not 0 < len(per_class) <= MOST_CLASSES:
        return ""
    rows = [
        [inline(name), entry["f1"], entry["precision"], entry["recall"], entry["support"]]
        for name, entry in per_class.items()
    ]
    columns = ["class", "F1", "precision", "recall", "rows"]
    if run.thresholds:
        limits = dict(zip(map(inline, run.class_names), run.thresholds, strict=True))
        rows = [[*row, limits[row[0]]] for row in rows]
        columns.append("threshold")
    return markdown_table(rows, columns)


def _retrieval(run: Run, found: Mapping[str, Any]) -> str:
    groups = {inline(name): entry for name, entry in found.get("groups", {}).items()}
    table = retrieval_table({**found, **({"groups": groups} if groups else {})})
    return f"The {run.split} split, searched as one pool.\n\n{table}"


def _retrieval_ceiling(run: Run) -> str:
    known = run.data.get("ceiling")
    if not known:
        return ""
    at = sorted(int(name.removeprefix("recall_at_")) for name in next(iter(known.values())))
    rows = [[way.replace("_", " "), *(entry[f"recall_at_{k}"] for k in at)] for way, entry in known.items()]
    table = markdown_table(rows, ["queries", *(f"R@{k}" for k in at)])
    return f"The best that can be expected, as images in this pool show the same:\n\n{table}"


def _baselines(run: Run) -> str:
    found = run.metrics.get("baselines", {})
    if not found:
        return ""
    metrics = list(next(iter(found.values()))["difference"])
    rows = []
    for name, entry in found.items():
        leads = [entry["difference"][metric] for metric in metrics]
        rows.append(
            [inline(name)]
            + [f"{entry[metric]:.4f}" for metric in metrics]
            + [f"{lead['difference']:+.4f} ({lead['low']:+.4f} to {lead['high']:+.4f})" for lead in leads]
        )
    words = [METRICS.get(metric, metric) for metric in metrics]
    columns = ["baseline", *words, *(f"this model minus it, {word}" for word in words)]
    return f"Beside its baselines, trained on the same rows, with 95 % intervals:\n\n{markdown_table(rows, columns)}"


def _missing(run: Run) -> str:
    points = run.metrics.get("missing_curve")
    if not points:
        return ""
    parts = [
        "### When images or texts are missing",
        "Images or texts taken away from a share of the test rows, with both the image from half of these and the "
        f"text from the other half; mean and standard deviation over {curve_spread(points)}.",
    ]
    if "missing_curve.png" in run.images:
        parts.append(f"![Scores by the share of rows that lack something]({run.images['missing_curve.png']})")
    return joined([*parts, curve_table(points)])
