"""Metrics of image+text classifiers as a module of `evaluate`; the numbers are those of `hf_multimodal.evaluation`."""

import datasets
import evaluate

from hf_multimodal.evaluation.metrics import METRICS, metrics_from_outputs
from hf_multimodal.evaluation.thresholds import decide

DESCRIPTION = """Accuracy, F1, likelihood, Brier score and calibration error from probabilities, beside the majority
baseline. The configurations are the problem types of transformers; single-label is the default."""

INPUTS = """
Args:
    predictions: Probabilities, one list of K a row; for regression one value a row.
    references: Class indices; for multi-label one list of K zeros and ones a row; for regression one value a row.
    class_names: The K names; the class indices as text where left out.
    thresholds: For multi-label, the probability from which on each label holds; .5 where left out.
Returns:
    A dict as the function of the problem type in `hf_multimodal.evaluation.metrics` describes it.
"""


class ImageTextClassification(evaluate.Metric):
    """`evaluate.load(folder, problem_type)`; the configuration name is the problem type."""

    def _info(self):
        if self.config_name == "default":
            self.config_name = "single_label_classification"
        if self.config_name not in METRICS:
            raise ValueError(f"the configuration must be one of {list(METRICS)}, got {self.config_name!r}.")
        row = datasets.Value("float64")
        inputs = {
            "single_label_classification": (datasets.Sequence(row), datasets.Value("int64")),
            "multi_label_classification": (datasets.Sequence(row), datasets.Sequence(row)),
            "regression": (row, row),
        }
        predictions, references = inputs[self.config_name]
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": predictions, "references": references}),
        )

    def _compute(self, predictions, references, class_names=None, thresholds=None):
        if class_names is None:
            class_names = [] if self.config_name == "regression" else [str(k) for k in range(len(predictions[0]))]
        if thresholds is not None and self.config_name != "multi_label_classification":
            raise ValueError(f"thresholds are for multi_label_classification, not for {self.config_name}.")
        said = None if thresholds is None else decide(predictions, thresholds)
        return metrics_from_outputs(self.config_name, predictions, references, class_names, said)
