"""What a run tells of itself in `metrics.json`, for its card and for whoever compares runs."""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset

from hf_multimodal.data.counts import count_rows
from hf_multimodal.data.loading import LoadedData
from hf_multimodal.evaluation.retrieval import DIRECTIONS, RECALL_AT
from hf_multimodal.hub.runs import HYPERPARAMETERS, hub_name
from hf_multimodal.synthetic.classification import CONTROLLED_TASKS, ceiling
from hf_multimodal.synthetic.retrieval import retrieval_ceiling

CHOOSING = ("metric_for_best_model", "early_stopping_patience")  # of use only where a checkpoint is chosen
STARTED_FROM = ("vision_model", "text_model", "from_fusion", "image_tokenizer", "from_aligner", "from_run")
DECODER = ("decoder", "hidden_size", "num_hidden_layers", "num_attention_heads", "dropout")  # of random weights
CODEBOOK = ("codebook_size", "codebook_dim", "codebook_decay", "commitment_weight")  # which `fsq` has not


def run_record(values: Mapping[str, Any], data: LoadedData) -> dict[str, Any]:
    """What was trained on what, without any path of this machine.

    Args:
        values: What was chosen, by the name of its flag; `data` is what was loaded.
        data: The rows that were used.

    Returns:
        `base_models`, those that have a name on the Hub; `hyperparameters`, the values that held, given or default;
        `data`: `kind`, `name` (None for local files), `config` (of a Hub data set), `splits` as `count_rows` gives
        them, `made_splits`, which the source did not give, `group_duplicates`, and for a controlled task `ceiling`.
    """
    source = str(values["data"])
    started_from = [values.get(name) for name in STARTED_FROM]
    named = [] if values.get("from_scratch") else map(hub_name, started_from)
    without = () if values["load_best_model_at_end"] else CHOOSING
    if data.problem_type != "multi_label_classification":
        without = (*without, "threshold")
    if "quantizer" in values:
        without = (*without, *(CODEBOOK if values["quantizer"] == "fsq" else ("levels",)))
    if "stage" in values and (values["text_model"] or values["from_run"]):
        without = (*without, *DECODER)
    chosen = {name: values[name] for name in HYPERPARAMETERS if name in values and name not in without}
    kind = data.report.get("kind")
    facts: dict[str, Any] = {
        "kind": kind,
        "name": source if kind in ("Hub", "controlled") else None,
        "config": values["data_config"],
        "splits": count_rows(data.splits, data.id2label),
        "made_splits": sorted(str(name) for name in data.splits if name not in data.sources),
        "group_duplicates": values["group_duplicates"],
    }
    task = source.removeprefix("controlled:")
    if kind == "controlled" and task in CONTROLLED_TASKS:
        bounds = {seen: ceiling(task, seen) for seen in ("image", "text", "both")}
        facts["ceiling"] = {seen: {"accuracy": bound.accuracy, "nll": bound.nll} for seen, bound in bounds.items()}
    return {
        "base_models": list(dict.fromkeys(name for name in named if name is not None)),
        "hyperparameters": {name: getattr(value, "value", value) for name, value in chosen.items()},
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
