"""How well generated answers and captions agree with those that people gave, and what a blind guess would reach.

Answers are compared as in SQuAD ([Rajpurkar et al., 2016](https://arxiv.org/abs/1606.05250)), captions by n-grams.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import zip_longest
from operator import eq
from typing import Any

from hf_multimodal.evaluation.cider import cider_d

CJK = r"\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han and kana
TOKENS = re.compile(rf"[{CJK}]|[^\s{CJK}]+")


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no articles (a, an, the), single spaces: equal answers become equal strings.

    Punctuation, Unicode's and all ASCII symbols, is deleted, so "3.5" equals "35" and "-1" equals "1", as in SQuAD.
    Articles alone stay, so that "A." to "which letter" is "a", and so does punctuation alone.

    Example:

    >>> [normalize_answer(text) for text in ("The  red-ish BUS!", "A.", "?")]
    ['redish bus', 'a', '?']
    """
    plain = _without_punctuation(text)
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", plain).split() or plain.split() or text.lower().split())


def token_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the words of a normalised answer, from 0 to 1.

    Chinese and Japanese have no spaces: each character is a word. A blank answer gives 1 if both are blank, else 0.

    Example:

    >>> token_f1("a red double-decker bus", "the red bus"), token_f1("红色汽车", "红色的车")
    (0.8, 0.75)
    """
    said, right = (TOKENS.findall(normalize_answer(text)) for text in (prediction, reference))
    if not said or not right:
        return float(said == right)
    return 2 * (Counter(said) & Counter(right)).total() / (len(said) + len(right))


def answer_metrics(
    predictions: Sequence[str],
    references: Sequence[str],
    kinds: Sequence[str] | None = None,
    guesses: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Exact match and token F1 of normalised answers, over all and by kind of question.

    Args:
        predictions: What a model said.
        references: The right answer to each question.
        kinds: One word an answer, such as "colour" or "count".
        guesses: What a model that sees no image would say, such as the guesses of `QuestionPrior`.

    Returns:
        `exact_match` and `token_f1`, means from 0 to 1, and `answers`, their number; with guesses their exact match,
        `baseline_exact_match`; with kinds `by_kind`: these for every kind, in order of first appearance.

    Raises:
        ValueError: The lengths differ, or there are no answers.

    Example:

    >>> answer_metrics(["Red.", "two cats"], ["red", "two"], kinds=["colour", "count"])["by_kind"]["count"]
    {'exact_match': 0.0, 'token_f1': 0.6666666666666666, 'answers': 1}
    """
    _check_lengths(predictions=predictions, references=references, kinds=kinds, guesses=guesses)
    right = [*map(normalize_answer, references)]
    columns: dict[str, list[float]] = {
        "exact_match": [*map(eq, map(normalize_answer, predictions), right)],
        "token_f1": [*map(token_f1, predictions, references)],
    }
    if guesses is not None:
        columns["baseline_exact_match"] = [*map(eq, map(normalize_answer, guesses), right)]

    def means(rows: Sequence[int]) -> dict[str, Any]:
        shares = {name: sum(values[row] for row in rows) / len(rows) for name, values in columns.items()}
        return {**shares, "answers": len(rows)}

    found = means(range(len(right)))
    if kinds is not None:
        rows_of = {kind: [row for row, one in enumerate(kinds) if one == kind] for kind in dict.fromkeys(kinds)}
        found["by_kind"] = {kind: means(rows) for kind, rows in rows_of.items()}
    return found


class QuestionPrior:
    """The blind baseline: the most frequent training answer to the same question, whatever the image shows.

    Questions and answers are compared normalised. Of answers equally frequent the one seen first is taken, in the
    spelling seen first. An unknown question gets the most frequent answer of all.

    Raises:
        ValueError: The lengths differ, or there are no answers.

    Example:

    >>> prior = QuestionPrior(["What colour?", "How many?", "what colour", "How many?"], ["red", "2", "Red.", "3"])
    >>> prior.guess("How many?"), prior.guess("Where is it?")
    ('2', 'red')
    """

    def __init__(self, questions: Sequence[str], answers: Sequence[str]) -> None:
        _check_lengths(questions=questions, answers=answers)
        spellings: dict[str, str] = {}
        counts: defaultdict[str | None, Counter[str]] = defaultdict(Counter)
        for question, answer in zip(questions, answers, strict=True):
            for key in (normalize_answer(question), None):  # None: of all questions
                counts[key][spellings.setdefault(normalize_answer(answer), answer)] += 1
        self._guesses = {key: found.most_common(1)[0][0] for key, found in counts.items()}  # of equals the first seen

    def guess(self, question: str) -> str:
        """The most frequent training answer to a question."""
        return self._guesses.get(normalize_answer(question), self._guesses[None])


def caption_metrics(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Corpus BLEU-4 and CIDEr-D of captions, each image with one or several references.

    BLEU-4 is sacrebleu's, lower-cased: punctuation marks are words, and a text without spaces is one word. CIDEr-D
    ([Vedantam et al., 2015](https://arxiv.org/abs/1411.5726)) is over lower-cased words without punctuation, or single
    Chinese or Japanese characters; COCO's own tokenizer, and so published numbers, differ. It weighs an n-gram by how
    few images have it in their references: over a single image every weight and CIDEr are 0.

    Args:
        predictions: One caption an image.
        references: A list of strings for each image, in any number. One without a word is left out.

    Returns:
        `bleu_4` from 0 to 1, `cider` from 0 to 10 (papers print 100 times that), and `images`, their number.

    Raises:
        ValueError: The lengths differ, there are no captions, or an image has no reference.
        ImportError: Without the extra `captions`.

    Example:

    >>> caption_metrics(["a red bus stops here."], [["A red bus stops here.", "A bus at a stop."]])
    {'bleu_4': 1.0, 'cider': 0.0, 'images': 1}
    """
    _check_lengths(predictions=predictions, references=references)
    right = [[caption for caption in captions if _words(caption)] for captions in references]
    for image, captions in enumerate(references):
        if isinstance(captions, str) or not right[image]:
            raise ValueError(f"image {image} needs a list of references, at least one with a word, got {captions!r}.")
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise ImportError("caption metrics need sacrebleu: pip install 'hf_multimodal[captions]'.") from error
    cider = cider_d(
        [_words(caption).split() for caption in predictions],
        [[_words(caption).split() for caption in captions] for captions in right],
    )
    bleu = BLEU(lowercase=True).corpus_score(list(predictions), [*zip_longest(*right)])  # None where one has fewer
    bleu_4 = min(bleu.score / 100, 1.0)  # rounding gives 1.0000000000000004
    return {"bleu_4": bleu_4, "cider": cider, "images": len(right)}


def _without_punctuation(text: str) -> str:
    return "".join(sign for sign in text.lower() if unicodedata.category(sign)[0] != "P" and sign not in "$+<=>^`|~")


def _words(text: str) -> str:
    return " ".join(TOKENS.findall(_without_punctuation(text)))


def _check_lengths(**columns: Sequence[Any] | None) -> None:
    lengths = {name: len(values) for name, values in columns.items() if values is not None}
    told = ", ".join(f"{length} {name}" for name, length in lengths.items())
    if len(set(lengths.values())) > 1 or not all(lengths.values()):
        raise ValueError(f"there must be equally many of each, and at least one, got {told}.")
