# ruff: noqa: E501  a row of the table is a line
"""python tests/reliability.py

Write the table of faults into docs/reliability.md: what is done to the package, what is expected, what was seen when the
tests ran just now, and which tests those are. `make reliability` calls it.
"""

import re
import subprocess
import sys
from pathlib import Path

from hf_multimodal.evaluation.report import update_region
from hf_multimodal.hub.tables import markdown_table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"

FAULTS = (
    ("weights lack a key, or have one too many", "every load refuses, the key is named", "training/test_whole_checkpoints.py::test_every_load_refuses_what_does_not_fit"),
    ("weights are NaN, the file is cut short", "every command refuses", "training/test_whole_checkpoints.py::test_every_command_refuses_what_does_not_fit"),
    ("logits are not finite", "refused with the row", "training/test_whole_checkpoints.py::test_logits_that_are_not_finite_are_refused_with_the_row"),
    ("a run saved by earlier code", "the same bits", "models/test_saved_before.py::test_logits_are_those_of_the_old_code"),
    ("killed while predictions are written", "the old table, whole", "cli/test_nothing_is_lost.py::test_a_table_that_is_written_is_whole_whenever_its_writer_is_killed"),
    ("killed while a run is saved over another", "one of the two, whole", "cli/test_nothing_is_lost.py::test_a_run_that_is_saved_over_another_is_one_of_them"),
    ("killed while an index is saved over another", "one of the two, whole", "cli/test_nothing_is_lost.py::test_an_index_that_is_saved_over_another_is_one_of_them"),
    ("the disk is full in `predict.py`, a table is cut at a line end", "the old table; the cut is named", "cli/test_nothing_is_lost.py::test_predict_on_a_full_disk_and_a_table_that_was_cut"),
    ("the disk is full while a report is written", "what stood there stays", "cli/test_nothing_is_lost.py::test_all_that_a_run_reports_stays_on_a_full_disk"),
    ("killed at twenty random instants, each family", "resumed to bit-equal weights", "training/test_kill.py"),
    ("a second run in one folder", "refused, host and process named; free when the first was killed", "training/test_interrupted_runs.py::test_a_second_run_in_the_same_folder_is_refused"),
    ("a second run into a finished folder", "refused without `--overwrite_output_dir`", "cli/test_silent_choices.py::test_a_finished_run_is_not_replaced_without_a_word"),
    ("bytes of a checkpoint flipped, zeroed, cut, `{}`", "passed over and named, the one before resumes bit-equal", "training/test_interrupted_runs.py::test_a_damaged_checkpoint_is_passed_over_and_named"),
    ("a checkpoint of another number of processes", "an error that names both, unless accepted", "training/test_interrupted_runs.py::test_another_number_of_processes_is_named"),
    ("the best checkpoint is damaged", "passed over and named, the best of the rest is loaded", "training/test_interrupted_runs.py::test_a_damaged_best_checkpoint_is_passed_over"),
    ("SIGTERM to a run and its workers", "a checkpoint, status 143, resumed bit-equal", "training/test_interrupted_runs.py::test_sigterm_saves_a_checkpoint_and_exits_with_143"),
    ("SIGTERM to one of two processes", "both save at one step, resumed bit-equal", "training/test_interrupted_runs.py::test_sigterm_to_one_of_two_processes_ends_both_at_one_step"),
    ("SIGTERM in an evaluation", "a checkpoint after it", "training/test_interrupted_runs.py::test_sigterm_in_an_evaluation_saves_a_checkpoint"),
    ("a loss of NaN", "stops, names step, learning rate and rows", "training/test_interrupted_runs.py::test_a_loss_that_is_not_finite_stops_the_run"),
    ("weights of NaN", "no checkpoint is written", "training/test_interrupted_runs.py::test_weights_that_are_not_finite_are_not_saved"),
    ("weights of NaN in the last step, over an earlier run", "step and rows named; model, results and checkpoints of the earlier run stay", "training/test_interrupted_runs.py::test_weights_that_are_not_finite_do_not_replace_an_earlier_run"),
    ("the disk is full in a checkpoint", "one line that names path and remedy; earlier checkpoints stay", "training/test_interrupted_runs.py::test_a_full_disk_leaves_the_earlier_checkpoints"),
    ("`--output_dir` is a file, or cannot be made", "one line that names path and remedy", "training/test_interrupted_runs.py::test_a_file_or_a_folder_that_cannot_be_made_is_named"),
    ("the folder of `predict`, `evaluate`, `retrieve` cannot be made", "one line that names path and flag, before the work", "cli/test_nothing_is_lost.py::test_a_folder_that_cannot_be_made_is_named_before_the_work"),
    ("a run that would not start", "`--dry_run` says why, status 2", "data/test_classes.py::test_a_dry_run_says_what_the_run_would_refuse"),
    ("spreadsheet formulas in ids and labels", "neutralised, read back unchanged", "data/test_spreadsheets.py"),
    ("labels that differ only by their writing", "warned of with counts", "data/test_classes.py::test_writing_is_warned_of_before_training_with_counts"),
    ("bytes, dicts, lists as a text; an image dict of nothing", "bad samples, named", "data/test_labels.py::test_what_is_no_text_and_no_image_is_a_bad_sample"),
    ("texts in nineteen encodings", "one decision for the corpus, below", "data/test_charsets.py"),
    ("a row of UTF-8 in a table of another encoding", "read as UTF-8 and named", "data/test_charsets.py::test_a_row_of_utf8_in_a_table_of_another_encoding_is_read_as_such"),
    ("a 16-bit image of 7000 × 7000", "converted by bands", "data/test_value_ranges.py::test_a_large_image_is_converted_by_bands"),
    ("damaged Parquet, surrogates, deep JSON, NUL in names, UTF-16 without a mark", "a bad sample, or one error with file and row", "data/test_damaged_tables.py"),
    ("mutated tables", "a result or a documented error", "data/test_fuzz.py"),
    ("mutated images", "a result or a documented error", "data/test_fuzz_images.py"),
    ("mutated run folders", "a result or a documented error", "training/test_fuzz_runs.py"),
)  # fmt: skip


def main() -> int:
    """Run the tests, write the table, and give the number of faults that were not met."""
    tests = list(dict.fromkeys(f"tests/{test}" for _, _, test in FAULTS))
    command = [sys.executable, "-m", "pytest", "-v", "-n", "2", "-m", "", "-p", "no:cacheprovider", *tests]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    results = re.findall(r"\] (PASSED|FAILED|ERROR|SKIPPED) (\S+)", run.stdout)
    rows, bad = [], 0
    for fault, expected, test in FAULTS:
        own = [result for result, name in results if re.match(rf"tests/{re.escape(test)}(::|\[|$)", name)]
        passed = own.count("PASSED")
        met = passed > 0 and passed + own.count("SKIPPED") == len(own)
        bad += not met
        seen = f"so, in {passed} of {passed} cases" if met else f"not so: {len(own) - passed} of {len(own)} cases"
        rows.append([fault, expected, seen, f"`{test}`"])
    table = markdown_table(rows, ["fault", "expected", "seen", "test"])
    update_region(PAGE, "faults", table)
    print(table)
    return min(1, bad)


if __name__ == "__main__":
    sys.exit(main())
