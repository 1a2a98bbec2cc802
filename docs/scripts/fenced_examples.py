"""An extension of griffe, which reads docstrings for the site: examples are code, and names are no broken links."""

import re
from typing import Any

import griffe

NAME = re.compile(r"\[(`[^`\n]+`)\](?![\[(])")  # transformers' [`Class`]
EXAMPLE = re.compile(r"(?:^[ ]*>>>.*\n?(?:^[ ]*\S.*\n?)*)+", re.MULTILINE)  # to the next empty line


def fenced(text: str) -> str:
    """A docstring whose lines from `>>>` to the next empty one stand in a fence, and whose names have no brackets."""
    return EXAMPLE.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", NAME.sub(r"\1", text))


class FencedExamples(griffe.Extension):
    """Puts the examples of every docstring into fences."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
