"""How a classifier's metrics fall as more and more examples lack their image or their text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from hf_multimodal.data.presence import MissingRate, what_is_left
from hf_multimodal.evaluation.bootstrap import seed_summary
from hf_multimodal.evaluation.predictions import Predictions
from hf_multimodal.inference.prediction import as_predictions, forward_dataset
from hf_multimodal.models.configuration_vision_text import MODALITIES, PRESENCE_PATTERNS

RATES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
DRAWS = 5


def predictions_by_presence(
    model: Any,
    processor: Any,
    dataset: Dataset,
    patterns: Sequence[str] = MODALITIES,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    show_progress: bool = False,
) -> dict[str, Predictions]:
    """Predict all rows with both modalities shown as far as they are present, with images only, with texts only.

    The inner models run once, whatever the number of patterns.

    Args:
        model: A classifier; it is put into eval mode.
        processor: Its processor.
        dataset: Labelled rows.
        patterns: Keys of `PRESENCE_PATTERNS`.
        batch_size: Examples a forward pass.
        num_workers: Processes that decode and tokenize.
        show_progress: Whether to show a progress bar.

    Returns:
        Predictions by pattern; every curve is put together from them without another pass through the model.
    """

    def forward(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        features = model.encode(**inputs)
        return {pattern: model.classify(features.shown(*PRESENCE_PATTERNS[pattern])) for pattern in patterns}

    options: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers, "show_progress": show_progress}
    logits, present = forward_dataset(model, processor, dataset, forward, **options)
    return {
        pattern: as_predictions(model, dataset, found, present * torch.tensor(PRESENCE_PATTERNS[pattern]))
        for pattern, found in logits.items()
    }


def missing_curve(runs: Sequence[Mapping[str, Predictions]], came: np.ndarray) -> list[dict[str, Any]]:
    """Metrics at every rate of missing images, missing texts, and either.

    Args:
        runs: What `predictions_by_presence` gives, for one model or several seeds of one recipe.
        came: (rows, 2) bool, what the rows have, column 0 image, column 1 text.

    Returns:
        Points with `missing`, `rate`, and by metric `mean` and `sd` of `count` values: one a run, which is the mean
        over draws of who lacks what (`over` is `runs`), or of a single run one a draw (`draws`).
    """
    points, several = [], len(runs) > 1
    for which in MODALITIES:
        for rate in RATES:
            hidden = [what_is_left(came, MissingRate(which, rate).draw(len(came), draw)) for draw in range(DRAWS)]
            found = [[_joined(run, left).metrics() for left in hidden] for run in runs]
            scores = {}
            for name in (name for name, value in found[0][0].items() if isinstance(value, float)):
                table = np.array([[metrics[name] for metrics in draws] for draws in found])  # (runs, draws)
                summary = seed_summary((table.mean(axis=1) if several else table[0]).tolist())
                scores[name] = {"mean": summary.mean, "sd": summary.sd}
            counted = {"count": len(runs), "over": "runs"} if several else {"count": DRAWS, "over": "draws"}
            points.append({"missing": which, "rate": rate, **counted, **scores})
    return points


def _joined(by_pattern: Mapping[str, Predictions], left: np.ndarray) -> Predictions:
    """Each row's prediction from the pattern that it is left with; one without anything is so in every pattern."""
    order = [by_pattern[name] for name in MODALITIES]
    source = np.select([left[:, 0] & ~left[:, 1], ~left[:, 0] & left[:, 1]], [1, 2], default=0)

    def chosen(name: str) -> np.ndarray:
        parts = np.stack([getattr(part, name) for part in order])
        return parts[source, np.arange(len(source))]

    whole = by_pattern["both"]
    return Predictions(
        whole.problem_type,
        whole.ids,
        whole.labels,
        chosen("predicted"),
        chosen("probabilities"),
        whole.class_names,
        chosen("has_image"),
        chosen("has_text"),
    )
