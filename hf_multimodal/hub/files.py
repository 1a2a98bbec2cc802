"""The files of a run's folder that are shared: patterns, the code that travels, the images of the card."""

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import CHAT_TEMPLATE_DIR, logging

from hf_multimodal.hub.eval_results import EVAL_RESULTS
from hf_multimodal.hub.pickles import INDEX, refuse_other_shards, refuse_pickles

logger = logging.get_logger(__name__)

# All that loading needs beside the code, and the card. Whatever else lies in the folder stays: predictions, rows,
# paths, checkpoints.
SETTINGS = ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", INDEX)
SHARED = (
    *(*SETTINGS, *WEIGHTS, "README.md", "LICENSE"),
    *("generation_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
    # Whatever the tokenizers of transformers call their vocabularies.
    *("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "merges.txt", "normalizer.json", "emoji.json"),
    *("*spiece.model", "sentencepiece*.model", "spm*.model", "source.spm", "target.spm", "target_vocab.json"),
    *("bpe.codes", "byte_maps.json", "dict.txt", "entity_vocab.json", "prophetnet.tokenizer", "vocab-src.json"),
    *("vocab-tgt.json", "word_pronunciation.json", "word_shape.json"),
)
NAMED_TEMPLATES = f"{CHAT_TEMPLATE_DIR}/*.jinja"  # of a tokenizer that has several chat templates
IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
SHOWN = re.compile(r"""!\[[^\]]*\]\(\s*(?:<([^>]+)>|([^)\s]+))|<img\s[^>]*src=["']([^"']+)""")
DEFINED = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)", re.MULTILINE)  # what `![loss][name]` shows


def read_card(folder: str | Path) -> str:
    """The card of a folder.

    Raises:
        ValueError: If it is not UTF-8.
    """
    path = Path(folder, "README.md")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8, as the Hub reads it: {error}.") from error


def images_of_card(card: str) -> list[str]:
    """Relative paths of the images that a card shows, in order.

    Example:

    >>> images_of_card("![loss](a%20b.png?raw=true) <img src='a/b.png'> ![](HTTPS://x.org/c.png) `![](d.png)`")
    ['a b.png', 'a/b.png']
    """
    text = CODE.sub("", card)
    found = ["".join(groups) for groups in SHOWN.findall(text)]
    found += [path for path in DEFINED.findall(text) if path.lower().endswith(IMAGES)]
    here = [path for path in found if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|/|#", path)]
    return list(dict.fromkeys(unquote(re.sub(r"[?#].*", "", path)) for path in here))


def code_files(folder: Path) -> set[str]:
    """Names of the Python files that the configurations name, and of all that these import beside themselves."""
    found: set[str] = set()
    for settings in (folder / name for name in SETTINGS):
        if settings.is_file():
            content = json.loads(settings.read_text(encoding="utf-8"))
            own = [
                content.get("auto_map", {}),
                *(task["impl"] for task in content.get("custom_pipelines", {}).values()),
            ]
            modules = {folder / f"{name.split('.')[0]}.py" for name in _strings(own)}
            for module in filter(Path.is_file, modules):
                found |= {module.name, *(Path(file).name for file in get_relative_import_files(module))}
    return {name for name in found if (folder / name).is_file()}


def _strings(nested: Any) -> Iterator[str]:
    if isinstance(nested, str):
        yield nested
    elif isinstance(nested, (dict, list)):
        for part in nested.values() if isinstance(nested, dict) else nested:
            yield from _strings(part)


def shared_files(folder: str | Path) -> list[str]:
    """Which files of a run's folder are shared.

    The model (`config.json`, safetensors, the code that it names), its processor with all chat templates, the card
    (`README.md`) with the images that it shows, the evaluation results beside it, and a `LICENSE`; nothing else, and
    nothing else of subfolders.

    Args:
        folder: Folder of a run, or one that `save_pretrained` wrote.

    Returns:
        Their names in the folder, sorted.

    Raises:
        FileNotFoundError: If the folder holds no whole model, or an image of the card is not in it.
        ValueError: If it holds pickled weights, or the card shows what is no image or is not UTF-8.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}.")
    names = {path.name for path in folder.iterdir() if path.is_file()}
    refuse_pickles(str(folder), names)
    shards = ["model.safetensors"]
    if INDEX in names:
        index = (folder / INDEX).read_bytes()
        refuse_other_shards(str(folder), index)
        shards = sorted(set(json.loads(index)["weight_map"].values()))
    lacking = [name for name in ("config.json", *shards) if name not in names]
    if lacking:
        hint = " It holds a LoRA adapter alone: merge it and save the model." if "adapter_config.json" in names else ""
        raise FileNotFoundError(f"{folder} holds no whole model, it lacks {lacking}.{hint}")
    if not names & {"processor_config.json", "preprocessor_config.json"}:
        logger.warning("%s holds no processor: AutoProcessor will not load from where it is pushed to.", folder)
    shared = {name for name in names if any(fnmatch(name, pattern) for pattern in SHARED)} | code_files(folder)
    shared |= {path.relative_to(folder).as_posix() for path in folder.glob(NAMED_TEMPLATES)}
    if (folder / EVAL_RESULTS).is_file():
        shared.add(EVAL_RESULTS)
    if "README.md" in shared:
        for image in images_of_card(read_card(folder)):
            file = folder / image
            if not image.lower().endswith(IMAGES):
                raise ValueError(f"{folder / 'README.md'} shows {image!r}, which is none of {list(IMAGES)}.")
            if not file.is_file() or not file.resolve().is_relative_to(folder.resolve()):
                raise FileNotFoundError(f"{folder / 'README.md'} shows {image!r}, which is not in {folder}.")
            shared.add(image)
    return sorted(shared)
