"""Conversations about images, in the forms that data sets have them, to the messages of chat templates."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset, List, Value

from hf_multimodal.data.counts import presence

IMAGE_TOKEN = "<image>"
MESSAGES_FEATURE = List({"role": Value("string"), "content": Value("string")})
ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}
CONVERSATION_COLUMNS = ("messages", "conversations", "question")
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
    for form in ("messages", "conversations"):
        if row.get(form) is not None:
            return [_turn(turn, f"{where}turn {number}") for number, turn in enumerate(row[form], 1)]
    if row.get("question") is not None:
        return [("user", row["question"]), ("assistant", row.get("answer"))]
    raise ValueError(f"{where}a conversation stands in {FORMS}, got the columns {sorted(row)}.")


def _turn(turn: Any, where: str) -> tuple[str, Any]:
    """Who speaks, and what is said."""
    for speaker, said in (("role", "content"), ("from", "value")):
        if isinstance(turn, Mapping) and turn.get(speaker) is not None and said in turn:
            return turn[speaker], turn[said]
    raise ValueError(f"{where} has neither `role` and `content` nor `from` and `value`: {str(turn)[:80]!r}.")


def _parts(content: Any, where: str) -> list[dict[str, Any]]:
    """Text and images of one turn."""
    given = (
        content if isinstance(content, list) else [{"type": "text", "text": "" if content is None else str(content)}]
    )
    parts: list[dict[str, Any]] = []
    for part in given:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "image":
            parts.append({"type": "image"})
            continue
        if kind != "text":
            raise ValueError(f"{where} has a part of type {kind!r}, which is neither text nor image.")
        for number, text in enumerate((part.get("text") or "").split(IMAGE_TOKEN)):
            parts += [{"type": "image"}] * (number > 0)
            parts += [{"type": "text", "text": text}] * bool(text)
    return parts


def read_conversation(cell: Any, answer: Any, images: int) -> tuple[str, list[dict[str, str]]]:
    """A cell of a table as messages of one form.

    Args:
        cell: A list of turns, such a list written as JSON, or a question.
        answer: To the question; None where the cell is a conversation.
        images: How many images the row has.

    Returns:
        All that is said, a turn a line, and the messages: `role` and `content`, a text in which `<image>` stands for
        an image.

    Raises:
        ValueError: As `messages_of`, or if the cell is neither.

    Example:

    >>> read_conversation("What is this?", "A cat.", 1)[1][0]
    {'role': 'user', 'content': '<image>What is this?'}
    """
    if isinstance(cell, str) and answer is None and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except ValueError as error:
            raise ValueError(f"the conversation is not JSON ({error}).") from None
    if isinstance(cell, list):
        row: dict[str, Any] = {"messages": cell}
    elif answer is None and isinstance(cell, str):
        raise ValueError("a question needs an answer (answer_column), a conversation is a list of turns.")
    else:
        row = {"question": cell, "answer": answer}
    messages = [
        {
            "role": message["role"],
            "content": "".join(part.get("text", IMAGE_TOKEN) for part in message["content"]),
        }
        for message in messages_of(row, images)
    ]
    return "\n".join(message["content"].replace(IMAGE_TOKEN, "").strip() for message in messages), messages


def caption_messages(prompt: str, caption: str) -> list[dict[str, str]]:
    """A caption as the answer to a prompt.

    Example:

    >>> caption_messages("Describe the image.", "A dog runs.")[0]["content"]
    '<image>Describe the image.'
    """
    return [
        {"role": "user", "content": f"{IMAGE_TOKEN}{prompt}"},
        {"role": "assistant", "content": caption},
    ]


def with_captions_as_answers(rows: Dataset, prompt: str) -> Dataset:
    """Add the column `messages`: each text of the rows is the answer to one prompt.

    Args:
        rows: Rows with `text`.
        prompt: What the user says beside the image.
    """
    messages = [caption_messages(prompt, text) for text in rows["text"][:]]
    return rows.add_column("messages", messages, feature=MESSAGES_FEATURE)


def without_lost_images(rows: Dataset) -> Dataset:
    """Take `<image>` out of the messages of rows whose image was taken away.

    Args:
        rows: Rows with `image`, `text` and `messages`.

    Returns:
        The rows; those of which a turn was the image alone are left out, and so are rows without messages.
    """
    messages, kept = [], []
    for row, (turns, has_image) in enumerate(zip(rows["messages"][:], presence(rows)[:, 0], strict=True)):
        turns = turns or []
        if not has_image:
            turns = [{**turn, "content": turn["content"].replace(IMAGE_TOKEN, "")} for turn in turns]
        if turns and all(turn["content"].strip() for turn in turns):
            kept.append(row)
            messages.append(turns)
    left = rows.select(kept).remove_columns("messages")
    return left.add_column("messages", messages, feature=MESSAGES_FEATURE)
