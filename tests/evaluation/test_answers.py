"""Metrics of answers and captions against values computed by hand, SQuAD's own code and plain loops over n-grams."""

import math
import re
import string
import sys
from collections import Counter

import pytest

from hf_multimodal.evaluation.answers import QuestionPrior, answer_metrics, caption_metrics, normalize_answer, token_f1

CAPTIONS = ["a red bus stops near the old station", "two cats sleep on a small bed", "a man rides"]
REFERENCES = [
    ["A red bus stops at the old station.", "A bus near a station."],
    ["Two cats sleep on a bed!", "Cats are on a small bed.", "two grey cats, asleep on a bed"],
    ["A man rides a brown horse on the beach."],
]


def squad_normalize(text):
    """As in SQuAD's evaluate-v1.1.py, for ASCII."""
    text = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_f1(prediction, reference):
    said, right = squad_normalize(prediction).split(), squad_normalize(reference).split()
    same = sum((Counter(said) & Counter(right)).values())
    if not same:
        return 0
    precision, recall = same / len(said), same / len(right)
    return 2 * precision * recall / (precision + recall)


def grams(text, n):
    words = text.split()
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))


def loop_bleu(predictions, references):
    """Corpus BLEU-4 of words between spaces; the right length is the nearest, of two the shorter."""
    said = sum(len(text.split()) for text in predictions)
    right = 0
    logs = 0.0
    for text, several in zip(predictions, references, strict=True):
        length = len(text.split())
        right += min((abs(len(one.split()) - length), len(one.split())) for one in several)[1]
    for n in range(1, 5):
        found = total = 0
        for text, several in zip(predictions, references, strict=True):
            for gram, count in grams(text, n).items():
                found += min(count, max(grams(one, n)[gram] for one in several))
                total += count
        logs += math.log(found / total) / 4
    return min(1.0, math.exp(1 - right / said)) * math.exp(logs)


def loop_cider(predictions, references):
    """CIDEr-D, equation by equation; as in COCO's code lengths are counted in pairs of words."""
    scores = []
    for text, several in zip(predictions, references, strict=True):
        score = 0.0
        for one in several:
            for n in range(1, 5):
                frequency = Counter(
                    gram for all_of in references for gram in set().union(*(grams(r, n) for r in all_of))
                )
                weigh = {gram: math.log(len(references) / max(1, count)) for gram, count in frequency.items()}
                unseen = math.log(len(references))
                said, right = (
                    {gram: count * weigh.get(gram, unseen) for gram, count in grams(caption, n).items()}
                    for caption in (text, one)
                )
                norms = math.dist(said.values(), [0] * len(said)) * math.dist(right.values(), [0] * len(right))
                product = sum(min(value, right.get(gram, 0)) * right.get(gram, 0) for gram, value in said.items())
                penalty = math.exp(-((grams(text, 2).total() - grams(one, 2).total()) ** 2) / (2 * 6**2))
                score += 10 / 4 / len(several) * penalty * (product / norms if norms else 0)
        scores.append(score)
    return sum(scores) / len(scores)


def plain(text):
    return "".join(sign for sign in text.lower() if sign not in ".,!")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Red  bus.", "red bus"),
        ("an apple, a pear\tand the\nfig", "apple pear and fig"),
        ("theatre, Ana and banana", "theatre ana and banana"),  # articles are whole words
        ("state-of-the-art", "stateoftheart"),
        ("$5 + 3.5%", "5 35"),
        ("«Déjà vu…» — “oui”", "déjà vu oui"),
        ("这是红色的。", "这是红色的"),
        ("a", "a"),
        (" The A. ", "the a"),
        (" ?! ", "?!"),
        ("+", "+"),
        ("  ", ""),
    ],
)
def test_normalize_answer_equals_by_hand(text, normal):
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "reference", "f1"),
    [
        ("The red bus", "red bus!", 1),
        ("cat", "dog", 0),
        ("a a", "a", 2 / 3),  # articles alone stay: precision 1/2, recall 1
        ("red red blue", "red blue blue", 2 / 3),  # each word as often as both have it
        ("bus red", "red bus", 1),
        ("红色的车", "红色车", 6 / 7),  # 3 of 4 and 3 of 3 characters
        ("我有iPhone", "你有 iphone。", 2 / 3),  # 有 and iphone of three words each
        ("ネコです", "ネコ", 2 / 3),
        ("빨간 버스", "빨간 차", 1 / 2),  # Korean has spaces
        ("", "red", 0),
        ("red", " ", 0),
        ("", " ", 1),
    ],
)
def test_token_f1_equals_by_hand(prediction, reference, f1):
    assert token_f1(prediction, reference) == pytest.approx(f1, abs=1e-12)
    assert token_f1(reference, prediction) == pytest.approx(f1, abs=1e-12)


def test_token_f1_equals_that_of_squad():
    texts = ["The quick, brown fox", "a brown dog's tail", "in 1,066 A.D.", "fox (quick) the fox", "An U.S. $5 bill"]
    for prediction in texts:
        assert normalize_answer(prediction) == squad_normalize(prediction)
        for reference in texts:
            assert token_f1(prediction, reference) == pytest.approx(squad_f1(prediction, reference), abs=1e-12)


def test_answer_metrics_over_all_and_by_kind():
    found = answer_metrics(
        ["Two.", "red", "a blue car", "dog"],
        ["two", "blue", "blue", "the dog"],
        kinds=["count", "colour", "colour", "animal"],
        guesses=["two", "blue", "Blue!", "cat"],
    )
    by_kind = found.pop("by_kind")
    assert found == {"exact_match": 0.5, "token_f1": (2 + 2 / 3) / 4, "answers": 4, "baseline_exact_match": 0.75}
    assert list(by_kind) == ["count", "colour", "animal"]  # as they first appear
    assert by_kind == {
        "count": {"exact_match": 1, "token_f1": 1, "answers": 1, "baseline_exact_match": 1},
        "colour": {"exact_match": 0, "token_f1": 1 / 3, "answers": 2, "baseline_exact_match": 1},
        "animal": {"exact_match": 1, "token_f1": 1, "answers": 1, "baseline_exact_match": 0},
    }


def test_answer_metrics_has_only_what_was_asked():
    assert answer_metrics(["red"], ["Red"]) == {"exact_match": 1, "token_f1": 1, "answers": 1}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"references": ["red"]}, "got 2 predictions, 1 references"),
        ({"kinds": ["colour"]}, "got 2 predictions, 2 references, 1 kinds"),
        ({"guesses": []}, "got 2 predictions, 2 references, 0 guesses"),
        ({"predictions": [], "references": []}, "and at least one, got 0 predictions, 0 references"),
    ],
)
def test_answer_metrics_refuses_lengths(arguments, told):
    with pytest.raises(ValueError, match=f"there must be equally many of each.*{told}"):
        answer_metrics(**{"predictions": ["red", "two"], "references": ["red", "two"], **arguments})


def test_question_prior_guesses_the_most_frequent_answer():
    pairs = [
        ("What colour is the bus?", "red"),
        ("How many cats?", "Three"),  # the first seen of two equally frequent
        ("How many cats?", "two"),
        ("what colour is  a bus", "Blue"),  # the same question; "Blue" and "blue." are one answer
        ("What colour is the bus?", "blue."),
        ("How many dogs?", "two"),
        ("How many cows?", "two"),
    ]
    prior = QuestionPrior(*zip(*pairs, strict=True))
    assert prior.guess("WHAT COLOUR IS THE BUS") == "Blue"
    assert prior.guess("How many cats") == "Three"
    assert prior.guess("Where is it?") == prior.guess("") == "two"  # the most frequent of all


def test_question_prior_takes_the_first_seen_of_equals_for_an_unknown_question():
    assert QuestionPrior(["x", "y"], ["late", "early"]).guess("z") == "late"


def test_question_prior_refuses_lengths():
    with pytest.raises(ValueError, match="equally many of each, and at least one, got 1 questions, 2 answers"):
        QuestionPrior(["How many?"], ["1", "2"])
    with pytest.raises(ValueError, match="got 0 questions, 0 answers"):
        QuestionPrior([], [])


def test_caption_metrics_equal_plain_loops():
    references = [[plain(one) for one in several] for several in REFERENCES]
    found = caption_metrics(CAPTIONS, references)
    assert found["images"] == 3
    assert found["bleu_4"] == pytest.approx(loop_bleu(CAPTIONS, references), abs=1e-9)
    assert found["cider"] == pytest.approx(loop_cider(CAPTIONS, references), abs=1e-9)
    assert 0.3 < found["bleu_4"] < 0.9 and 1 < found["cider"] < 9  # neither end of the scale


def test_caption_metrics_know_no_case_and_cider_no_punctuation():
    found = caption_metrics(CAPTIONS, REFERENCES)
    assert caption_metrics([text.upper() for text in CAPTIONS], REFERENCES) == found
    bare = caption_metrics(CAPTIONS, [[plain(one) for one in several] for several in REFERENCES])
    assert bare["cider"] == found["cider"] and bare["bleu_4"] != found["bleu_4"]


def test_caption_metrics_of_equal_and_of_foreign_captions():
    same = [[text] for text in ("a red bus stops here", "two cats sleep on beds")]
    equal = caption_metrics([several[0] for several in same], same)
    assert equal == {"bleu_4": 1, "cider": pytest.approx(10), "images": 2}  # 10 is the most
    assert caption_metrics(["xx", ""], same) == {"bleu_4": 0, "cider": 0, "images": 2}


def test_caption_metrics_split_chinese_for_cider_by_character():
    spaced = [["一 只 红 色 的 猫"], ["两 条 狗 在 跑"]]
    tight = [[one.replace(" ", "") + "。" for one in several] for several in spaced]
    said = ["一只红猫", "两条狗"]
    assert caption_metrics(said, tight)["cider"] == caption_metrics(said, spaced)["cider"] > 1


def test_caption_metrics_leave_out_references_without_a_word():
    assert caption_metrics(CAPTIONS, [[*several, "", " . "] for several in REFERENCES]) == caption_metrics(
        CAPTIONS, REFERENCES
    )


def test_caption_metrics_cider_of_a_single_image_is_zero():
    assert caption_metrics(CAPTIONS[:1], [CAPTIONS[:1]]) == {"bleu_4": 1, "cider": 0, "images": 1}


@pytest.mark.parametrize(
    ("references", "told"),
    [
        ([["a bus"]], "equally many of each, and at least one, got 2 predictions, 1 references"),
        ([["a bus"], []], r"image 1 needs a list of references, at least one with a word, got \[\]"),
        ([["a bus"], ["", "?"]], r"image 1 needs a list of references, at least one with a word, got \['', '\?'\]"),
        (["a bus", ["a cat"]], "image 0 needs a list of references, at least one with a word, got 'a bus'"),
    ],
)
def test_caption_metrics_refuse_references(references, told):
    with pytest.raises(ValueError, match=told):
        caption_metrics(["a bus", "a cat"], references)


def test_caption_metrics_refuse_no_captions():
    with pytest.raises(ValueError, match="got 0 predictions, 0 references"):
        caption_metrics([], [])


def test_caption_metrics_tell_of_a_missing_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    told = r"^caption metrics need sacrebleu: pip install 'hf_multimodal\[captions\]'.$"
    with pytest.raises(ImportError, match=told):
        caption_metrics(CAPTIONS, REFERENCES)
