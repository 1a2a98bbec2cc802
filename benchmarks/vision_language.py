"""python benchmarks/vision_language.py

Questions about generated images: three seeds, and what each part of the recipe is worth. The vision model is that of a
fused classifier that learned which shapes an image shows; its time is counted. The tables go into docs/benchmarks.md;
`--only flickr8k` captions photographs beside a nearest-neighbour baseline.
"""

import argparse
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from series import PAGE, run_series
from transformers import AutoImageProcessor, AutoModel

from hf_multimodal.cli import train_vision_language
from hf_multimodal.cli.train_aligner import main as train_aligner
from hf_multimodal.cli.train_fusion import main as train_fusion
from hf_multimodal.data.conversation_collator import ConversationCollator
from hf_multimodal.data.conversations import MESSAGES_FEATURE
from hf_multimodal.data.images import open_rgb
from hf_multimodal.data.loading import load_data
from hf_multimodal.data.pairs import group_pairs
from hf_multimodal.evaluation.answers import caption_metrics
from hf_multimodal.evaluation.report import update_region
from hf_multimodal.hub.tables import markdown_table
from hf_multimodal.inference.answering import measure_answers, question_prior
from hf_multimodal.inference.prediction import load_model
from hf_multimodal.synthetic.questions import KINDS, QUESTION_TASKS, make_questions

FOLDER = Path("runs/vision_language")
SEEDS = (1, 2, 3)
ROWS, EPOCHS = 32_000, 4
SHORT = 2  # epochs of an ablation
TEST = 1000  # images
TASKS = {
    "questions": "1 to 3",
    "questions_four_shapes": "1 to 4",
    "questions_held_out": "1 to 3, four combinations unseen",
}
RECIPE = "1"  # to be changed with the defaults of the commands


def scenes(task: str) -> Path:
    """Images with the names of what they show, to train the vision model on, saved for `train-fusion`."""
    folder = FOLDER / "data" / f"scenes-{task}"
    if not folder.is_dir():
        sizes = {"train": 8000, "validation": 500, "test": 500}
        splits = {
            split: make_questions(size, seed=7, split=split, **QUESTION_TASKS[task])
            .select_columns(["image", "shown"])
            .rename_column("shown", "label")
            for split, size in sizes.items()
        }
        DatasetDict(splits).save_to_disk(str(folder))
    return folder


def vision_job(data: Path, seed: int) -> list[str]:
    """Flags of the vision model's training."""
    flags = ["--data", str(data), "--modality", "image", "--from_scratch"]
    flags += ["--num_train_epochs", "4", "--learning_rate", "2e-3", "--dataloader_num_workers", "0"]
    return [*flags, "--seed", str(seed)]


def answers_job(data: str, seed: int, vision: str, epochs: int = EPOCHS, *more: str) -> list[str]:
    """Flags of a vision-language model's training."""
    flags = [
        "--data",
        data,
        "--from_aligner",
        str(FOLDER / vision),
        "--seed",
        str(seed),
        "--num_train_epochs",
        str(epochs),
    ]
    flags += ["--max_train_samples", str(ROWS), "--max_eval_samples", "300", "--max_predict_samples", str(TEST)]
    flags += ["--hidden_size", "96", "--learning_rate", "2e-3", "--adam_beta2", "0.98", "--warmup_steps", "0.03"]
    return [*flags, "--dataloader_num_workers", "0", *more]


def series(name: str, jobs: dict[str, list[str]], run: Any) -> dict[str, dict[str, Any]]:
    """Train what has no row yet."""
    return run_series(
        str(FOLDER),
        jobs,
        run,
        processes=2,
        leaves="model.safetensors",
        recipe=RECIPE,
        rows_file=FOLDER / f"{name}.jsonl",
    )


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean and standard deviation."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def scores(found: Sequence[dict[str, Any]], name: str = "exact_match") -> list[str]:
    """A score of all answers and of each kind."""
    return [
        spread([run[name] for run in found]),
        *(spread([run["by_kind"][kind][name] for run in found]) for kind in KINDS),
    ]


def main_table(tasks: Sequence[str]) -> str:
    """Three seeds of each task, beside what is said without a look at the image."""
    table = []
    for task in tasks:
        eyes = {f"vision-{task}-{seed}": vision_job(scenes(task), seed) for seed in SEEDS}
        seeing = series("vision", eyes, train_fusion)
        jobs = {f"{task}-{seed}": answers_job(f"controlled:{task}", seed, f"vision-{task}-{seed}") for seed in SEEDS}
        rows = series("answers", jobs, train_vision_language.main)
        found = [row["metrics"]["test"] for row in rows.values()]
        seconds = [
            one["seconds"] + other["seconds"] for one, other in zip(seeing.values(), rows.values(), strict=True)
        ]
        table.append([TASKS[task], "blind guess", *scores(found[:1], "baseline_exact_match"), ""])
        table.append([TASKS[task], "model", *scores(found), f"{np.mean(seconds) / 60:.0f}"])
    return markdown_table(table, ["shapes", "", "all", *KINDS, "minutes of a core"])


class WholeText(ConversationCollator):
    """Learns what the user says as well."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().__call__(rows)
        silent = (batch["attention_mask"] == 0) | (batch["input_ids"] == self.processor.image_token_id)
        return {**batch, "labels": batch["input_ids"].masked_fill(silent, -100)}


def learning_all(flags: list[str]) -> dict[str, Any]:
    """The command, with the prompt unmasked."""
    train_vision_language.ConversationCollator = WholeText  # type: ignore[misc]
    try:
        return train_vision_language.main(flags)
    finally:
        train_vision_language.ConversationCollator = ConversationCollator  # type: ignore[misc]


def changed(name: str) -> Path:
    """Training data of an ablation, as the command reads them."""
    folder = FOLDER / "data" / name
    if folder.is_dir():
        return folder
    splits = {}
    for split, size in (("train", ROWS), ("validation", 300), ("test", TEST)):
        rows = make_questions(size, split=split)
        messages = rows["messages"][:]
        if name == "first":
            messages = [turns[:2] for turns in messages]
        kept = rows.select_columns(["image", "id"]).add_column("messages", messages, feature=MESSAGES_FEATURE)
        if name == "blind":
            kept = kept.remove_columns("image").add_column("image", [None] * size, feature=rows.features["image"])
        splits[split] = kept
    DatasetDict(splits).save_to_disk(str(folder))
    return folder


def measured(folder: Path, blind: bool) -> dict[str, Any]:
    """Scores on all turns of the generated test rows."""
    file = folder / "measured.json"
    if not file.is_file():
        data = load_data("controlled:questions", conversations=True, train_size=ROWS, test_size=TEST)
        rows: Dataset = data.splits["test"]
        if blind:
            rows = rows.remove_columns("image").add_column("image", [None] * len(rows), feature=rows.features["image"])
        model, processor = load_model(folder)
        prior = question_prior(data.splits["train"])
        file.write_text(json.dumps(measure_answers(model, ConversationCollator(processor), rows, prior=prior)))
    return json.loads(file.read_text())


def ablations() -> str:
    """What each part of the recipe is worth, one seed, half of the training."""
    seed, task = 1, "questions"
    series("vision", {f"vision-{task}-{seed}": vision_job(scenes(task), seed)}, train_fusion)
    aligner = ["--data", "controlled:retrieval", "--from_scratch"]
    series("aligner", {"aligner": [*aligner, "--seed", "1"]}, train_aligner)
    random = vision_job(scenes(task), seed)
    random[random.index("--num_train_epochs") :][:2] = []
    random = [*random, "--max_steps", "1", "--num_train_epochs", "1"]
    series("vision", {"vision-random": random}, train_fusion)
    usual = partial(answers_job, f"controlled:{task}", seed)
    eyes = f"vision-{task}-{seed}"
    ways: dict[str, tuple[list[str], Any]] = {
        "the recipe": (usual(eyes, SHORT), train_vision_language.main),
        "prompt not masked": (usual(eyes, SHORT), learning_all),
        "first turn only": (answers_job(str(changed("first")), seed, eyes, SHORT), train_vision_language.main),
        "no image (blind)": (answers_job(str(changed("blind")), seed, eyes, SHORT), train_vision_language.main),
        "vision model frozen": (usual(eyes, SHORT, "--freeze_vision"), train_vision_language.main),
        "vision model random and frozen": (
            usual("vision-random", SHORT, "--freeze_vision"),
            train_vision_language.main,
        ),
        "vision model random": (usual("vision-random", SHORT), train_vision_language.main),
        "vision model of our aligner": (usual("aligner", SHORT), train_vision_language.main),
    }
    jobs = {f"ablation-{number}": way for number, way in enumerate(ways.values())}
    for run in (train_vision_language.main, learning_all):
        series("ablations", {job: flags for job, (flags, its) in jobs.items() if its is run}, run)
    found = [measured(FOLDER / job, "blind" in name) for job, name in zip(jobs, ways, strict=True)]
    table = [["blind guess", *scores(found[:1], "baseline_exact_match")]]
    table += [[name, *scores([one])] for name, one in zip(ways, found, strict=True)]
    return markdown_table(table, ["", "all", *KINDS])


@torch.inference_mode()
def class_tokens(folder: Path, images: Dataset) -> torch.Tensor:
    """(images, width) of unit length, what DeiT says of each image."""
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    found = []
    for start in range(0, len(images), 64):
        cells = images.select_columns(["image"])[start : start + 64]["image"]
        pixels = processor(images=[open_rgb(cell) for cell in cells], return_tensors="pt").pixel_values
        found.append(model(pixels).last_hidden_state[:, 0])
    return torch.nn.functional.normalize(torch.cat(found), dim=1)


def flickr8k(folder: Path) -> str:
    """Captions of photographs by DeiT-tiny and a decoder from random weights, beside those of the nearest image."""
    deit = folder / "deit_tiny_patch16_224"
    data = ["--data", str(folder / "flickr8k" / "captions.csv"), "--image_root", str(folder / "flickr8k" / "images")]
    flags = [*data, "--task", "caption", "--vision_model", str(deit), "--freeze_vision", "--seed", "1"]
    flags += ["--decoder", "qwen3", "--hidden_size", "192", "--num_hidden_layers", "3", "--dropout", "0.1"]
    flags += ["--num_train_epochs", "3", "--learning_rate", "1e-3", "--max_eval_samples", "500"]
    rows = series("captions", {"captions": flags}, train_vision_language.main)
    test = rows["captions"]["metrics"]["test"]
    loaded = load_data(data[1], image_root=data[3], pairs=True)
    train, _ = group_pairs(loaded.splits["train"])
    asked, _ = group_pairs(loaded.splits["test"])
    nearest = (class_tokens(deit, asked) @ class_tokens(deit, train).T).argmax(dim=1).tolist()
    copied = caption_metrics([train["texts"][place][0] for place in nearest], asked["texts"][:])
    table = [
        ["the most frequent caption", test["most_frequent_bleu_4"], test["most_frequent_cider"]],
        ["a caption of the nearest training image", copied["bleu_4"], copied["cider"]],
        ["the model", test["bleu_4"], test["cider"]],
    ]
    return markdown_table(
        [[name, f"{bleu:.3f}", f"{cider:.3f}"] for name, bleu, cider in table], ["", "BLEU-4", "CIDEr-D"]
    )


def write(region: str, text: str) -> None:
    """Print a table, and put it into the page where that has a place for it."""
    print(text, flush=True)
    if f"<!-- {region}:start -->" in PAGE.read_text(encoding="utf-8"):
        update_region(PAGE, region, text)


def main() -> None:
    """Train, ask, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help=f"{', '.join(TASKS)}, ablations, and, only if asked for, flickr8k.")
    asked = parser.parse_args().only
    torch.set_num_threads(1)
    tasks = [task for task in TASKS if not asked or task in asked]
    if tasks:
        write("questions", main_table(tasks))
    if not asked or "ablations" in asked:
        write("questions-ablations", ablations())
    if asked and "flickr8k" in asked:
        write("captions", flickr8k(Path(os.environ["HF_MULTIMODAL_DATA"])))


if __name__ == "__main__":
    main()
