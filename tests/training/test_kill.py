"""Runs killed at random instants, inside checkpoints too, and resumed: the weights are those of the whole run.

Each run is a real process, forked from this one, which has all modules loaded; `make kill-test` runs only this file.
"""

import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_generators import DECODER, TOKENIZER
from test_interrupted_runs import assert_same_weights
from test_scripts import FAST, make_rows, script, write_table

KILLS = 20
RUN = ["--num_train_epochs", "2", "--save_strategy", "steps", "--save_steps", "1", "--save_total_limit", "2"]
RUN += ["--eval_strategy", "no", "--load_best_model_at_end", "false"]
FAMILIES = {
    "train_fusion": [*FAST, "--augment", "--ema_decay", "0.9"],
    "train_robust_fusion": [*FAST, "--augment", "--missing", "both:0.4"],
    "train_aligner": [*FAST, "--augment"],
    "train_image_tokenizer": [*TOKENIZER, "--per_device_train_batch_size", "4", "--quantizer", "vq"],
    "train_text_to_image": [*DECODER, "--per_device_train_batch_size", "4"],
    "train_vision_language": [*DECODER, "--per_device_train_batch_size", "4", "--task", "caption"],
}


def start(main: Callable[[list[str]], Any], flags: list[str]) -> multiprocessing.process.BaseProcess:
    """The command in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=main, args=(flags,))
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_killed_run_resumes_to_the_weights_of_the_whole_run(name: str, tmp_path: Path) -> None:
    main = script(name)
    table = write_table(tmp_path / "table.csv", make_rows(tmp_path))
    flags = [*FAMILIES[name], *RUN, "--data", str(table)]
    if name == "train_aligner":
        flags[flags.index("--hidden_size")] = "--projection_dim"
    if name == "train_text_to_image":
        tokenizer = str(tmp_path / "tokenizer")
        script("train_image_tokenizer")([*TOKENIZER, "--output_dir", tokenizer])
        flags += ["--image_tokenizer", tokenizer]
    if name == "train_vision_language":
        aligner = ["--from_scratch", "--num_train_epochs", "1", "--output_dir", str(tmp_path / "aligner")]
        script("train_aligner")([*aligner, "--data", str(table)])
        flags += ["--from_aligner", str(tmp_path / "aligner")]
    whole = start(main, [*flags, "--output_dir", str(tmp_path / "whole")])
    whole.join()
    assert whole.exitcode == 0

    draw = random.Random(0)
    killed = resumed = 0
    seconds, attempt = 60.0, 0  # of a whole run; the first that ends before its kill says how long one takes
    while killed < KILLS:
        attempt += 1
        folder = tmp_path / f"run_{attempt}"
        again = [*flags, "--output_dir", str(folder)]
        begun = time.monotonic()
        process = start(main, again)
        process.join(timeout=draw.uniform(0, seconds))
        process.kill()  # nothing where it has ended
        process.join()
        if process.exitcode == 0:
            seconds = min(seconds, time.monotonic() - begun)
            continue
        assert process.exitcode == -signal.SIGKILL
        killed += 1
        if any(folder.glob("checkpoint-*/manifest.json")):
            again.append("--resume_from_checkpoint")
            resumed += 1
        else:
            again.append("--overwrite_output_dir")
        rest = start(main, again)
        rest.join()
        assert rest.exitcode == 0, attempt
        assert_same_weights(folder, tmp_path / "whole")
    assert resumed >= KILLS // 4  # the others were killed before their first checkpoint was whole
