"""Conversations about images, in the forms that data sets have them, to the messages of chat templates."""

from collections.abc import Mapping, Sequence
from typing import Any

IMAGE_TOKEN = "<image>"
ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
FORMS = "`messages` (role, content), `conversations` (from, value), or `question` and `answer`"


def messages_of(row: Mapping[str, Any], images: int, name: Any = None) -> list[dict[str, Any]]:
    """The messages of a row, each with a list of parts, images in their places.

    `<image>` in a text is the place of an image. Where no text names any, all images stand before the first thing that
    the user says.

    Args:
        row: With `messages` as trl has them, `conversations` as LLaVA has them, or `question` and `answer`.
        images: How many images the row has.
        name: Of the row, for messages.

    Returns:
        `role` and `content`, a list of `{"type": "image"}` and `{"type": "text", "text": ...}`.

    Raises:
        ValueError: If the row has no such column, a role is not known, a turn is empty, the assistant speaks first or
            never, or the texts name another number of images than there are.

    Example:

    >>> row = {"conversations": [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A cat."}]}
    >>> messages_of(row, 1)[0]
    {'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': 'What?'}]}
    """
    where = "" if name is None else f"row {name!r}: "
    messages: list[dict[str, Any]] = []
    for number, (said_by, content) in enumerate(_turns(row, where), 1):
        role = ROLES.get(said_by)
        if role is None:
            raise ValueError(f"{where}turn {number} is of {said_by!r}, which is none of {list(ROLES)}.")
        parts = _parts(content, f"{where}turn {number}")
        if not any(part["type"] == "image" or part["text"].strip() for part in parts):
            raise ValueError(f"{where}turn {number}, of {said_by!r}, is empty.")
        messages.append({"role": role, "content": parts})
    spoken = [message["role"] for message in messages if message["role"] != "system"]
    if not spoken or spoken[0] != "user":
        raise ValueError(f"{where}a conversation begins with the user, this one with {spoken[:1]}.")
    if "assistant" not in spoken:
        raise ValueError(f"{where}the assistant says nothing, so that nothing can be learned.")
    named = sum(part["type"] == "image" for message in messages for part in message["content"])
    if not named and images:
        first = next(message for message in messages if message["role"] == "user")
        first["content"][:0] = [{"type": "image"} for _ in range(images)]
    elif named != images:
        raise ValueError(f"{where}the texts name {named} images by {IMAGE_TOKEN}, and the row has {images}.")
    return messages


def _turns(row: Mapping[str, Any], where: str) -> Sequence[tuple[str, Any]]:
    if row.get("messages") is not None:
        return [(turn["role"], turn["content"]) for turn in row["messages"]]
    if row.get("conversations") is not None:
        return [(turn["from"], turn["value"]) for turn in row["conversations"]]
    if row.get("question") is not None:
        return [("user", row["question"]), ("assistant", row.get("answer"))]
    raise ValueError(f"{where}a conversation stands in {FORMS}, got the columns {sorted(row)}.")


def _parts(content: Any, where: str) -> list[dict[str, Any]]:
    """Text and images of one turn."""
    given = [{"type": "text", "text": content}] if isinstance(content, str) or content is None else content
    parts: list[dict[str, Any]] = []
    for part in given:
        if part["type"] == "image":
            parts.append({"type": "image"})
            continue
        if part["type"] != "text":
            raise ValueError(f"{where} has a part of type {part['type']!r}, which is neither text nor image.")
        for number, text in enumerate((part["text"] or "").split(IMAGE_TOKEN)):
            parts += [{"type": "image"}] * (number > 0)
            parts += [{"type": "text", "text": text}] * bool(text)
    return parts
