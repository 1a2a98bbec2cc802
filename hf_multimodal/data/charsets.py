"""Decode many short texts of unknown encoding by one decision for the whole corpus."""

import codecs
import io
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from transformers.utils import logging

from hf_multimodal.validation import did_you_mean

logger = logging.get_logger(__name__)

# Where two read the bytes alike (curly quotes in all Windows code pages, kana in GB and EUC), the first wins.
CANDIDATES = (
    *("gb18030", "cp1252", "big5", "cp932", "cp949", "euc_jp", "cp1251", "koi8_r", "koi8_u", "cp866", "iso8859_5"),
    *("cp1250", "iso8859_2", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp874"),
)

_BOMS = (  # UTF-32 before UTF-16: its mark begins with the other's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# A run of text in a language is full of these; mojibake hits them by chance only.
_FREQUENT_HAN = frozenset(
    "的一是不了在人有我他这個个們们中来來上大为為和国國地到以说說时時要就出会會可也你对對生能而子那得于著着下自之年过過发發"
    "后後作里用道行所然家种事成方多经經么去法学學如都同现現当當没動动面起看定天分还還进進好小部其些主样理心她本前开開但因"
    "只从從想实實日者意无無它与與长長把机機十民第公此已工使情明性知全三又关關点點正业外将两高间間由问問很最重并物手应應向"
    "头文体政美相见見被利什二等产或新己制身果加西月话話合回特代内信表化老给給世位次度门門任常先海通教东東水名真处走气電电爱愛"
    "今思食何私的話語聞読書行見気持楽待決戦対応変図訪問笑顔写真買売店駅"
)
_FREQUENT_HANGUL = frozenset(
    "이다는에의가고을하지로한은도어서나를사기리그자시들대일인정스아해수게라전부보있것안요니여들만으오면마구장과주제상우성신"
    "동음좋아너무진네년유은일때까더없위중내말같말려와세습했었했습럼입학교람"
)
_FREQUENT_LETTERS = {  # of alphabets
    "cyrillic": frozenset("оеаинтсрвлкмдпуяьы"),
    "greek": frozenset("αοιετσνηυρπκμλςήίόάέ"),
    "hebrew": frozenset("יוהלמרתבאנשםד"),
    "arabic": frozenset("اليةنمتربوعدسقهفكحأ"),
    "thai": frozenset("านรอกเงมยลวดทสตะปบคหแจใไ่้ัิี"),
}
# Letters beside a to z of languages in Latin script. A text is in one of them, so a wrong code page shows: read as
# cp1252, Czech has letters of French and of Danish in one sentence.
_ALPHABETS = tuple(
    frozenset(letters)
    for letters in (
        *("àâæçèéêëîïôùûüÿœ", "äöüß", "áéíñóúüºª", "àáâãçéêíóôõúüºª", "àèéìíîòóùúº", "åäöé", "åæøéòóô", "áäéèëïíóöúü"),
        *(
            "áæéíðóöúýþ",
            "ąćęłńóśźż",
            "áčďéěíňóřšťúůýž",
            "áäčďéíĺľňóôŕšťúýž",
            "áéíóöőúüű",
            "čćđšž",
            "ăâîșțşţ",
            "çğıöşüâîû",
        ),
        *("ąčęėįšųūž", "āčēģīķļņšūž", "äõöüšž", "çë"),
        *("àçèéíïòóúü", "áâàéêèíîìóôòúûùŵŷẁẃẅỳýÿ"),
    )
)
_NEVER_BESIDE_LATIN = {"han", "hangul", "other", "impossible", *_FREQUENT_LETTERS}
_PUNCTUATION = frozenset("…“”‘’–—•、。「」『』《》【】！？，：；（）～・")
_COMMON_SIGNS = frozenset("€£°«»¡¿®™©·¥§²½ªº¯")  # the last one is an arm of a shrug


class DecodedTexts(NamedTuple):
    """Texts and the encoding that read each; both None where the bytes fit none."""

    texts: list[str | None]
    encodings: list[str | None]


@lru_cache(maxsize=65536)
def _kind(char: str) -> str:
    """Name the script or kind of one character."""
    code = ord(char)
    if code < 0x80:
        return "ascii_letter" if char.isalpha() else "ascii"
    if char in _PUNCTUATION:
        return "punctuation"
    if 0x3041 <= code <= 0x30FE:
        return "kana"
    if 0x4E00 <= code <= 0x9FFF:
        return "han"
    if 0xAC00 <= code <= 0xD7A3:
        return "hangul"
    if 0x0400 <= code <= 0x045F or char in "Ґґ":
        return "cyrillic"
    if 0x0370 <= code <= 0x03FF and char.isalpha():
        return "greek"
    if 0x0591 <= code <= 0x05EA:
        return "hebrew"
    if 0x0600 <= code <= 0x06FF:
        return "arabic"
    if 0x0E01 <= code <= 0x0E4E:
        return "thai"
    if 0x00C0 <= code <= 0x024F and char.isalpha():
        return "latin"
    if 0xFF61 <= code <= 0xFF9F:
        return "halfwidth_kana"
    if 0x2500 <= code <= 0x259F:  # lines and blocks, which DOS and KOI8 have where others have letters
        return "impossible"
    if unicodedata.category(char) in ("Cc", "Co", "Cn", "Cf"):
        return "impossible"
    return "emoji" if code >= 0x1F000 else "other"


@lru_cache(maxsize=65536)
def _is_common(char: str) -> bool:
    """Whether the national standard of this script has the character among its frequent ones."""
    if _kind(char) == "hangul":
        codec, last_lead = "euc_kr", 0xC8
        try:
            return char.encode(codec)[0] <= last_lead
        except UnicodeEncodeError:
            return False
    for codec, last_lead in (("gb2312", 0xD7), ("big5", 0xC6), ("euc_jp", 0xCF)):  # first level of each
        try:
            encoded = char.encode(codec)
        except UnicodeEncodeError:
            continue
        if len(encoded) == 2 and encoded[0] <= last_lead:
            return True
    return False


def _plausibility(before: str, char: str, after: str) -> float:
    """Score one non-ASCII character between its neighbours: 1 as in real text, 0 or less as in mojibake."""
    kind = _kind(char)
    neighbours = (_kind(before), _kind(after))
    if kind == "punctuation":
        return 1.0
    if kind == "han":
        weight = 1.0 if char in _FREQUENT_HAN else 0.5 if _is_common(char) else 0.05
        # A lead byte that swallowed an accented letter's ASCII neighbour leaves a lone ideograph inside a Latin word.
        return weight / 4 if "ascii_letter" in neighbours and "han" not in neighbours else weight
    if kind == "hangul":
        return 1.0 if char in _FREQUENT_HANGUL else 0.5 if _is_common(char) else 0.05
    if kind == "kana":
        return 1.0 if {"kana", "han", "punctuation"} & set(neighbours) else 0.4
    if kind == "latin":
        if _NEVER_BESIDE_LATIN & set(neighbours) or (char.isupper() and before.islower()):
            return 0.15
        if "latin" in neighbours:  # common in some languages, and in every second byte of mojibake
            return 0.5
        return 1.0 if "ascii_letter" in neighbours else 0.5  # a word of one letter: à, é
    if kind in _FREQUENT_LETTERS:
        if {"ascii_letter", "latin"} & set(neighbours) or (char.isupper() and before.islower()):
            return 0.05
        if kind not in neighbours:
            return 0.1
        if char.isupper() and neighbours[0] == kind:  # words in capitals are rare
            return 0.35
        rare = 0.6 if kind in ("cyrillic", "greek") else 0.45  # where capitals give nothing away
        return 1.0 if char.lower() in _FREQUENT_LETTERS[kind] else rare
    if kind == "impossible":
        return -1.0
    return {"emoji": 0.7, "halfwidth_kana": 0.1}.get(kind, 0.5 if char in _COMMON_SIGNS else 0.1)


def _score(text: str) -> float:
    """Average the plausibility over a text's non-ASCII characters."""
    padded = f" {text} "
    letters = [char.lower() for char in text if _kind(char) == "latin"]
    alphabet = (
        max(_ALPHABETS, key=lambda known: sum(letter in known for letter in letters)) if letters else frozenset()
    )
    scores = []
    for place in range(1, len(padded) - 1):
        before, char, after = padded[place - 1], padded[place], padded[place + 1]
        if ord(char) >= 0x80:
            foreign = _kind(char) == "latin" and char.lower() not in alphabet
            scores.append(_plausibility(before, char, after) * (0.3 if foreign else 1))
    return sum(scores) / len(scores) if scores else 0.0


def choose_encoding(texts: Sequence[bytes], candidates: Sequence[str] = CANDIDATES) -> str:
    """Choose the one encoding that reads a corpus best.

    Each text has one vote of equal weight: the mean plausibility of its non-ASCII characters as a candidate reads
    them, or -1 where the candidate cannot read it at all, so that one broken file does not overrule the others.

    Args:
        texts: Raw contents; those that are plain ASCII say nothing and may be left out.
        candidates: Python codec names; on a tie the first wins.

    Returns:
        The codec's name.

    Example:

    >>> choose_encoding(["今天天气很好，我们去看海。".encode("gb18030")])
    'gb18030'
    """

    def total(encoding: str) -> float:
        score = 0.0
        for content in texts:
            try:
                score += _score(content.decode(encoding))
            except UnicodeDecodeError:
                score -= 1.0
        return score

    return max(candidates, key=total)


def check_encoding(encoding: str) -> str:
    """Return a codec's name if Python has it.

    Raises:
        ValueError: There is no such codec, or it is none of texts (`hex`, `zlib`).
    """
    try:
        io.TextIOWrapper(io.BytesIO(), encoding)
    except LookupError:
        hint = did_you_mean(encoding, ("utf-8", *CANDIDATES, "shift_jis", "euc_kr", "latin-1"))
        raise ValueError(f"encoding {encoding!r} is not known to Python.{hint}") from None
    return encoding


def _unicode_encoding(content: bytes) -> str | None:
    """The Unicode encoding that a byte order mark names, or that the places of the NUL bytes betray."""
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            return encoding
    zeros = [content[start::2].count(0) for start in (0, 1)]  # of ASCII in UTF-16, every second byte is one
    if len(content) % 2 or min(zeros) or max(zeros) * 20 < len(content) // 2:
        return None
    # A NUL character or two in a short UTF-8 file are no line ends, and do not stand beside the first letter.
    if zeros[1] and (content[1] == 0 or b"\n\0" in content):
        return "utf-16-le"
    return "utf-16-be" if zeros[0] and (content[0] == 0 or b"\0\n" in content) else None


def _decode_unicode(content: bytes) -> tuple[str, str] | None:
    """Read what carries a byte order mark, is UTF-16 without one, or is strict UTF-8."""
    encoding = _unicode_encoding(content) or "utf-8"
    try:
        return content.decode(encoding), encoding
    except UnicodeDecodeError:
        return None


def decode_texts(contents: Sequence[bytes], encoding: str | None = None) -> DecodedTexts:
    """Decode each text by its byte order mark, else as strict UTF-8, else by one decision for all that are left.

    Args:
        contents: Raw contents of the files.
        encoding: Takes the place of that decision.

    Returns:
        Texts and encodings in the order given; None and None where nothing fits.

    Raises:
        ValueError: `encoding` is not a codec.

    Example:

    >>> decode_texts([b"plain", "喜欢今天的天气".encode("gb18030")])
    DecodedTexts(texts=['plain', '喜欢今天的天气'], encodings=['utf-8', 'gb18030'])
    """
    if encoding is not None:
        check_encoding(encoding)
    decoded: list[tuple[str, str] | None] = [_decode_unicode(content) for content in contents]
    rest = [i for i, pair in enumerate(decoded) if pair is None]
    if rest:
        chosen = encoding if encoding is not None else choose_encoding([contents[i] for i in rest])
        failed = 0
        for i in rest:
            try:
                decoded[i] = (contents[i].decode(chosen), chosen)
            except UnicodeDecodeError:
                failed += 1
        logger.warning(
            "%d of %d texts are not UTF-8: read as %s (%s), %d of them unreadable. `encoding` overrides this.",
            len(rest), len(contents), chosen, "as asked" if encoding else "chosen for the whole corpus", failed,
        )  # fmt: skip
    return DecodedTexts([p[0] if p else None for p in decoded], [p[1] if p else None for p in decoded])


def decode_file(content: bytes, source: str, encoding: str | None = None) -> tuple[str, str]:
    """Decode one table by the same order as `decode_texts`, its lines being the corpus.

    In a table that is not UTF-8, a line that reads better as UTF-8 is read so: it was pasted in.

    Args:
        content: The file's bytes.
        source: The file's name, for the message.
        encoding: Used in place of a decision where the file is not UTF-8.

    Returns:
        The text and its encoding.

    Raises:
        ValueError: A line fits neither UTF-8 nor the encoding that fits most lines.
    """
    if encoding is not None:
        check_encoding(encoding)
    unicode = _decode_unicode(content)
    if unicode is not None:
        return unicode
    named = encoding or _unicode_encoding(content)
    if named is not None:
        return _decode_whole(content, source, named), named
    lines = content.split(b"\n")
    chosen = choose_encoding([line for line in lines if not line.isascii()], ("utf-8", *CANDIDATES))
    texts, foreign = [], []
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode(chosen)
        except UnicodeDecodeError as error:
            raise ValueError(f"{source}, line {number}: not readable as {chosen} ({error.reason}).") from None
        if not line.isascii():
            unicode = _decode_unicode(line)
            if unicode is not None and _score(unicode[0]) > _score(text):
                text = unicode[0]
                foreign.append(number)
        texts.append(text)
    logger.warning("%s is not UTF-8: read as %s. `encoding` overrides this.", source, chosen)
    if foreign:
        shown = ", ".join(map(str, foreign[:10])) + (", ..." if len(foreign) > 10 else "")
        logger.warning("%s: %d lines among them are UTF-8 and read as such: %s.", source, len(foreign), shown)
    return "\n".join(texts), chosen


def _decode_whole(content: bytes, source: str, encoding: str) -> str:
    """Decode by an encoding that is known, in which a line may end at other bytes than a newline."""
    try:
        text = content.decode(encoding)
        text.encode("utf-8")  # a few codecs, utf-7 among them, give halves of characters
    except UnicodeError as error:
        before: Any = getattr(error, "object", b"")[: getattr(error, "start", 0)]
        number = before.count("\n" if isinstance(before, str) else b"\n") + 1
        reason = getattr(error, "reason", error)
        raise ValueError(f"{source}, line {number}: not readable as {encoding} ({reason}).") from None
    return text
