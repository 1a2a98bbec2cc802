"""What a run tells of itself in `metrics.json`, for its card and for whoever compares runs."""

from dataclasses import fields
from typing import Any

from datasets import Dataset
from transformers import TrainingArguments

from hf_multimodal.cli.training_arguments import DataArguments, ModelArguments
from hf_multimodal.data.counts import count_rows
from hf_multimodal.data.loading import LoadedData
from hf_multimodal.evaluation.retrieval import DIRECTIONS, RECALL_AT
from hf_multimodal.hub.runs import HYPERPARAMETERS, hub_name
from hf_multimodal.synthetic.classification import CONTROLLED_TASKS, ceiling
from hf_multimodal.synthetic.retrieval import retrieval_ceiling

CHOOSING = ("metric_for_best_model", "early_stopping_patience")  # of use only where a checkpoint is chosen


def run_facts(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    data: LoadedData,
) -> dict[str, Any]:
    """What was trained on what, without any path of this machine.

    Args:
        model_args: Choices of the model.
        data_args: Choices of the data.
        training_args: As transformers has them.
        data: The rows that were used.

    Returns:
        `base_models`, those that have a name on the Hub; `hyperparameters`, the values that held, given or default;
        `data`: `kind`, `name` (None for local files), `config` (of a Hub data set), `splits` as `count_rows` gives
        them, `made_splits`, which the source did not give, `group_duplicates`, and for a controlled task `ceiling`.
    """
    started_from = [model_args.vision_model, model_args.text_model, model_args.from_fusion]
    named = [] if model_args.from_scratch else map(hub_name, started_from)
    asked = [
        (args, entry.name) for args in (model_args, data_args, training_args) for entry in fields(args) if entry.init
    ]
    values = {name: getattr(args, name) for args, name in asked if name in HYPERPARAMETERS}
    if data.problem_type != "multi_label_classification":
        values.pop("threshold", None)
    if not training_args.load_best_model_at_end:
        values = {name: value for name, value in values.items() if name not in CHOOSING}
    kind = data.report.get("kind")
    facts: dict[str, Any] = {
        "kind": kind,
        "name": data_args.data if kind in ("Hub", "controlled") else None,
        "config": data_args.data_config,
        "splits": count_rows(data.splits, data.id2label),
        "made_splits": sorted(str(name) for name in data.splits if name not in data.sources),
        "group_duplicates": data_args.group_duplicates,
    }
    task = str(data_args.data).removeprefix("controlled:")
    if kind == "controlled" and task in CONTROLLED_TASKS:
        bounds = {seen: ceiling(task, seen) for seen in ("image", "text", "both")}
        facts["ceiling"] = {seen: {"accuracy": bound.accuracy, "nll": bound.nll} for seen, bound in bounds.items()}
    return {
        "base_models": list(dict.fromkeys(name for name in named if name is not None)),
        "hyperparameters": {name: getattr(value, "value", value) for name, value in values.items()},
        "data": facts,
    }


def pool_ceiling(rows: Dataset, images: Dataset) -> dict[str, dict[str, float]] | None:
    """The best recalls in a generated pool, by direction; None where they are not known.

    Args:
        rows: The test rows.
        images: The same from `group_pairs`.
    """
    attributes = ("shape", "colour", "place")
    if len(rows) != len(images) or not set(attributes) <= set(rows.column_names):
        return None
    shown = [list(row) for row in zip(*(rows[name][:] for name in attributes), strict=True)]
    bounds = {k: retrieval_ceiling(shown, k=k) for k in RECALL_AT}
    return {way: {f"recall_at_{k}": getattr(bound, way) for k, bound in bounds.items()} for way in DIRECTIONS}
