"""What the flags of a training command mean together: defaults that hang on others, and contradictions."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from hf_multimodal.cli.arguments import TUNED, USUAL_THRESHOLD
from hf_multimodal.cli.command_line import CommandLine
from hf_multimodal.cli.commands import COMMANDS, FINAL_FIT_DEFAULTS
from hf_multimodal.data.presence import MissingRate, ModalityDropout
from hf_multimodal.models.processing_multimodal import check_value_range
from hf_multimodal.training.arguments import USUAL_BATCH_SIZE
from hf_multimodal.training.checkpoints import refuse_finished_run

NO_LABELS = {
    "train-aligner": "an aligner",
    "train-image-tokenizer": "an image tokenizer",
    "train-text-to-image": "a text-to-image model",
    "train-vision-language": "a vision-language model",
}
LOWER_IS_BETTER = ("loss", "nll", "brier", "ece", "mse", "mae")


def parse_training(name: str, argv: list[str] | None = None) -> Any:
    """Read the flags of a training command and check what can be known before data are loaded.

    Args:
        name: Of the command.
        argv: The flags; None means those of the process.

    Returns:
        The groups of the command by their names; `training`, with both learning rates filled in; and `given`, the
        values that repeat the run on any number of processes.

    Raises:
        FileExistsError: If the output folder holds a finished run that is neither resumed nor to be replaced.
        ValueError: On an unknown flag, key or choice, or flags that contradict each other.
    """
    command = COMMANDS[name]
    line = CommandLine(command, argv)
    if name == "train-robust-fusion" and "--modality" in line.flags:
        reads = line.flags[line.flags.index("--modality") + 1 :][:1]
        raise ValueError(f"modality {''.join(reads)!r} has no use: a robust classifier reads both.")
    given = line.values()
    if given.get("from_scratch"):
        given = line.values(command.from_scratch)
    if given["fit_on_validation"]:
        line.parser.set_defaults(**FINAL_FIT_DEFAULTS)
    batch = line.given().get("per_device_train_batch_size")
    if batch is None and given["total_train_batch_size"] is not None:
        line.parser.set_defaults(per_device_train_batch_size=USUAL_BATCH_SIZE)
    if given["label_names"] is not None and "classes" not in command.groups:
        raise ValueError(f"label_names {given['label_names']} have no use: {NO_LABELS[name]} reads no labels.")
    flags = line.parse()
    training = flags.training
    built = getattr(flags, "model", None) or getattr(flags, "vision_language", None)
    if built is not None:
        rates = learning_rates(built.from_scratch, training.learning_rate, training.head_learning_rate)
        training.learning_rate, training.head_learning_rate = rates
    else:
        training.head_learning_rate = training.learning_rate  # nothing is pretrained
        training.label_names = []  # the loss needs none
    flags.values = {
        **{key: value for group in command.groups for key, value in vars(getattr(flags, group)).items()},
        **training_values(command.training, flags.training),
    }
    if flags.source.data is None:
        raise ValueError("data is needed: a table, a folder, a Hub data set, or controlled:<task>.")
    check_value_range(getattr(flags.reading, "image_value_range", None))
    if flags.run.fit_on_validation:
        _check_final_fit(flags)
    if "vision_language" in command.groups and not flags.vision_language.from_scratch:
        _check_pretrained_decoder(flags, command)
    if "model" in command.groups:
        check_training(flags)
    metric = training.metric_for_best_model
    if metric is not None and (metric.removeprefix("eval_") in LOWER_IS_BETTER or metric.endswith("_rank")):
        training.greater_is_better = False
    if training.dataloader_num_workers == 0:
        training.dataloader_persistent_workers = False
    if not flags.run.overwrite_output_dir:
        refuse_finished_run(str(training.output_dir), training.resume_from_checkpoint)
    flags.given.pop("per_device_train_batch_size", None)  # the total means the same on any number of processes
    flags.given["total_train_batch_size"] = training.per_device_train_batch_size * training.world_size
    return flags


def training_values(groups: tuple[type, ...], training: Any) -> dict[str, Any]:
    """What a run tells of its training arguments: those of transformers, and of ours those that the command has."""
    ours = {entry.name for kind in groups for entry in fields(kind)}
    theirs = {entry.name for kind in type(training).__mro__[1:] if kind is not object for entry in fields(kind)}
    return {entry.name: getattr(training, entry.name) for entry in fields(training) if entry.name in ours | theirs}


def learning_rates(from_scratch: bool, rate: float | None, head_rate: float | None) -> tuple[float, float]:
    """Fill in what was left open.

    Args:
        from_scratch: Whether nothing is pretrained.
        rate: `--learning_rate`, None where not given.
        head_rate: `--head_learning_rate`, None where not given.

    Returns:
        Learning rates of the pretrained parts and of all others.

    Example:

    >>> learning_rates(True, None, None), learning_rates(False, 5e-5, None)
    ((0.001, 0.001), (5e-05, 0.001))
    """
    body = (1e-3 if from_scratch else 2e-5) if rate is None else rate
    return body, (body if from_scratch else 1e-3) if head_rate is None else head_rate


def check_training(flags: Any) -> None:
    """Refuse flags that contradict each other, and such as would have no effect.

    Args:
        flags: The groups of a training command.

    Raises:
        ValueError: On the first of them.
    """
    model, reading, training = flags.model, flags.reading, flags.training
    modality = flags.modality.modality if hasattr(flags, "modality") else "both"
    from_fusion = flags.robust.from_fusion if hasattr(flags, "robust") else None
    fusion, classes = getattr(flags, "fusion", None), getattr(flags, "classes", None)
    for side, other in (("vision", "image"), ("text", "text")):
        name, freeze = f"{side}_model", f"freeze_{side}_layers"
        used = modality in ("both", other)
        if getattr(model, freeze) != "0" and not used:
            raise ValueError(f"{freeze} {getattr(model, freeze)!r} has no use with modality {modality!r}.")
        if used and not (model.from_scratch or from_fusion) and getattr(model, name) is None:
            raise ValueError(f"{name} is needed for modality {modality!r} unless from_scratch is set.")
        if not used and getattr(model, name) is not None:
            raise ValueError(f"{name} {getattr(model, name)!r} has no use with modality {modality!r}.")
    useless: dict[str, tuple[tuple[Any, str, Any], ...]] = {
        "image": ((model, "text_pooling", "auto"), (reading, "max_length", None)),
        "text": (
            (model, "image_pooling", "auto"),
            (reading, "augment", False),
            (reading, "whole_images", False),
            (reading, "image_value_range", None),
        ),
    }
    for group, name, usual in useless.get(modality, ()):
        value = getattr(group, name)
        if value != usual:
            shown = name if value is True or isinstance(value, list) else f"{name} {value!r}"
            raise ValueError(f"{shown} has no use with modality {modality!r}.")
    if modality != "both" and fusion is not None and fusion.fusion != "concat":
        raise ValueError(f"fusion {fusion.fusion!r} has no use with modality {modality!r}.")
    if modality == "text" and model.vision_layers is not None:
        raise ValueError("vision_layers needs a pretrained vision model.")
    if modality == "image" and model.word_vectors is not None:
        raise ValueError("word_vectors needs from_scratch and a text model.")
    if from_fusion is not None:
        _check_brought(flags)
    if reading.feature_cache is not None and model.freeze_vision_layers == "0":
        raise ValueError("feature_cache needs freeze_vision_layers: no layer of the vision model is frozen.")
    if fusion is not None and classes is not None:
        if fusion.class_weights != "none" and training.oversample:
            raise ValueError(
                "class_weights 'balanced' and oversample correct the same imbalance, so that both together turn it "
                "round: leave one of them out."
            )
        _check_missing(flags)


def _check_brought(flags: Any) -> None:
    usual = {**_usual(flags.model), **_usual(flags.fusion), **_usual(flags.reading)}
    brought = ("vision_model", "text_model", "from_scratch", "hidden_size", "dropout", "vision_layers")
    for name in (*brought, "image_pooling", "text_pooling", "fusion"):
        if flags.values[name] != usual[name]:
            raise ValueError(f"from_fusion brings its own {name}: leave it out.")
    for name in ("whole_images", "image_value_range"):
        if flags.values[name] != usual[name]:
            raise ValueError(f"from_fusion brings its own way to prepare images: leave {name} out.")


def _check_pretrained_decoder(flags: Any, command: Any) -> None:
    usual = {**_usual(flags.decoder), **command.defaults}
    for name, value in vars(flags.decoder).items():
        if value != usual[name]:
            raise ValueError(
                f"{name} {value!r} is for a decoder from random weights: text_model or from_run has its own."
            )


def _usual(group: Any) -> Mapping[str, Any]:
    return {entry.name: entry.default for entry in fields(group)}


def _check_final_fit(flags: Any) -> None:
    if flags.training.eval_strategy != "no" or flags.training.load_best_model_at_end:
        raise ValueError("fit_on_validation leaves no rows to evaluate on: eval_strategy must be 'no'.")
    if hasattr(flags, "fusion") and flags.fusion.threshold == TUNED:
        raise ValueError("fit_on_validation leaves no rows to tune the thresholds on: give a threshold as a number.")
    if hasattr(flags, "robust") and flags.training.fit_stack:
        raise ValueError("fit_on_validation leaves no rows to fit the stack on: add --no_fit_stack.")


def _check_missing(flags: Any) -> None:
    for rate in (flags.missing.missing, flags.missing.eval_missing):
        if rate is not None:
            MissingRate.parse(rate)
    if flags.training.modality_dropout is not None:
        ModalityDropout(0, flags.training.modality_dropout)


def fixed_threshold(threshold: str) -> float | None:
    """The one probability from which on all labels hold; None where it is the usual one, or tuned."""
    return None if threshold in (TUNED, USUAL_THRESHOLD) or float(threshold) == 0.5 else float(threshold)


def check_labels(flags: Any, problem_type: str) -> None:
    """Refuse flags that have no use with the labels of the data.

    Args:
        flags: Of a classifier's training command.
        problem_type: Of the data.

    Raises:
        ValueError: On the first of them.
    """
    if flags.fusion.threshold != USUAL_THRESHOLD and problem_type != "multi_label_classification":
        raise ValueError(f"threshold is for labels of which several may hold, but problem_type is {problem_type!r}.")
    if flags.training.oversample and problem_type != "single_label_classification":
        raise ValueError(f"oversample needs one class an example, but problem_type is {problem_type!r}.")
    if flags.fusion.no_target_scaling and problem_type != "regression":
        raise ValueError(f"no_target_scaling is for regression, but problem_type is {problem_type!r}.")
