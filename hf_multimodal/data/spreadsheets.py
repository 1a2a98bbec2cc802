"""CSV files that a spreadsheet opens as data: no cell of theirs is run as a formula."""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hf_multimodal.hub.storage import replaced

_FORMULA = re.compile(r"['\t\r\n]|\s*[=+\-@＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def neutralised(text: str) -> str:
    """A text as a cell that no spreadsheet takes for a formula: one that begins like that gets a single quote.

    As [OWASP recommends](https://owasp.org/www-community/attacks/CSV_Injection). A number is none, and a text that
    begins with a quote gets another, so that `from_cell` gives back exactly what was written.

    Args:
        text: Any text, such as an id or the name of a class.

    Example:

    >>> [neutralised(text) for text in ("=SUM(A1)", "-1.5", "'tis", "a-b")]
    ["'=SUM(A1)", '-1.5', "''tis", 'a-b']
    >>> from_cell("''tis")
    "'tis"
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def from_cell(cell: str) -> str:
    """The text of which `neutralised` made a cell."""
    return cell.removeprefix("'")


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[Any]], delimiter: str = ",") -> None:
    """Write a table in UTF-8, its texts quoted and neutralised, its numbers as they are.

    Args:
        path: The file; replaced as a whole if it exists.
        header: Names of the columns.
        rows: Texts, numbers, and None for an empty cell.
        delimiter: Between the cells.
    """
    with replaced(path) as part, part.open("w", encoding="utf-8", newline="") as stream:
        # Texts are always quoted: a bare carriage return would end the row, and another country's spreadsheet
        # divides at semicolons.
        options: Any = {"delimiter": delimiter, "lineterminator": "\n"}
        writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC, **options)
        plain = all(name.isidentifier() for name in header)
        (csv.writer(stream, **options) if plain else writer).writerow(map(neutralised, header))
        for row in rows:
            writer.writerow(["" if cell is None else _as_cell(cell) for cell in row])


def _as_cell(value: Any) -> Any:
    return neutralised(value) if isinstance(value, str) else value
