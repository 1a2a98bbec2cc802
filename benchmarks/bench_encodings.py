"""python benchmarks/bench_encodings.py --locale path/to/django [--texts path/to/texts]

How many files of a corpus are read right, by our one decision for the corpus and by charset-normalizer, over the
translations that ship with Django (short texts of many languages) and, with `--texts`, over a folder of `.txt` files
of unknown encoding. `pip install django` brings the translations: the folder is that of the package.
"""

import argparse
import ast
import random
import re
from collections import Counter
from pathlib import Path

from charset_normalizer import from_bytes

from hf_multimodal.data.charsets import choose_encoding, decode_texts
from hf_multimodal.evaluation.report import update_region
from hf_multimodal.hub.tables import markdown_table

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
CASES = (
    *(("gb18030", "zh_Hans"), ("big5", "zh_Hant"), ("cp932", "ja"), ("euc_jp", "ja"), ("cp949", "ko")),
    *(("cp1251", "ru"), ("koi8_r", "ru"), ("cp866", "ru"), ("iso8859_5", "ru"), ("cp1251", "uk"), ("koi8_u", "uk")),
    *(("cp1252", "fr"), ("cp1252", "de"), ("cp1252", "es"), ("cp1252", "pt"), ("cp1250", "pl"), ("cp1250", "cs")),
    *(("cp1250", "hu"), ("iso8859_2", "cs"), ("cp1253", "el"), ("cp1254", "tr"), ("cp1255", "he"), ("cp1256", "ar")),
    *(("cp1257", "lt"), ("cp874", "th")),
)
SIZE, SMALL = 500, 20


def translations(folder: Path, language: str) -> list[str]:
    """All translated messages of a language that are not plain ASCII, without repetition."""
    found = set()
    for file in folder.rglob(f"locale/{language}/LC_MESSAGES/*.po"):
        for lines in re.findall(r'^msgstr(?:\[\d\])? ((?:".*"\n?)+)', file.read_text(encoding="utf-8"), re.MULTILINE):
            text = "".join(map(ast.literal_eval, lines.strip().split("\n"))).strip()
            if not text.isascii() and "Content-Type" not in text:
                found.add(text)
    return sorted(found)


def survives(text: str, encoding: str) -> bool:
    """Whether an encoding can write a text."""
    try:
        return text.encode(encoding).decode(encoding) == text
    except UnicodeEncodeError:
        return False


def share_right(contents: list[bytes], texts: list[str], encoding: str | None) -> float:
    """Of the files, the share that a decision reads as they were written."""
    if encoding is None:
        return 0.0
    return sum(c.decode(encoding, "replace") == t for c, t in zip(contents, texts, strict=True)) / len(texts)


def guess(content: bytes) -> str | None:
    """What charset-normalizer says."""
    best = from_bytes(content).best()
    return None if best is None else best.encoding


def row(folder: Path, encoding: str, language: str) -> list[str | int]:
    """One line of the table."""
    draw = random.Random(0)
    texts = [text for text in translations(folder, language) if survives(text, encoding)]
    draw.shuffle(texts)
    texts = texts[:SIZE]
    contents = [text.encode(encoding) for text in texts]
    mixed = [text.encode("utf-8" if place % 2 else encoding) for place, text in enumerate(texts)]
    decoded = decode_texts(mixed).texts
    small = [draw.sample(range(len(texts)), SMALL) for _ in range(10)]
    few = [
        share_right(
            [contents[i] for i in chosen], [texts[i] for i in chosen], choose_encoding([contents[i] for i in chosen])
        )
        for chosen in small
    ]
    alone = sum(share_right([c], [t], guess(c)) for c, t in zip(contents[:100], texts, strict=False)) / 100
    shares = [
        share_right(contents, texts, choose_encoding(contents)),
        sum(a == b for a, b in zip(decoded, texts, strict=True)) / len(texts),
        sum(few) / len(few),
        share_right(contents, texts, guess(b"\n".join(contents))),
        alone,
    ]
    return [encoding, language, len(texts), *(f"{100 * share:.1f} %" for share in shares)]


def main(argv: list[str] | None = None) -> None:
    """Print the table and write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--locale", type=Path, required=True, help="Folder of the package django.")
    parser.add_argument("--texts", type=Path, help="Folder of .txt files of unknown encoding, counted only.")
    args = parser.parse_args(argv)
    rows = [row(args.locale, *case) for case in CASES]
    names = ["encoding", "language", "texts", "ours", "ours, half in UTF-8", f"ours, {SMALL} texts"]
    table = markdown_table(rows, [*names, "charset-normalizer, all at once", "charset-normalizer, each file"])
    print(table)
    update_region(PAGE, "encodings", table)
    if args.texts:
        contents = [file.read_bytes() for file in sorted(args.texts.glob("*.txt"))]
        print(Counter(decode_texts(contents).encodings))


if __name__ == "__main__":
    main()
