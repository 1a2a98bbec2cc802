"""Errors that name what was given, what is allowed, and the nearest allowed name."""

import difflib
import unicodedata
from collections.abc import Iterable
from pathlib import Path


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Phrase the allowed name nearest to a mistyped one, ready to end an error message.

    Args:
        given: What was typed.
        allowed: The names that exist.

    Returns:
        `" Did you mean 'x'?"` with a leading space, or the empty string when nothing is near.

    Example:

    >>> did_you_mean("lable", ["label", "text"])
    " Did you mean 'label'?"
    >>> did_you_mean("caf\\u00e9", ["cafe\\u0301"])  # the two look alike on the screen
    " Did you mean 'cafe\\\\u0301', the same word in another Unicode normal form?"
    """
    by_form = {_form(name): name for name in allowed}
    nearest = difflib.get_close_matches(_form(given), list(by_form), n=1)
    if not nearest:
        return ""
    name = by_form[nearest[0]]
    if name != given and unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", given):
        return f" Did you mean {ascii(name)}, the same word in another Unicode normal form?"
    return f" Did you mean '{name}'?"


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name).lower()


def check_choice(name: str, given: str, allowed: Iterable[str]) -> str:
    """Return `given` when it is allowed, so that a typo never chooses something else in silence.

    Args:
        name: The argument's name, for the message.
        given: Its value.
        allowed: Its allowed values.

    Raises:
        ValueError: `given` is not among `allowed`.

    Example:

    >>> check_choice("policy", "drpo", ["error", "drop"])
    Traceback (most recent call last):
    ...
    ValueError: policy must be one of ['error', 'drop'], got 'drpo'. Did you mean 'drop'?
    """
    choices = list(allowed)
    if given not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {given!r}.{did_you_mean(str(given), choices)}")
    return given


def check_folder(name: str, given: str) -> str:
    """Return the folder or Hub name of a model, unless it is a path at which there is nothing.

    Without this a mistyped path would be looked for on the Hub, and end as a failed connection. `runs/mine` is a path
    where other models lie in `runs`.

    Args:
        name: The argument's name, for the message.
        given: Its value.

    Raises:
        FileNotFoundError: `given` is a path, not a Hub name, and there is no such folder.

    Example:

    >>> check_folder("model", "facebook/deit-tiny-patch16-224")
    'facebook/deit-tiny-patch16-224'
    >>> check_folder("model", "/no/such")
    Traceback (most recent call last):
    ...
    FileNotFoundError: model: there is no folder '/no/such'.
    """
    models = [config.parent.name for config in Path(given).parent.glob("*/config.json")] if "/" in given else []
    looks_local = given.startswith((".", "/", "~")) or given.count("/") > 1 or models
    if looks_local and not Path(given).is_dir():
        raise FileNotFoundError(f"{name}: there is no folder {given!r}.{did_you_mean(Path(given).name, models)}")
    return given
