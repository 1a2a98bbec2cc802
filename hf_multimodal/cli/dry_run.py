"""What a training run would do, without doing it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainingArguments

from hf_multimodal.cli.training_arguments import DataArguments, ModelArguments
from hf_multimodal.data.checks import BadSample, first_lines
from hf_multimodal.data.counts import count_rows
from hf_multimodal.data.loading import LoadedData
from hf_multimodal.hub.tables import markdown_table
from hf_multimodal.training.checkpoints import checkpoint_of
from hf_multimodal.training.construction import build_for_data, check_best_metric, parameter_counts
from hf_multimodal.training.gradient_cache import backward_in_chunks
from hf_multimodal.training.optimization import parameter_groups
from hf_multimodal.training.preparation import token_lengths
from hf_multimodal.training.run_folder import refuse_folder


def dry_run(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: TrainingArguments,
    data: LoadedData,
    bad_samples: list[BadSample],
    examples: Dataset | None = None,
) -> dict[str, Any]:
    """Print counts of data and parameters, and run one training step. Nothing is written.

    Args:
        model_args: Choices of the model.
        data_args: Choices of the data.
        training_args: Batch size, weight decay and device.
        data: Checked splits.
        bad_samples: What the checks found.
        examples: What the collator takes, where it does not take the training rows as they are.

    Returns:
        The report: `problem_type` of a classifier, `splits` (rows by class and by presence), `source` (kind,
        encodings), `bad_samples` (each with its action), `warnings` about labels and classes, `image_values` (what is
        odd about the range of the images' values, or None), `tokens_cut` by split, `max_length`, `parameters`,
        `trainable_parameters`, `loss` of the step, and `refusals`: why the run itself would not start, empty if it
        would.

    Raises:
        ValueError, OSError: What the run itself would raise before its first step.
    """
    refuse_folder(Path(str(training_args.output_dir)))
    checkpoint_of(training_args, model_args.accept_other_processes)
    check_best_metric(training_args, data.problem_type if model_args.reads_labels else None)
    model, processor = build_for_data(model_args, data_args, data, training_args.seed)
    report: dict[str, Any] = {
        "source": {name: value for name, value in data.report.items() if name != "image_values"},
        **({"problem_type": data.problem_type} if model_args.reads_labels else {}),
        "splits": count_rows(data.splits, data.id2label),
        "bad_samples": [f"{sample} [{sample.action}]" for sample in bad_samples],
        "warnings": list(data.warnings),
        "image_values": data.report.get("image_values"),
    }
    if processor.tokenizer is not None:
        longest = processor.tokenizer.model_max_length
        report["max_length"] = longest
        report["tokens_cut"] = {
            name: int((token_lengths(rows, processor.tokenizer) - longest).clip(min=0).sum())
            for name, rows in data.splits.items()
        }
    report |= parameter_counts(model)
    rows = data.splits["train"] if examples is None else examples
    report["loss"] = _one_step(model, processor, rows, model_args, training_args)
    refused = sum(sample.action == "error" for sample in bad_samples)
    bad = [
        f"{refused} bad sample{'s are' if refused > 1 else ' is'} refused (on_bad_sample={data_args.on_bad_sample!r})."
    ]
    report["refusals"] = [*(bad if refused else []), *data.refusals]
    if training_args.process_index == 0:
        _print(report, data_args.on_bad_sample)
    return report


def exit_status(main: Callable[[], dict[str, Any]]) -> int:
    """Run a script, and say what it ends with: 2 after a dry run of what would not start, else 0.

    Args:
        main: Returns the report. What it refuses in a dry run is printed, since to say so is what a dry run is for.

    Example:

    >>> exit_status(lambda: {"refusals": ["2 bad samples are refused."]}), exit_status(lambda: {"refusals": []})
    (2, 0)
    """
    try:
        report = main()
    except (ValueError, OSError) as error:
        if "--dry_run" not in sys.argv:
            raise
        print(f"\nThe run would not start:\n{error}")
        return 2
    return 2 if report.get("refusals") else 0


def _one_step(
    model: torch.nn.Module,
    processor: Any,
    rows: Dataset,
    model_args: ModelArguments,
    training_args: TrainingArguments,
) -> float:
    size = min(training_args.per_device_train_batch_size, len(rows))
    batch = model_args.collator(processor, rows, training_args.seed)([rows[index] for index in range(size)])
    assert model_args.head_learning_rate is not None
    groups = parameter_groups(
        model,
        learning_rate=training_args.learning_rate,
        head_learning_rate=model_args.head_learning_rate,
        weight_decay=training_args.weight_decay,
    )
    model.to(training_args.device).train()
    batch = {
        name: value.to(training_args.device) if torch.is_tensor(value) else value for name, value in batch.items()
    }
    chunk = getattr(model_args, "cache_chunk_size", None)
    if chunk is None:
        loss = model(**batch).loss
        loss.backward()
    else:
        loss = backward_in_chunks(model, batch, chunk).loss
    torch.optim.AdamW(groups).step()
    return loss.item()


def _print(report: dict[str, Any], on_bad_sample: str) -> None:
    print(f"source: {report['source']}")
    if "problem_type" in report:
        print(f"problem type: {report['problem_type']}")
    print()
    rows = [
        [name, counts["rows"], *counts["classes"].values(), *counts["presence"].values()]
        for name, counts in report["splits"].items()
    ]
    first = report["splits"]["train"]
    print(markdown_table(rows, ["split", "rows", *first["classes"], *(f"with {key}" for key in first["presence"])]))
    bad = report["bad_samples"]
    print(f"\nbad samples: {len(bad)}" + (f"; on_bad_sample={on_bad_sample!r}" if bad else ""))
    if bad:
        print(first_lines(bad, 20))
    for sentence in report["warnings"]:
        print(f"warning: {sentence}")
    if report["image_values"] is not None:
        print(f"image values: {report['image_values']}")
    if "tokens_cut" in report:
        print(f"tokens cut at {report['max_length']}: {report['tokens_cut']}")
    print(f"parameters: {report['parameters']:,}, of which trainable: {report['trainable_parameters']:,}")
    print(f"loss of one step: {report['loss']:.4f}")
    print(
        "\n".join(["\nThe run would not start:", *report["refusals"]])
        if report["refusals"]
        else "\nThe run would start."
    )
