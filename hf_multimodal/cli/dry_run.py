"""What a training run would do, without doing it."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from hf_multimodal.data.checks import BadSample, first_lines
from hf_multimodal.data.counts import count_rows
from hf_multimodal.data.loading import LoadedData
from hf_multimodal.hub.tables import markdown_table
from hf_multimodal.training.arguments import MultimodalTrainingArguments
from hf_multimodal.training.construction import parameter_counts
from hf_multimodal.training.gradient_cache import backward_in_chunks
from hf_multimodal.training.optimization import parameter_groups
from hf_multimodal.training.preparation import token_lengths
from hf_multimodal.training.run_folder import refuse_folder


def dry_run(
    flags: Any,
    data: LoadedData,
    bad_samples: list[BadSample],
    model: Any,
    collator: Any,
    rows: Dataset,
    rows_cut: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Print counts of data and parameters, and run one training step. Nothing is written.

    Args:
        flags: From `parse_training`.
        data: Checked splits.
        bad_samples: What the checks found.
        model: What would be trained.
        collator: What makes its batches.
        rows: What they are made of.
        rows_cut: Of conversations, how many are cut at `max_length`, by split; None counts the tokens that texts lose.

    Returns:
        The report: `problem_type` of a classifier, `splits` (rows by class and by presence), `source` (kind,
        encodings), `bad_samples` (each with its action), `warnings` about labels and classes, `image_values` (what is
        odd about the range of the images' values, or None), `tokens_cut` by split, `max_length`, `parameters`,
        `trainable_parameters`, `loss` of the step, and `refusals`: why the run itself would not start, empty if it
        would.

    Raises:
        ValueError, OSError: What the run itself would raise before its first step.
    """
    refuse_folder(Path(str(flags.training.output_dir)))
    processor, policy = collator.processor, flags.source.on_bad_sample
    report: dict[str, Any] = {
        "source": {name: value for name, value in data.report.items() if name != "image_values"},
        **({"problem_type": data.problem_type} if hasattr(flags, "labels") else {}),
        "splits": count_rows(data.splits, data.id2label),
        "bad_samples": [f"{sample} [{sample.action}]" for sample in bad_samples],
        "warnings": list(data.warnings),
        "image_values": data.report.get("image_values"),
    }
    tokenizer = getattr(processor, "tokenizer", None)  # an image processor has none
    if tokenizer is not None:
        longest = tokenizer.model_max_length
        report["max_length"] = longest
    if rows_cut is not None:
        report["rows_cut"] = rows_cut
    elif tokenizer is not None:
        report["tokens_cut"] = {
            name: int((token_lengths(rows, tokenizer) - longest).clip(min=0).sum())
            for name, rows in data.splits.items()
        }
    report |= parameter_counts(model)
    report["loss"] = _one_step(model, collator, rows, flags.training)
    refused = sum(sample.action == "error" for sample in bad_samples)
    bad = [f"{refused} bad sample{'s are' if refused > 1 else ' is'} refused (on_bad_sample={policy!r})."]
    report["refusals"] = [*(bad if refused else []), *data.refusals]
    if flags.training.process_index == 0:
        _print(report, policy)
    return report


def _one_step(model: torch.nn.Module, collator: Any, rows: Dataset, args: MultimodalTrainingArguments) -> float:
    size = min(args.per_device_train_batch_size, len(rows))
    batch = collator([rows[index] for index in range(size)])
    groups = parameter_groups(
        model,
        learning_rate=args.learning_rate,
        head_learning_rate=args.head_learning_rate,
        weight_decay=args.weight_decay,
    )
    model.to(args.device).train()
    batch = {name: value.to(args.device) if torch.is_tensor(value) else value for name, value in batch.items()}
    chunk = args.gradient_cache_chunk_size
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
    if "rows_cut" in report:
        print(f"rows cut at {report['max_length']} tokens: {report['rows_cut']}")
    print(f"parameters: {report['parameters']:,}, of which trainable: {report['trainable_parameters']:,}")
    print(f"loss of one step: {report['loss']:.4f}")
    print(
        "\n".join(["\nThe run would not start:", *report["refusals"]])
        if report["refusals"]
        else "\nThe run would start."
    )
