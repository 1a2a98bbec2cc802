"""python tests/fuzz.py tables|images|runs --seconds 120 --seed 0

Mutates files at random and reads them: what comes out must be a result or a documented error of this package, never
another exception. A mutation is a function of (seed, number), so each failure that is printed can be run again:
`--seed S --only N`.
"""

import argparse
import importlib
import io
import json
import random
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import arrow_dataset, fingerprint
from PIL import Image

import hf_multimodal
from hf_multimodal.data.checks import POLICIES, check_splits
from hf_multimodal.data.loading import load_data
from hf_multimodal.data.splits import complete_splits

PACKAGE = str(Path(hf_multimodal.__file__).parent)

# --- what may happen -------------------------------------------------------------------------------------------------


def is_documented(error: BaseException) -> bool:
    """Whether an exception is one that our docstrings name, and was raised by our own code and not passed on."""
    if not isinstance(error, (ValueError, FileNotFoundError)):
        return False
    own = type(error) in (ValueError, FileNotFoundError) or type(error).__module__.startswith("hf_multimodal")
    last = traceback.extract_tb(error.__traceback__)[-1]
    return own and last.filename.startswith(PACKAGE) and str(error).strip() != ""


def run(trials: Iterator[tuple[int, Callable[[], Any]]], show: bool = False) -> tuple[Counter, dict[int, str]]:
    """Run trials.

    Args:
        trials: Numbers, and what each runs.
        show: Whether documented errors are printed.

    Returns:
        How many ended as `result` or in which documented error, and the tracebacks of all others by number.
    """
    ends: Counter = Counter()
    failures: dict[int, str] = {}
    for number, trial in trials:
        try:
            trial()
            ends["result"] += 1
        except Exception as error:
            if is_documented(error):
                ends[type(error).__name__] += 1
                if show:
                    print(f"{number}: {str(error)[:300]}")
            else:
                ends["undocumented"] += 1
                failures[number] = traceback.format_exc()
    return ends, failures


# --- bytes -----------------------------------------------------------------------------------------------------------

ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030", "cp1252", "koi8-r", "shift_jis")


def flip(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def cut_out(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    return content[:start] + content[start + draw.choice((1, 2, 16, 256)) :]


def double(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    part = content[start : start + draw.choice((1, 2, 16, 256))]
    return content[:start] + part * draw.choice((2, 3, 100)) + content[start + len(part) :]


def overwrite(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    size = draw.choice((1, 4, 32))
    part = draw.choice((b"\0" * size, b"\xff" * size, draw.randbytes(size), b'"', b"\r", b"\n\n", b",", b"\\", b"{"))
    return content[:start] + part + content[start + len(part) :]


def recode(content: bytes, draw: random.Random) -> bytes:
    try:
        return content.decode("utf-8").encode(draw.choice(ENCODINGS), "replace")
    except UnicodeDecodeError:
        return content[::-1]


MUTATIONS = (flip, flip, flip, cut, cut_out, double, overwrite, recode)

# --- tables ----------------------------------------------------------------------------------------------------------

CELLS: tuple[Any, ...] = (
    "", " ", "\0", "a\0b", "NaN", "null", "None", "=1+1", "-", "\ud800", "x\udfff", "e\u0301", "\u202e", "😀",
    "\ufeff", "a" * 200_000, '"', ",", "a,b", "\n", "\r\n", "\t", "|", "a|b", "[0, 1]", '["a.png", "b.png"]', "[",
    "{}", "[]", "../a.png", "/etc/passwd", "http://x.org/a.png", "data:,", "a.png;b.png", "x" * 300, "\\\\host\\a.png",
    "train", "test", "dev", "tset", "-1", "0", "1", "0.5", "1e999", "-inf", "1e5", "٣", "½", "9" * 20, "9" * 5000,
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 2**70, 0.5, 1.0, 1e308, float("nan"), float("inf"),
    [], [0, 1], [0.0, 1.0], [1.0], ["a", "b"], ["a", "a"], [None], [[1]], [1, "x"], [2**70], ["\udfff"], ["a.png"],
    {}, {"path": "a.png"}, {"bytes": None, "path": None}, {"path": ["a"]}, {"a\0b": 1}, {"bytes": "x"}, {"a": [2**70]},
)  # fmt: skip
NAMES = ("text", "image", "label", "id", "split", "caption", "te\0xt", "téxt", "te\u0301xt", "\ud800", "", " text",
         "input_ids", "attention_mask", "file_name", "Text", "faults", "index")  # fmt: skip


ARROW: tuple[tuple[pa.DataType, tuple[Any, ...]], ...] = (
    (pa.int64(), (0, 1, -1, 2**62)), (pa.uint64(), (0, 2**64 - 1)), (pa.bool_(), (True, False)),
    (pa.float16(), (0.5, 1.0)), (pa.float64(), (float("nan"), float("inf"), 1e308, 0.5)), (pa.null(), (None,)),
    (pa.binary(), (b"", b"\xff\0", b"\x89PNG")), (pa.large_string(), ("a", "")), (pa.date32(), (0, 2**31 - 1)),
    (pa.timestamp("s"), (0, 2**62, -(2**62))), (pa.timestamp("ns", "UTC"), (0, 2**62)), (pa.duration("s"), (2**62,)),
    (pa.decimal128(10, 2), (Decimal("1.25"), Decimal(0))), (pa.time64("us"), (1,)), (pa.month_day_nano_interval(), ()),
    (pa.list_(pa.float32(), 3), ([0, 1, 0], [1, 1, 1])), (pa.large_list(pa.int8()), ([0, 1], [])),
    (pa.map_(pa.string(), pa.string()), ([("a", "b")], [])), (pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    ({"bytes": b"x", "path": None}, {"bytes": None, "path": "a.png"}, {"bytes": None, "path": None})),
    (pa.dictionary(pa.int8(), pa.string()), ("a", "b")), (pa.list_(pa.list_(pa.string())), ([["a"]], [[]])),
    (pa.string_view(), ("a", "")), (pa.list_(pa.string()), (["a.png"], ["a.png", "b.png"], [None], [])),
)  # fmt: skip
FEATURES: tuple[Any, ...] = (
    {"dtype": "string", "_type": "Value"}, {"dtype": "int64", "_type": "Value"}, {"_type": "Image"}, {"_type": "None"},
    {"names": ["a"], "_type": "ClassLabel"}, {"names": [], "_type": "ClassLabel"}, {"names": 3, "_type": "ClassLabel"},
    {"feature": {"dtype": "float32", "_type": "Value"}, "length": 2, "_type": "List"}, {"_type": "Json"}, [], {}, None,
    {"feature": {"names": ["a", "b"], "_type": "ClassLabel"}, "_type": "List"}, {"_type": "Audio"}, {"_type": "Pdf"},
    {"shape": [1, 3], "dtype": "float32", "_type": "Array2D"},
)  # fmt: skip


def a_table(draw: random.Random) -> list[dict[str, Any]]:
    """A small table that is in order."""
    kind = draw.choice(("words", "words", "numbers", "several", "floats"))
    rows: list[dict[str, Any]] = []
    images = draw.choice(("ab", "ab", "cd"))  # in the folder, in the archive
    for i in range(draw.choice((1, 24, 40, 40, 40))):
        labels = {"words": "ab"[i % 2], "numbers": i % 2, "several": [float(i % 2), 1.0], "floats": i / 7}
        rows.append({"image": f"{images[i % 2]}.png", "text": f"word {i}", "label": labels[kind], "id": f"r{i}"})
    if draw.random() < 0.2:
        rows = [{**row, "split": draw.choice(("train", "test"))} for row in rows]
    return rows


def spoil(rows: list[dict[str, Any]], draw: random.Random) -> list[dict[str, Any]]:
    """Change cells and names of columns."""
    for _ in range(draw.choice((0, 1, 1, 3))):
        column = draw.choice(list(rows[0]))
        cell = draw.choice(CELLS)
        chosen = rows if draw.random() < 0.2 else draw.sample(rows, 1)
        for row in chosen:
            row[column] = cell
        if draw.random() < 0.1:
            row = draw.choice(rows)
            row.pop(column, None)
    if draw.random() < 0.15:
        old, new = draw.choice(list(rows[0])), draw.choice(NAMES)
        rows = [{new if name == old else name: value for name, value in row.items()} for row in rows]
    return rows


def written(rows: list[dict[str, Any]], suffix: str, draw: random.Random) -> bytes:
    """The bytes of a table; what the kind of file cannot hold is written as words."""
    if suffix == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=draw.random() < 0.7) for row in rows]
        return "\n".join(lines).encode("utf-8", "replace")
    if suffix == ".parquet":
        table = arrow_table(rows, draw)
        buffer = io.BytesIO()
        try:
            pq.write_table(table, buffer, compression=draw.choice(("snappy", "none", "none", "zstd")))
        except pa.ArrowException:  # an empty struct, a type that Parquet lacks
            pq.write_table(pa.table({"text": list(map(ascii, rows))}), buffer)
        return buffer.getvalue()
    delimiter = "\t" if suffix == ".tsv" else ","
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names] + [["" if (value := row.get(name)) is None else str(value) for name in names] for row in rows]
    quoting = draw.random() < 0.8
    lines = [
        delimiter.join('"' + cell.replace('"', '""') + '"' if quoting else cell for cell in line) for line in cells
    ]
    return draw.choice(("\n", "\n", "\r\n", "\r")).join(lines).encode("utf-8", "replace")


def arrow_table(rows: list[dict[str, Any]], draw: random.Random) -> pa.Table:
    """The rows with types that Arrow infers, one column perhaps with a strange one, and features that may not fit."""
    try:
        table = pa.Table.from_pylist(rows)
    except (pa.ArrowException, OverflowError, UnicodeError):
        table = pa.Table.from_pylist([{ascii(name): ascii(value) for name, value in row.items()} for row in rows])
    if draw.random() < 0.4:
        kind, values = draw.choice(ARROW)
        array = pa.array([draw.choice((*values, None)) for _ in range(len(table))], kind)
        table = table.set_column(draw.randrange(table.num_columns), draw.choice(NAMES[:6]), array)
    if draw.random() < 0.2:
        features = json.dumps(
            {"info": {"features": {name: draw.choice(FEATURES) for name in draw.choice((NAMES[:4], NAMES[:1]))}}}
        )
        table = table.replace_schema_metadata({b"huggingface": features.encode()})
    return table


def an_archive(folder: Path) -> bytes:
    """A zip archive of two images."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, member in (("a.png", "c.png"), ("b.png", "d.png")):
            packed.writestr(zipfile.ZipInfo(member), (folder / name).read_bytes())
    return buffer.getvalue()


def try_table(folder: Path, seed: int, number: int) -> None:
    """Write one mutated table and read it as a training run and a prediction would."""
    draw = random.Random(f"{seed}/{number}")
    suffix = draw.choice((".csv", ".tsv", ".jsonl", ".jsonl", ".parquet"))
    content = written(spoil(a_table(draw), draw), suffix, draw)
    for _ in range(draw.choice((0, 0, 1, 2))):
        content = draw.choice(MUTATIONS)(content, draw)
    archive = an_archive(folder)
    if draw.random() < 0.2:
        archive = draw.choice(MUTATIONS)(archive, draw)
    (folder / "images.zip").write_bytes(archive)
    path = folder / f"table{suffix}"
    path.write_bytes(content)
    options: dict[str, Any] = {}
    if draw.random() < 0.25:
        options["problem_type"] = draw.choice(("regression", "regression", "multi_label_classification"))
    if draw.random() < 0.05:
        options["encoding"] = draw.choice((*ENCODINGS, "utf-7", "hex", "nonesuch"))
    if draw.random() < 0.1:
        options |= {"pairs": True} if draw.random() < 0.5 else {"group_column": draw.choice(("id", "split"))}
    data = load_data(path, **options)
    prediction = draw.random() < 0.3
    if not prediction:
        cuts = {"group_duplicates": draw.random() < 0.1, "stratify": draw.random() < 0.7}
        data = replace(data, splits=complete_splits(data.splits, **cuts))
    checked, samples = check_splits(data, policy=draw.choice(POLICIES), prediction=prediction)
    for rows in checked.splits.values():
        list(rows)
    list(map(str, samples))


def tables(seed: int, numbers: Iterator[int], show: bool = False) -> tuple[Counter, dict[int, str]]:
    """Read mutated tables of all kinds."""
    # Hashing data sets takes most of the time, and nothing here reads what it gives.
    unhashed = {"generate_fingerprint": lambda *_: "0" * 16, "update_fingerprint": lambda *_: "0" * 16}
    with (
        tempfile.TemporaryDirectory() as name,
        mock.patch.multiple(arrow_dataset, generate_fingerprint=unhashed["generate_fingerprint"]),
        mock.patch.multiple(fingerprint, **unhashed),
    ):
        folder = Path(name)
        for image in "ab":
            Image.new("RGB", (4, 4)).save(folder / f"{image}.png")
        return run(((number, lambda n=number: try_table(folder, seed, n)) for number in numbers), show)


TARGETS = {"tables": tables}
OTHERS = {"images": "fuzz_images", "runs": "fuzz_runs"}  # modules of their own, which stop at the first failure

# --- command line ----------------------------------------------------------------------------------------------------


def for_seconds(seconds: float) -> Iterator[int]:
    """Numbers from 0 until the time is over."""
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        yield number
        number += 1


def main(argv: list[str] | None = None) -> int:
    """Fuzz one kind of file; the exit status is 1 if anything undocumented came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=[*TARGETS, *OTHERS], help="What is mutated.")
    parser.add_argument("--seconds", type=float, default=120, help="How long.")
    parser.add_argument("--seed", type=int, default=0, help="Of all mutations.")
    parser.add_argument("--only", type=int, help="Run the mutation of this number alone.")
    parser.add_argument("--show", action="store_true", help="Print the documented errors too.")
    args = parser.parse_args(argv)
    if args.target in OTHERS:
        counts = importlib.import_module(OTHERS[args.target]).fuzz(args.seconds, args.seed)
        print(f"{args.target}: {counts.pop('mutations')} mutations, {counts}")
        return 0
    numbers = for_seconds(args.seconds) if args.only is None else iter([args.only])
    ends, failures = TARGETS[args.target](args.seed, numbers, args.show)
    for number, trace in failures.items():
        print(f"--- seed {args.seed}, mutation {number}\n{trace}")
    print(f"{args.target}: {sum(ends.values())} mutations, {dict(ends)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
