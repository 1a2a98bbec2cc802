"""Outputs of frozen vision layers, computed once for all epochs and for all runs that share the folder."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from filelock import FileLock
from PIL import Image
from torch import nn
from tqdm.auto import tqdm

from hf_multimodal.data.archives import read_file
from hf_multimodal.data.augmentation import ImageAugmentation
from hf_multimodal.data.images import open_rgb
from hf_multimodal.hub.storage import replaced
from hf_multimodal.models.inner_models import image_size_of
from hf_multimodal.training.freezing import find_blocks

AS_IT_IS = -1  # the version of an image that is not augmented


def image_key(image: Any) -> str:
    """Name an image cell (`{"bytes", "path"}`) by its content."""
    content = image["bytes"] if image["bytes"] is not None else read_file(image["path"])
    return hashlib.sha256(content).hexdigest()


class ImageArrays:
    """One array for each image of a data set, on disk, computed once for all runs that share the folder.

    The file is named by what the arrays are computed from, so that no other model's are ever read.

    Args:
        folder: Where the file lies.
        rows: Keys, one an array, in the order of the file.
        names: What else the arrays hang on, as JSON has it.
        weights: Of the model that computes them.
        compute: Called with some of the keys; gives (keys, ...).
        batch_size: Keys a call.
    """

    def __init__(
        self,
        folder: str | Path,
        rows: Sequence[Any],
        names: Sequence[Any],
        weights: Iterable[torch.Tensor],
        compute: Callable[[Sequence[Any]], np.ndarray],
        batch_size: int,
    ) -> None:
        self.rows = {named: row for row, named in enumerate(rows)}
        self.path = Path(folder, f"{digest_of([*names, *self.rows], weights)[:16]}.npy")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):  # of runs that begin together, the first computes what all read
            if not self.path.is_file():
                with replaced(self.path) as unfinished:
                    self._write(unfinished, rows, compute, batch_size)

    def _write(self, path: Path, rows: Sequence[Any], compute: Callable, batch_size: int) -> None:
        arrays: Any = None
        for start in tqdm(range(0, len(rows), batch_size), desc=type(self).__name__):
            found = compute(rows[start : start + batch_size])
            if arrays is None:
                shape = (len(rows), *found.shape[1:])
                arrays = np.lib.format.open_memmap(path, mode="w+", dtype=found.dtype, shape=shape)
            arrays[start : start + len(found)] = found
        arrays.flush()

    @cached_property
    def arrays(self) -> np.ndarray:
        """(keys, ...), mapped from the file, by each worker for itself."""
        return np.load(self.path, mmap_mode="r")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "arrays"}


def digest_of(names: Sequence[Any], weights: Iterable[torch.Tensor]) -> str:
    """A name for some settings and weights that no others have."""
    digest = hashlib.sha256(json.dumps(list(names)).encode())
    for weight in weights:
        digest.update(weight.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


class FeatureCache(ImageArrays):
    """The output of the frozen layers of a vision model for each image of a data set, on disk.

    Of images to train on, a few augmented versions can be kept, which are the same for all runs that share the folder;
    epochs take them in turn.

    Args:
        folder: Where the features lie; runs that share it compute them once.
        model: A model with a `vision_model` whose first layers are frozen.
        image_processor: Its image processor.
        images: Cells of all images that are read as they are, `None`s among them.
        augmented: Cells of the images that are read in augmented versions.
        augment: Makes them; called with (image, version, a number that the image's content gives).
        versions: How many of each.
        value_range: The processor's `image_value_range`.
        batch_size: Images a forward pass.

    Raises:
        ValueError: If no layer is frozen, or the layers do not hand one tensor from each to the next (Swin).
    """

    def __init__(
        self,
        folder: str | Path,
        model: Any,
        image_processor: Any,
        images: Sequence[Any],
        *,
        augmented: Sequence[Any] = (),
        augment: Callable[[Image.Image, int, int], Image.Image] | None = None,
        versions: int = 0,
        value_range: tuple[float, float] | None = None,
        batch_size: int = 32,
    ) -> None:
        vision_model = model.vision_model
        self.layers = frozen_layers(vision_model)
        self.versions = versions
        plain, drawn = (
            {image_key(image): image for image in cells if image is not None} for cells in (images, augmented)
        )
        cells = {**drawn, **plain}
        wanted = [(key, AS_IT_IS) for key in sorted(plain)]
        wanted += [(key, version) for key in sorted(drawn) for version in range(versions)]

        @torch.inference_mode()
        def compute(keys: Sequence[tuple[str, int]]) -> np.ndarray:
            opened = []
            for key, version in keys:
                made = None if version == AS_IT_IS or augment is None else partial(_augmented, augment, version, key)
                opened.append(open_rgb(cells[key], value_range, made))
            pixels = image_processor(opened, return_tensors="pt")["pixel_values"]
            return features_after(vision_model, self.layers, pixels).float().cpu().numpy()

        names = [image_processor.to_json_string(), value_range, self.layers, repr(augment) if drawn else None]
        frozen = (parameter for parameter in vision_model.parameters() if not parameter.requires_grad)
        super().__init__(folder, wanted, names, frozen, compute, batch_size)

    def batch(self, images: Sequence[Any], epoch: int | None = None) -> torch.Tensor:
        """Read the features of some images.

        Args:
            images: Cells, None where there is no image.
            epoch: Number of the epoch, from 0, where augmented versions are wanted.

        Returns:
            (batch, ...), zeros where there is no image.
        """
        version = AS_IT_IS if epoch is None else epoch % self.versions
        found = torch.zeros(len(images), *self.arrays.shape[1:])
        for row, image in enumerate(images):
            if image is not None:
                found[row] = torch.tensor(self.arrays[self.rows[image_key(image), version]])
        return found


def _augmented(augment: Callable, version: int, key: str, image: Image.Image) -> Image.Image:
    return augment(image, version, int(key[:12], 16))


def cache_features(
    folder: str | None,
    model: Any,
    processor: Any,
    splits: Mapping[Any, Dataset],
    augment: Any = None,
    versions: int = 1,
) -> FeatureCache | None:
    """The feature cache of a training's images.

    Args:
        folder: Where it lies; None makes none.
        model: A model with a `vision_model` whose first layers are frozen.
        processor: Its processor.
        splits: `train` and `validation` are read.
        augment: Whether the training images are augmented; their versions do not depend on the run's seed, so that
            runs share them.
        versions: Augmented versions of each training image.
    """
    if folder is None:
        return None
    train, validation = (images_of([splits[name]]) if name in splits else [] for name in ("train", "validation"))
    kept: dict[str, Any] = {"images": train + validation}
    if augment is not None:
        kept = {"images": validation, "augmented": train, "augment": ImageAugmentation(0), "versions": versions}
    return FeatureCache(folder, model, processor.image_processor, value_range=processor.image_value_range, **kept)


def images_of(splits: Sequence[Dataset]) -> list[Any]:
    """The image cells of several splits."""
    return [image for rows in splits for image in rows.select_columns(["image"])[:]["image"]]


def frozen_layers(vision_model: nn.Module) -> int:
    """Number of the first layers that are frozen.

    Raises:
        ValueError: If there is none.
    """
    blocks = find_blocks(vision_model)
    frozen = [not any(parameter.requires_grad for parameter in block.parameters()) for block in blocks]
    count = frozen.index(False) if False in frozen else len(frozen)
    if not count:
        raise ValueError("a feature cache needs freeze_vision_layers: no layer of the vision model is frozen.")
    return count


def features_after(vision_model: nn.Module, layers: int, pixel_values: torch.Tensor) -> torch.Tensor:
    """The output of the first layers, which the next one reads.

    Args:
        vision_model: A vision model.
        layers: How many.
        pixel_values: (batch, channels, height, width).

    Raises:
        ValueError: If that is not one tensor.
    """
    kept: list[Any] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        kept.append(output)
        raise _Reached

    handle = find_blocks(vision_model)[layers - 1].register_forward_hook(keep)
    was_training = vision_model.training
    try:
        pixels = pixel_values.to(next(vision_model.parameters())).contiguous(memory_format=torch.channels_last)
        with contextlib.suppress(_Reached):
            vision_model.eval()(pixel_values=pixels)  # laid out as when all layers run, to round as they do
    finally:
        handle.remove()
        vision_model.train(was_training)
    if not isinstance(kept[0], torch.Tensor):
        raise ValueError(
            f"the layers of {type(vision_model).__name__} hand on a {type(kept[0]).__name__}, not one tensor: its "
            "features cannot be cached."
        )
    return kept[0]


class _Reached(Exception):
    """The layer whose output is wanted has run; the later ones need not."""


@contextlib.contextmanager
def reading_features(vision_model: nn.Module, layers: int) -> Iterator[None]:
    """Let a vision model take the output of its first layers in the place of `pixel_values`.

    Its modules and their names stay as they are: the first layer returns that output, the other frozen ones hand
    on what they get, and what comes before them runs on one black image.

    Args:
        vision_model: A vision model.
        layers: Number of the layers whose output is given.
    """
    blocks = find_blocks(vision_model)[:layers]
    size = image_size_of(vision_model.config)
    forward = vision_model.forward
    given: list[torch.Tensor] = []

    def forward_from_features(pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        given[:] = [pixel_values]
        return forward(pixel_values=pixel_values.new_zeros(1, 3, *size), **kwargs)

    vision_model.forward = forward_from_features
    for block in blocks:
        block.forward = lambda *args, **kwargs: given[0]
    try:
        yield
    finally:
        del vision_model.forward
        for block in blocks:
            del block.forward
