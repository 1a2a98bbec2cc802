"""The command line of a training run, and what can be known of it before data are loaded."""

from typing import Any

from transformers import TrainingArguments

from hf_multimodal.cli.command_line import CommandLine
from hf_multimodal.cli.training_arguments import TUNED, DataArguments, ModelArguments
from hf_multimodal.training.checkpoints import refuse_finished_run
from hf_multimodal.training.freezing import parse_layers

# Where an argument means something else than in transformers.
HELP = {
    "per_device_train_batch_size": "Examples a step on all processes together (times gradient_accumulation_steps), so "
    "that one YAML file means the same optimisation on any number of them.",
    "label_names": "Names of the classes in order. Default: read off the labels; of multi-hot lists class_0, class_1, "
    "and so on.",
}
# Of one call alone; a token is written nowhere.
NOT_REPEATED = ("resume_from_checkpoint", "overwrite_output_dir", "dry_run", "hub_token")
# With no validation rows left, nothing is chosen: the last step is the result.
FINAL_FIT_DEFAULTS: dict[str, Any] = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
LOWER_IS_BETTER = ("loss", "nll", "brier", "ece", "mse", "mae")


def parse_training_arguments(
    argv: list[str] | None,
    description: str | None = None,
    model_arguments: type[ModelArguments] = ModelArguments,
    data_arguments: type[DataArguments] = DataArguments,
) -> tuple[ModelArguments, DataArguments, TrainingArguments, dict[str, Any]]:
    """Read the arguments of a training run and check what can be known before data are loaded.

    Args:
        argv: The flags; None means those of the process.
        description: Docstring of the script.
        model_arguments: The dataclass of the family of models.
        data_arguments: The dataclass of its data.

    Returns:
        The three dataclasses, with both learning rates filled in and the batch size divided by the number of
        processes, and the arguments that repeat the run on any number of them.

    Raises:
        FileExistsError: If the output folder holds a finished run that is neither resumed nor to be replaced.
        ValueError: On an unknown flag, key or choice, arguments that contradict each other, or
            `label_smoothing_factor`.
    """
    types = (model_arguments, data_arguments, TrainingArguments)
    defaults = {"output_dir": model_arguments.default_output_dir, **model_arguments.training_defaults}
    given = CommandLine(types, argv, description, defaults, HELP).given()
    from_scratch = model_arguments.from_scratch_defaults
    for name, changed in (("from_scratch", from_scratch), ("fit_on_validation", FINAL_FIT_DEFAULTS)):
        defaults = {**defaults, **changed} if given.get(name) else defaults
    line = CommandLine(types, argv, description, defaults, HELP)
    model_args, data_args, training_args = line.parse()
    if training_args.label_smoothing_factor:
        raise ValueError(
            "label_smoothing_factor takes the labels away from the model, so that its own loss never sees them: "
            "use --label_smoothing."
        )
    if training_args.label_names is not None and not model_args.reads_labels:
        raise ValueError(f"label_names {training_args.label_names} have no use: an aligner reads no labels.")
    data_args.label_names, training_args.label_names = training_args.label_names, ["labels"]
    if data_args.data is None:
        raise ValueError("data is needed: a table, a folder, a Hub data set, or controlled:<task>.")
    for name in ("augment", "whole_images", "image_value_range"):
        if getattr(data_args, name) and model_args.modality == "text":
            raise ValueError(f"{name} has no use with modality 'text'.")
    for name in ("whole_images", "image_value_range"):
        if getattr(data_args, name) and model_args.from_fusion is not None:
            raise ValueError(f"from_fusion brings its own way to prepare images: leave {name} out.")
    all_open = parse_layers(model_args.freeze_vision_layers, "freeze_vision_layers") == 0
    if data_args.feature_cache is not None and all_open:
        raise ValueError("feature_cache needs freeze_vision_layers: no layer of the vision model is frozen.")
    if data_args.max_length is not None and model_args.modality == "image":
        raise ValueError(f"max_length {data_args.max_length} has no use with modality 'image'.")
    if data_args.fit_on_validation and (training_args.eval_strategy != "no" or training_args.load_best_model_at_end):
        raise ValueError("fit_on_validation leaves no rows to evaluate on: eval_strategy must be 'no'.")
    if data_args.fit_on_validation and model_args.threshold == TUNED:
        raise ValueError("fit_on_validation leaves no rows to tune the thresholds on: give a threshold as a number.")
    if data_args.fit_on_validation and model_args.fits_stack:
        raise ValueError("fit_on_validation leaves no rows to fit the stack on: add no_stack.")
    training_args.learning_rate, model_args.head_learning_rate = model_args.learning_rates(training_args.learning_rate)
    share, rest = divmod(training_args.per_device_train_batch_size, training_args.world_size)
    if rest:
        raise ValueError(
            f"per_device_train_batch_size is for all processes together and must be a multiple of their number, "
            f"{training_args.world_size}, got {training_args.per_device_train_batch_size}."
        )
    training_args.per_device_train_batch_size = share
    metric = training_args.metric_for_best_model
    if metric is not None and (metric.removeprefix("eval_") in LOWER_IS_BETTER or metric.endswith("_rank")):
        training_args.greater_is_better = False
    if training_args.dataloader_num_workers == 0:
        training_args.dataloader_persistent_workers = False
    if not data_args.overwrite_output_dir:
        refuse_finished_run(str(training_args.output_dir), training_args.resume_from_checkpoint)
    given = {name: value for name, value in line.given().items() if name not in NOT_REPEATED}
    return model_args, data_args, training_args, given
