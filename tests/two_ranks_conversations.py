"""Run by `torchrun` in test_vision_language_training.py: steps of SGD on conversations, half of the rows a rank."""

import io
import sys
from pathlib import Path

import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pictures
from test_vision_language import make_with_processor

from hf_multimodal import ConversationCollator, MultimodalTrainer, MultimodalTrainingArguments

ROWS, STEP = 32, 16
# Of each sixteen rows the first eight are rank 0's, if they are taken in their order.
WITH_IMAGE = {
    "random": [row % 3 > 0 for row in range(ROWS)],
    "sequential": [row % STEP < STEP // 2 for row in range(ROWS)],
}


def picture(row: int) -> dict[str, bytes]:
    """The file of an image of one colour."""
    file = io.BytesIO()
    Pictures.new("RGB", (8, 8), (row * 8, 255 - row * 8, 100)).save(file, "png")
    return {"bytes": file.getvalue()}


def make_rows(order: str) -> Dataset:
    """Answers of one to five words, of which some are about an image."""
    columns = {
        "image": [picture(row) if seen else None for row, seen in enumerate(WITH_IMAGE[order])],
        "question": [("what is this", "is this a dog")[row % 2] for row in range(ROWS)],
        "answer": [" ".join(("a cat", "red", "dog")[row % 3] for _ in range(1 + row % 5)) for row in range(ROWS)],
    }
    features = {"image": Image(decode=False), "question": Value("string"), "answer": Value("string")}
    return Dataset.from_dict(columns, features=Features(features))


def trained_weights(
    folder: str, order: str, vision: str = "vit", batch_size: int = STEP, accumulation: int = 1
) -> dict[str, torch.Tensor]:
    """Weights after two steps."""
    model, processor = make_with_processor(vision)
    args = MultimodalTrainingArguments(
        folder,
        train_sampling_strategy=order,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        max_steps=2,
        optim="sgd",
        learning_rate=0.1,
        head_learning_rate=0.1,
        lr_scheduler_type="constant",
        max_grad_norm=0,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    MultimodalTrainer(model, args, ConversationCollator(processor), train_dataset=make_rows(order)).train()
    return model.state_dict()


if __name__ == "__main__":
    for name in WITH_IMAGE:
        weights = trained_weights(sys.argv[1], name, batch_size=STEP // 2)
        assert torch.distributed.get_world_size() == 2
        torch.save(weights, Path(sys.argv[1], f"{name}-{torch.distributed.get_rank()}.pt"))
    torch.distributed.destroy_process_group()
