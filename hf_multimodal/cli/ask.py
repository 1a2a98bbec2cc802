"""hf-multimodal ask --model runs/vision_language --image x.jpg "What is this?"

Questions about an image, one of them or a conversation.
"""

import sys
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import set_seed

from hf_multimodal.cli.command_line import CommandLine
from hf_multimodal.cli.commands import COMMANDS
from hf_multimodal.data.images import open_rgb
from hf_multimodal.inference.answering import answer
from hf_multimodal.inference.prediction import load_model
from hf_multimodal.models import VisionLanguageConfig

ANOTHER_IMAGE = "/image "


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the command.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        `messages`: what was said.

    Raises:
        ValueError: If the model answers no questions.
        BadImageError: On an image that cannot be read.
    """
    args = CommandLine(COMMANDS["ask"], argv).parse().asking
    image = None if args.image is None else open_rgb(args.image)
    model, processor = load_model(args.model, args.revision, args.trust_remote_code)
    if model.config.model_type != VisionLanguageConfig.model_type:
        raise ValueError(
            f"{args.model} is a {model.config.model_type!r}, which answers no questions: `hf-multimodal "
            "train-vision-language` makes a model that does."
        )
    options = {"max_new_tokens": args.max_new_tokens}
    if args.temperature:
        set_seed(args.seed)
        options |= {"do_sample": True, "temperature": args.temperature}
    messages: list[dict[str, Any]] = []
    if args.question is not None:
        say(model, processor, messages, args.question, image, options)
    else:
        converse(model, processor, messages, image, options)
    return {"messages": [{"role": turn["role"], "content": turn["content"][-1]["text"]} for turn in messages]}


def say(model: Any, processor: Any, messages: list[dict[str, Any]], question: str, image: Any, options: Any) -> None:
    """Ask, print the answer, and add both to the messages; the image stands before the first question."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": question}]
    if image is not None and not messages:
        parts.insert(0, {"type": "image", "image": image})
    messages.append({"role": "user", "content": parts})
    (said,) = answer(model, processor, [messages], **options)
    messages.append({"role": "assistant", "content": [{"type": "text", "text": said}]})
    print(said)


def converse(
    model: Any, processor: Any, messages: list[dict[str, Any]], image: Image.Image | None, options: Any
) -> None:
    """Ask what is read line by line, until an empty line or the end."""
    prompt = "> " if sys.stdin.isatty() else ""
    while line := next_line(prompt):
        if not line.startswith(ANOTHER_IMAGE):
            say(model, processor, messages, line, image, options)
            continue
        name = line.removeprefix(ANOTHER_IMAGE).strip()
        if not Path(name).is_file():
            print(f"there is no image {name!r}.")
            continue
        image = open_rgb(name)
        messages.clear()


def next_line(prompt: str) -> str:
    """What is typed; nothing at the end."""
    try:
        return input(prompt).strip()
    except EOFError:
        return ""
