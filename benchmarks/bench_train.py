"""HF_MULTIMODAL_DATA=/path/to/data python benchmarks/bench_train.py [--rows 512]

The naive recipe of tutorials (a Dataset that opens one image, runs PIL transforms and calls the tokenizer once an
item, all padded to 128, in the main process) against ours (collator in workers, dynamic padding, texts of like length
together), end to end over the same rows and the same model, in turn. Then: how much of a training step is spent
outside the two models.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import torch
from datasets import Dataset as HFDataset
from series import MINILM
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from transformers import AutoTokenizer, TrainerCallback, TrainingArguments

from hf_multimodal import FusionForImageTextClassification, MultimodalCollator, MultimodalProcessor
from hf_multimodal.cli.commands import TRAINING_DEFAULTS
from hf_multimodal.data.images import open_image
from hf_multimodal.data.loading import load_data
from hf_multimodal.training.preparation import token_lengths
from hf_multimodal.training.trainer import MultimodalTrainer

BATCH = 32


class NaiveDataset(Dataset):
    """One item at a time, as tutorials have it."""

    def __init__(self, rows: HFDataset, tokenizer) -> None:
        self.rows, self.tokenizer = rows, tokenizer
        self.transform = transforms.Compose(
            [
                transforms.Resize((256, 256)),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.rows[index]
        tokens = self.tokenizer(
            row["text"] or "", padding="max_length", truncation=True, max_length=128, return_tensors="pt"
        )
        image = self.transform(open_image(row["image"]).convert("RGB"))
        return {
            "pixel_values": image,
            "input_ids": tokens["input_ids"][0],
            "attention_mask": tokens["attention_mask"][0],
            "labels": torch.tensor(row["label"]),
        }


def train_naive(model: torch.nn.Module, rows: HFDataset, tokenizer) -> float:
    """Seconds of one epoch."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    start = time.perf_counter()
    for batch in DataLoader(NaiveDataset(rows, tokenizer), batch_size=BATCH, shuffle=True):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - start


class InsideModels(TrainerCallback):
    """Seconds of each step, and those of them inside the two models, forward and backward."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.inside: list[float] = []
        self.steps: list[float] = []
        for part in (model.vision_model, model.text_model):
            part.register_forward_pre_hook(lambda *_: self._enter())
            part.register_forward_hook(self._leave_forward)
        self._part = self._inside = self._step = 0.0

    def _enter(self) -> None:
        self._part = time.perf_counter()

    def _leave_forward(self, module: torch.nn.Module, _, output) -> None:
        self._inside += time.perf_counter() - self._part
        hidden = output.last_hidden_state
        first = next(p for p in module.parameters() if p.requires_grad)
        marks: dict[str, float] = {}
        hidden.register_hook(lambda _: marks.setdefault("start", time.perf_counter()) and None)

        def finished(_: torch.Tensor) -> None:
            self._inside += time.perf_counter() - marks["start"]
            handle.remove()

        handle = first.register_post_accumulate_grad_hook(finished)

    def on_step_begin(self, *args, **kwargs) -> None:
        now = time.perf_counter()
        if self._step:  # from one beginning to the next: loading, optimizer and all
            self.steps.append(now - self._step)
            self.inside.append(self._inside)
        self._step, self._inside = now, 0.0


def train_ours(model: torch.nn.Module, rows: HFDataset, processor: MultimodalProcessor) -> tuple[float, InsideModels]:
    """Seconds of one epoch by `MultimodalTrainer`, lengths and workers' start included, and where they went."""
    defaults = {**TRAINING_DEFAULTS, "learning_rate": 2e-5, "per_device_train_batch_size": BATCH}
    defaults |= {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "disable_tqdm": True}
    args = TrainingArguments(**{**defaults, "output_dir": "runs/bench", "num_train_epochs": 1, "use_cpu": True})
    start = time.perf_counter()
    rows = rows.add_column("length", token_lengths(rows, processor.tokenizer).tolist())
    inside = InsideModels(model)
    trainer = MultimodalTrainer(
        model=model,
        args=args,
        data_collator=MultimodalCollator(processor),
        train_dataset=rows,
        head_learning_rate=1e-3,
        callbacks=[inside],
    )
    trainer.train()
    return time.perf_counter() - start, inside


def main() -> None:
    """Measure in turn, print ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    if "HF_MULTIMODAL_DATA" not in os.environ:
        parser.error("set HF_MULTIMODAL_DATA to the folder that holds ecnu/ and deit_tiny_patch16_224/.")
    data = Path(os.environ["HF_MULTIMODAL_DATA"])
    vision, text = str(data / "deit_tiny_patch16_224"), str(MINILM)
    rows = load_data(str(data / "ecnu")).splits["train"].select(range(args.rows))
    processor = MultimodalProcessor.from_vision_text_pretrained(vision, text)
    tokenizer = AutoTokenizer.from_pretrained(text)

    def model() -> FusionForImageTextClassification:
        torch.manual_seed(0)
        return FusionForImageTextClassification.from_vision_text_pretrained(vision, text, num_labels=3)

    train_ours(model(), rows.select(range(2 * BATCH)), processor)  # warm both up
    train_naive(model(), rows.select(range(2 * BATCH)), tokenizer)
    ratios, outside = [], []
    for repeat in range(args.repeats):
        naive = train_naive(model(), rows, tokenizer)
        ours, steps = train_ours(model(), rows, processor)
        ratios.append(naive / ours)
        outside.append(1 - sum(steps.inside) / sum(steps.steps))
        print(
            f"{repeat}: naive {args.rows / naive:.1f} samples/s, ours {args.rows / ours:.1f}, ratio {ratios[-1]:.2f}, "
            f"outside the models {100 * outside[-1]:.1f} %",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.2f}, outside the models {100 * statistics.median(outside):.1f} %")


if __name__ == "__main__":
    main()
