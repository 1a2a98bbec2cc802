"""The score of a run as the Hub shows it on the model's page and on the leaderboard of a data set."""

import contextlib
from pathlib import Path

from huggingface_hub import EvalResultEntry, constants, eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump

from hf_multimodal.hub.runs import Run
from hf_multimodal.hub.storage import write_text

EVAL_RESULTS = f"{constants.EVAL_RESULTS_FOLDER}/hf_multimodal.yaml"
LEADING = {"accuracy": "accuracy", "mAP": "mAP", "pearson": "Pearson's r"}  # a leaderboard has one number a task


def eval_results(run: Run) -> str:
    """The result of a run on a data set of the Hub, in the format of
    [`.eval_results`](https://huggingface.co/docs/hub/eval-results).

    It is told only of a split that the data set itself has, measured whole: a score on other rows has no place beside
    those of others. The task is the configuration of the data set, or `default`.

    Args:
        run: From `read_run`.

    Returns:
        YAML with one entry: accuracy, mAP, Pearson's r, or recall@1 of text to image. Empty where the run has none.
    """
    if (
        not (run.is_classifier or run.is_aligner)
        or run.dataset_id is None
        or run.split is None
        or run.split in run.data.get("made_splits", ())
    ):
        return ""
    found = run.metrics[run.split]
    rows = run.data.get("splits", {}).get(run.split, {}).get("rows")
    if run.is_aligner:
        found = found["text_to_image"]
        value, what, count = found["recall_at_1"], "recall@1, text to image", found["queries"]
    else:
        name = next((name for name in LEADING if name in found), "")
        value, what, count = found.get(name), LEADING.get(name, ""), found["count"]
    if value is None or count != rows:
        return ""
    entry = EvalResultEntry(
        dataset_id=run.dataset_id,
        task_id=run.data.get("config") or "default",
        value=round(value, 4),
        notes=f"{what} on {count:,} rows of the {run.split} split",
    )
    return yaml_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)


def write_eval_results(folder: str | Path, run: Run) -> None:
    """Write the result into a run's folder, or remove that of an earlier run.

    Args:
        folder: Folder of the run.
        run: Read from it.
    """
    path = Path(folder, EVAL_RESULTS)
    text = eval_results(run)
    if text:
        path.parent.mkdir(exist_ok=True)
        write_text(path, text)
    else:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not there, or it holds results of others
            path.parent.rmdir()
