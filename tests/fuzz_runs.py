"""Mutated run folders: whatever their files hold, a run loads whole or is refused by a documented error."""

import random
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from fuzz import MUTATIONS

from hf_multimodal.cli.rows import run_arguments
from hf_multimodal.evaluation.predictions import read_predictions
from hf_multimodal.hub.card import write_card
from hf_multimodal.inference.prediction import load_model
from hf_multimodal.models.inner_models import MismatchedSizesError
from hf_multimodal.training.checkpoints import find_checkpoint

SAVED = Path(__file__).with_name("saved_by_190fc8f")
DOCUMENTED = (ValueError, OSError, FileNotFoundError, MismatchedSizesError)  # as such, not what is derived from them


def doors(folder: Path) -> dict[str, tuple[str, Callable[[], Any]]]:
    """Which files are mutated, and what reads them."""

    def answer() -> None:
        model, processor = load_model(folder)
        inputs = processor(text=["a red thing", "blue"], return_tensors="pt")
        with torch.no_grad():
            model(**inputs)

    return {
        "configuration": ("config.json", answer),
        "weights": ("model.safetensors", answer),
        "processor": ("processor_config.json", answer),
        "tokenizer": ("tokenizer.json", answer),
        "tokenizer settings": ("tokenizer_config.json", answer),
        "arguments": ("run.yaml", lambda: run_arguments(str(folder))),
        "predictions": ("predictions.csv", lambda: read_predictions(folder / "predictions.csv")),
        "metrics": ("metrics.json", lambda: write_card(folder, folder / "card.md")),
        "state": ("checkpoint-6/trainer_state.json", lambda: find_checkpoint("true", str(folder))),
        "optimizer": ("checkpoint-6/optimizer.pt", lambda: find_checkpoint("true", str(folder))),
    }


def fuzz(seconds: float, seed: int, most: int | None = None) -> dict[str, int]:
    """Mutate and read run folders.

    Args:
        seconds: How long.
        seed: Of all that is drawn; the same seed meets the same mutations in the same order.
        most: Number of mutations after which it ends in any case.

    Returns:
        Number of `mutations`, and how often each result and each documented error came.

    Raises:
        AssertionError: On any other exception; the message names the mutation's number and the file.
    """
    draw = random.Random(seed)
    counts: Counter[str] = Counter()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole, folder = Path(place, "whole"), Path(place, "run")
        with ZipFile(SAVED / "fused.zip") as archive:
            archive.extractall(whole)
        while time.monotonic() - begin < seconds and (most is None or counts["mutations"] < most):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(whole, folder)
            door = draw.choice(list(doors(folder)))
            name, read = doors(folder)[door]
            content = (folder / name).read_bytes()
            for _ in range(draw.choice((1, 1, 2))):
                content = draw.choice(MUTATIONS)(content, draw)
            (folder / name).write_bytes(content)
            try:
                read()
                counts[f"{door}: result"] += 1
            except Exception as error:
                if type(error) not in DOCUMENTED or not str(error).strip():
                    raise AssertionError(f"mutation {counts['mutations']}, {name}: {error!r}") from error
                counts[f"{door}: {type(error).__name__}"] += 1
            counts["mutations"] += 1
    return dict(counts)
