"""Refusal of pickled weights: a pickle can run code when it is opened, so weights come as safetensors alone."""

import json
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import httpx

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
INDEX = "model.safetensors.index.json"
# What `Trainer` leaves beside a model and reads only when it resumes; no model is loaded from these.
TRAINER_STATE = ("training_args.bin", "optimizer.*", "scheduler.pt", "scaler.pt", "rng_state*.pth")


def refuse_pickles(where: str, files: Iterable[str]) -> None:
    """Refuse weights that are pickled, even where safetensors lie beside them.

    Args:
        where: The folder or repository, for the message.
        files: Names of its files.

    Raises:
        ValueError: If any of them is a pickle that a model could be loaded from.

    Example:

    >>> refuse_pickles("me/mine", ["model.safetensors", "training_args.bin"])
    >>> refuse_pickles("me/mine", ["model.safetensors", "pytorch_model.bin"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: me/mine holds pickled weights, which can run code when they are opened: ['pytorch_model.bin']. ...
    """
    found = [
        file
        for file in sorted(files)
        for name in [PurePosixPath(file).name]
        if name.lower().endswith(PICKLES) and not any(fnmatch(name, state) for state in TRAINER_STATE)
    ]
    if found:
        raise ValueError(
            f"{where} holds pickled weights, which can run code when they are opened: {found}. Only safetensors are "
            "read and shared, which `save_pretrained` writes: remove these files."
        )


def refuse_other_shards(where: str, index: str | bytes) -> None:
    """Refuse an index of weights that names other files than safetensors: what it names is opened, whatever its name.

    Args:
        where: The folder or repository, for the message.
        index: Content of its `model.safetensors.index.json`.

    Raises:
        ValueError: If one of the files is no safetensors file.
    """
    others = sorted({name for name in json.loads(index)["weight_map"].values() if not name.endswith(".safetensors")})
    if others:
        raise ValueError(f"{where}/{INDEX} names {others}, and only safetensors are read.")


def refuse_pickled_model(name_or_path: str | Path, revision: str | None = None) -> None:
    """Refuse a folder or a repository of the Hub that holds pickled weights.

    Args:
        name_or_path: Folder, of which the top is looked at, or name on the Hub.
        revision: Branch, tag or commit of the repository.

    Raises:
        ValueError: If there are any, or an index names others than safetensors.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        files = [path.name for path in folder.iterdir()]
    else:
        try:
            files = HfApi().list_repo_files(str(name_or_path), revision=revision)
        except (OfflineModeIsEnabled, httpx.TransportError):  # what is loaded then is in the cache
            index = try_to_load_from_cache(str(name_or_path), INDEX, revision=revision)
            if isinstance(index, str):
                refuse_other_shards(str(name_or_path), Path(index).read_bytes())
            return
    refuse_pickles(str(name_or_path), files)
    if INDEX in files:
        index = folder / INDEX if folder.is_dir() else hf_hub_download(str(name_or_path), INDEX, revision=revision)
        refuse_other_shards(str(name_or_path), Path(index).read_bytes())
