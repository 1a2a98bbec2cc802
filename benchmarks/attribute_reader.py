"""A small network that reads shape, colour and place off the controlled captioned images.

It is trained on images as they are drawn and on images that were shrunk to 32 × 32 and enlarged again, and reads both
without error; `python benchmarks/text_to_image.py` says how many of each it was tested on.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from hf_multimodal import make_retrieval

SIDE = 64
ATTRIBUTES = {"shape": 4, "colour": 4, "place": 9}
STEPS, BATCH = 1500, 64


class AttributeReader(nn.Module):
    """Three heads over four convolutions."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 16, 32, 64, 64]
        blocks = []
        for inner, outer in zip(widths[:-1], widths[1:], strict=True):
            blocks += [nn.Conv2d(inner, outer, 3, 2, padding=1), nn.BatchNorm2d(outer), nn.ReLU()]
        self.body = nn.Sequential(*blocks, nn.Flatten())
        self.heads = nn.ModuleDict({name: nn.Linear(64 * 16, size) for name, size in ATTRIBUTES.items()})

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """(batch, 3, 64, 64) between 0 and 1 to logits by attribute."""
        features = self.body(pixels)
        return {name: head(features) for name, head in self.heads.items()}


def pixels_of(images: Sequence[Image.Image], through: int | None = None) -> torch.Tensor:
    """(images, 3, 64, 64) between 0 and 1; first shrunk to a side of `through` where one is given."""
    found = []
    for image in images:
        image = image if through is None else image.resize((through, through), Image.Resampling.BICUBIC)
        found.append(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    return torch.tensor(np.stack(found)).movedim(-1, 1).float() / 255


def controlled(size: int, split: str, seed: int = 0) -> tuple[list[Image.Image], dict[str, torch.Tensor], list[str]]:
    """Images, attributes and captions of generated rows."""
    rows = make_retrieval(size, split=split, seed=seed)
    images = [Image.open(io.BytesIO(cell["bytes"])) for cell in rows["image"]]
    return images, {name: torch.tensor(rows[name][:]) for name in ATTRIBUTES}, rows["text"][:]


def load_reader(file: Path) -> AttributeReader:
    """The reader, trained at the first call."""
    reader = AttributeReader()
    if file.is_file():
        reader.load_state_dict(torch.load(file, weights_only=True))
        return reader.eval()
    torch.manual_seed(0)
    images, attributes, _ = controlled(6000, "train", seed=100)
    pixels = torch.cat([pixels_of(images), pixels_of(images, 32)])
    targets = {name: value.repeat(2) for name, value in attributes.items()}
    optimizer = torch.optim.AdamW(reader.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(pixels), (BATCH,))
        logits = reader(pixels[rows])
        loss = sum(functional.cross_entropy(logits[name], targets[name][rows]) for name in ATTRIBUTES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(reader.state_dict(), file)
    return reader.eval()


@torch.inference_mode()
def read(
    reader: AttributeReader, images: Sequence[Image.Image], attributes: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Which images show what they should, by attribute and `all` of them: (images,) booleans."""
    logits = {name: [] for name in ATTRIBUTES}
    for start in range(0, len(images), 256):
        for name, value in reader(pixels_of(images[start : start + 256])).items():
            logits[name].append(value)
    right = {name: torch.cat(parts).argmax(dim=1) == attributes[name] for name, parts in logits.items()}
    return right | {"all": torch.stack(list(right.values())).all(dim=0)}
