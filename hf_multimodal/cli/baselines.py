"""The baselines of a robust classifier: the same models trained alone or plainly fused, and predictions combined."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from transformers import TrainingArguments

from hf_multimodal.cli import train_fusion
from hf_multimodal.cli.command_line import flags_of
from hf_multimodal.cli.commands import COMMANDS
from hf_multimodal.cli.training_flags import parse_training
from hf_multimodal.data.checks import BadSample, first_reasons
from hf_multimodal.data.loading import LoadedData
from hf_multimodal.evaluation.bootstrap import paired_bootstrap
from hf_multimodal.evaluation.calibration import EPSILON
from hf_multimodal.evaluation.predictions import Predictions, read_predictions
from hf_multimodal.evaluation.report import write_json, write_run
from hf_multimodal.evaluation.thresholds import NEUTRAL
from hf_multimodal.hub.tables import markdown_table
from hf_multimodal.training.preparation import keep_readable

# Each is a run of train-fusion on the same rows, with these flags changed.
TRAINED: dict[str, dict[str, Any]] = {
    "image alone": {"modality": "image", "on_bad_sample": "drop"},
    "text alone": {"modality": "text", "on_bad_sample": "drop"},
    "plain fusion": {"complete_only": True},
    "zero-filled fusion": {},
}
# What each trains and stops on.
NEEDS = {"image alone": ("image",), "text alone": ("text",), "plain fusion": ("image", "text")}
# What has no use without the other modality, by the modality that is kept.
UNUSED = {
    "image": ("text_model", "freeze_text_layers", "text_pooling", "fusion", "word_vectors", "max_length"),
    "text": (
        "vision_model",
        "vision_layers",
        "freeze_vision_layers",
        "image_pooling",
        "feature_cache",
        "fusion",
        "augment",
        "cached_augmentations",
        "whole_images",
        "image_value_range",
    ),
}
NOT_TAKEN = ("push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "run_name", "base_models")


def baseline_arguments(given: Mapping[str, Any], name: str, output_dir: str) -> dict[str, Any]:
    """Arguments of one baseline's training run.

    Args:
        given: Arguments of the robust run that differ from their defaults.
        name: A key of `TRAINED`.
        output_dir: Folder of the robust run.

    Example:

    >>> given = {"data": "t.csv", "vision_model": "vit", "modality_dropout": [1, 0, 0]}
    >>> baseline_arguments(given, "plain fusion", "r")
    {'data': 't.csv', 'vision_model': 'vit', 'complete_only': True, 'output_dir': 'r/baselines/plain_fusion'}
    """
    command = COMMANDS["train-fusion"]
    kinds = (*command.groups.values(), *command.training, TrainingArguments)
    known = {entry.name for kind in kinds for entry in fields(kind)}
    changes = TRAINED[name]
    left_out = (*UNUSED.get(changes.get("modality", ""), ()), *NOT_TAKEN)
    return {
        **{key: value for key, value in given.items() if key in known and key not in left_out},
        **changes,
        "output_dir": str(Path(output_dir, "baselines", name.replace(" ", "_"))),
    }


def parse_baselines(given: Mapping[str, Any], output_dir: str) -> dict[str, Any]:
    """The baselines' flags as `parse_training` gives them, by name; what is wrong with them shows here.

    Their folders lie in the robust run's: where that one may be written, so may these.
    """
    flags = {name: flags_of(baseline_arguments(given, name, output_dir)) for name in TRAINED}
    return {name: parse_training("train-fusion", [*own, "--overwrite_output_dir"]) for name, own in flags.items()}


def baseline_rows(data: LoadedData, bad_samples: Sequence[BadSample] = ()) -> dict[str, LoadedData]:
    """The rows that each baseline can read, by name; whether all of them can be trained shows here.

    Args:
        data: The robust run's checked rows.
        bad_samples: What the checks let pass; the first are named where a baseline has no row.

    Raises:
        ValueError: If a baseline has nothing to train on, or nothing to stop on.
    """
    found: dict[str, LoadedData] = {}
    for name in TRAINED:
        needed = NEEDS.get(name, ())
        splits = keep_readable(data.splits, needed)
        for split, rows in splits.items():
            if not len(rows):
                raise ValueError(
                    f"baselines: {name!r} has no row in the split {str(split)!r}: every one lacks "
                    f"{' or '.join(needed)}. Take less away, or leave baselines out.{first_reasons(bad_samples)}"
                )
        found[name] = replace(data, splits=splits)
    return found


def compare_with_baselines(
    baselines: Mapping[str, Any],
    rows: Mapping[str, LoadedData],
    bad_samples: list[BadSample],
    output_dir: str,
) -> dict[str, Any]:
    """Train the baselines, combine their predictions, and compare all with the robust run on its test rows.

    Args:
        baselines: What `parse_baselines` gives.
        rows: What `baseline_rows` gives.
        bad_samples: What the robust run's checks let pass.
        output_dir: Folder of the robust run, which holds its `predictions.csv` and `metrics.json`.

    Returns:
        `baselines`: for each its metrics and, by metric, the robust run's `difference` with its 95 % interval. Also
        in `metrics.json`. Empty on all ranks but the first.
    """
    predicted: dict[str, Predictions] = {}
    for name, flags in baselines.items():
        if train_fusion.train(flags, rows[name], bad_samples):
            path = Path(flags.training.output_dir, "predictions.csv")
            predicted[name] = read_predictions(path, rows[name].problem_type)
    if not predicted:
        return {}
    problem_type = next(iter(predicted.values())).problem_type
    robust = read_predictions(Path(output_dir, "predictions.csv"), problem_type)
    predicted |= combine(
        predicted, robust, {name: _thresholds(baselines[name].training.output_dir) for name in predicted}
    )
    found = {}
    for name, theirs in predicted.items():
        if name not in TRAINED:
            write_run(Path(output_dir, "baselines", name.replace(" ", "_")), {"test": theirs})
        difference = {
            metric: {"difference": d.difference, "low": d.low, "high": d.high}
            for metric, d in paired_bootstrap(robust, theirs).items()
        }
        found[name] = {**theirs.metrics(), "difference": difference}
    path = Path(output_dir, "metrics.json")
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "baselines": found})
    print_baselines(robust, found)
    return {"baselines": found}


def _thresholds(folder: str) -> list[float] | None:
    return json.loads(Path(folder, "config.json").read_text(encoding="utf-8")).get("thresholds")


def combine(
    predicted: Mapping[str, Predictions],
    robust: Predictions,
    thresholds: Mapping[str, Sequence[float] | None] = MappingProxyType({}),
) -> dict[str, Predictions]:
    """Baselines that need no training of their own, from the predictions of those that were trained.

    `dispatch` takes plain fusion where both are there and else the model of what is there; `averaged` and, for
    single-label problems, `summed logs` join the two unimodal models over what is there. A row with neither gets both
    models' average.

    Args:
        predicted: `image alone`, `text alone` and `plain fusion` on the same rows, in the same order.
        robust: The robust run's, which tell what each row has.
        thresholds: Of each of those that were trained, for a multi-label problem; joined as the predictions are. One
            that is None or not there is .5.
    """
    present = np.stack([robust.has_image, robust.has_text], axis=1)
    weight = np.where(present.any(axis=1, keepdims=True), present, True)[..., None].astype(float)  # (rows, 2, 1)
    trained = ("image alone", "text alone", "plain fusion")
    outputs = {name: predicted[name].outputs.reshape(len(robust.ids), -1) for name in trained}
    single = np.stack([outputs["image alone"], outputs["text alone"]], axis=1)  # (rows, 2, classes)

    def joined(image: np.ndarray, text: np.ndarray, fused: np.ndarray) -> dict[str, np.ndarray]:
        averaged = (weight * np.stack([image, text], axis=1)).sum(axis=1) / weight.sum(axis=1)
        return {"dispatch": np.where(present.all(axis=1, keepdims=True), fused, averaged), "averaged": averaged}

    tables = joined(*outputs.values())
    limits = joined(*(np.broadcast_to(thresholds.get(name) or NEUTRAL, outputs[name].shape) for name in trained))
    if robust.problem_type == "single_label_classification":
        tables["summed logs"] = _normalised(weight * np.log(np.clip(single, EPSILON, 1)))
    return {
        name: Predictions.from_outputs(
            robust.problem_type,
            robust.ids,
            table,
            robust.class_names,
            labels=list(robust.labels),
            has_image=robust.has_image,
            has_text=robust.has_text,
            thresholds=limits.get(name),
        )
        for name, table in tables.items()
    }


def _normalised(logs: np.ndarray) -> np.ndarray:
    total = logs.sum(axis=1)
    powers = np.exp(total - total.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def print_baselines(robust: Predictions, found: Mapping[str, Any]) -> None:
    """Print the baselines as a table, beside the robust run and the interval of its lead."""
    metrics = list(next(iter(found.values()))["difference"])
    own = robust.metrics()
    rows: list[list[Any]] = [["robust", *(own[metric] for metric in metrics), ""]]
    for name, entry in found.items():
        lead = entry["difference"][metrics[0]]
        interval = f"{lead['difference']:+.4f} [{lead['low']:+.4f}, {lead['high']:+.4f}]"
        rows.append([name, *(entry[metric] for metric in metrics), interval])
    print("\n" + markdown_table(rows, ["model", *metrics, f"robust minus it, {metrics[0]}"]))
