"""Font families that can show a text: matplotlib's own font has no Chinese, and draws an empty box for it."""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import matplotlib
from matplotlib.font_manager import fontManager
from matplotlib.ft2font import FT2Font, LoadFlags
from transformers.utils import logging

logger = logging.get_logger(__name__)

BASE_FAMILY = "DejaVu Sans"  # comes with matplotlib
CJK_PACKAGE = "zhplot"  # of the extra `cjk`: its Noto Sans SC is read; importing it would change matplotlib's settings
CJK_FAMILIES = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "PingFang SC",
    "Hiragino Sans GB",
    "Microsoft YaHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "SimHei",
    "Droid Sans Fallback",
    "Arial Unicode MS",
)


def families_for(*texts: str) -> list[str]:
    """Font families, first to last resort, that together have a glyph for every character that an installed font has.

    Searched beyond matplotlib's own font: the font of the extra `cjk`, then the machine's fonts, well-known Chinese
    ones first. Logs one warning that names what to install for characters which no font has.

    Args:
        texts: What is to be drawn.

    Returns:
        A list for the `family` of a matplotlib text; matplotlib takes each glyph from the first family that has it.

    Example:

    >>> families_for("plain")
    ['DejaVu Sans']
    """
    missing = _uncovered("".join(texts), _charmap(_base_font()))
    families = [BASE_FAMILY]
    candidates = _candidates()
    while missing:
        family, path = next(candidates, ("", ""))
        if not path:
            _warn(missing)
            break
        left = _uncovered(missing, _charmap(path))
        if len(left) < len(missing):
            families.append(family)
            missing = left
    return families


def ems(text: str) -> float:
    """Width of a text on one line, in units of its font size.

    Args:
        text: Any characters; one that matplotlib's own font lacks counts as a full square, as Chinese ones are.

    Example:

    >>> ems("我们"), ems("i") < ems("W") < 1
    (2.0, True)
    """
    return sum(map(_advance, text))


def _candidates() -> Iterator[tuple[str, str]]:
    """Families with a regular upright file, each once, best first."""
    extra = _extra_font()
    if extra is not None:
        yield _register(extra), extra
    regular = (400, "normal", "regular")
    entries = [font for font in fontManager.ttflist if font.style == "normal" and font.weight in regular]
    known = {family: place for place, family in enumerate(CJK_FAMILIES)}
    seen = {BASE_FAMILY}
    for font in sorted(entries, key=lambda font: (known.get(font.name, len(known)), font.name)):
        if font.name not in seen and Path(font.fname).is_file():
            seen.add(font.name)
            yield font.name, font.fname


@lru_cache(maxsize=4096)
def _advance(char: str) -> float:
    if ord(char) not in _charmap(_base_font()):
        return 1.0
    font = FT2Font(_base_font())
    return font.load_char(ord(char), LoadFlags.NO_SCALE).horiAdvance / font.units_per_EM


def _base_font() -> str:
    return str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")


@lru_cache(maxsize=1)
def _extra_font() -> str | None:
    found = find_spec(CJK_PACKAGE)
    folders: Sequence[str] = (found.submodule_search_locations or []) if found is not None else []
    files = [file for folder in folders for file in sorted((Path(folder) / "fonts").glob("*.ttf"))]
    return str(files[0]) if files else None


@lru_cache(maxsize=8)
def _register(path: str) -> str:
    fontManager.addfont(path)
    return next(font.name for font in fontManager.ttflist if font.fname == path)


@lru_cache(maxsize=512)
def _charmap(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # a font that FreeType cannot read shows nothing
        return frozenset()


def _uncovered(text: str, charmap: frozenset[int]) -> str:
    drawn = sorted(set(text))
    visible = [char for char in drawn if unicodedata.category(char) not in ("Cc", "Cs")]
    return "".join(char for char in visible if ord(char) not in charmap)


@lru_cache(maxsize=64)  # once for the same characters, not once an image
def _warn(missing: str) -> None:
    scripts = ("CJK", "FULLWIDTH", "HIRAGANA", "KATAKANA")
    package = _extra_font() is None and any(unicodedata.name(char, "").startswith(scripts) for char in missing)
    cure = "pip install 'hf_multimodal[cjk]'" if package else "install a font that has them, such as one of Noto's"
    sample = " ".join(f"{char} (U+{ord(char):04X})" for char in missing[:8])
    logger.warning(f"no installed font has a glyph for {len(missing)} characters, such as {sample}: {cure}.")
