"""CIDEr-D, the agreement of captions with what people wrote of the same images."""

import math
from collections import Counter
from collections.abc import Sequence

LONGEST = 4  # words of an n-gram
DEVIATION = 6.0  # of the lengths, in words

Weights = list[dict[tuple[str, ...], float]]  # by the length of the n-gram


def cider_d(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> float:
    """CIDEr-D of [Vedantam et al., 2015](https://arxiv.org/abs/1411.5726), as COCO's code computes it.

    A caption and a reference are vectors of n-grams, each weighed by how few images have it in their references:
    over a single image all weights, and CIDEr, are 0. The cosine of the two, with counts clipped to the reference's
    and a penalty for another length, is averaged over references, lengths of n-grams and images.

    Args:
        predictions: The words of a caption for each image.
        references: The words of one or several captions for each image.

    Returns:
        From 0 to 10; papers print 100 times that.

    Example:

    >>> said = ["a red bus".split(), "two cats sleep".split()]
    >>> cider_d(said, [["a red bus".split()], ["two dogs sleep".split()]])
    4.583333333333333
    """
    counted = [[_count(words) for words in several] for several in references]
    images_with: Counter[tuple[str, ...]] = Counter()
    for several in counted:
        images_with.update({gram for grams in several for gram in grams})
    everywhere = math.log(len(references))

    def weigh(words: Sequence[str]) -> Weights:
        weights: Weights = [{} for _ in range(LONGEST)]
        for gram, count in _count(words).items():
            weights[len(gram) - 1][gram] = count * (everywhere - math.log(max(1, images_with[gram])))
        return weights

    total = 0.0
    for words, right in zip(predictions, references, strict=True):
        said = weigh(words)
        agreements = [_agreement(said, weigh(other), len(words), len(other)) for other in right]
        total += sum(agreements) / len(agreements)
    return 10 * total / len(references)


def _count(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    """How often each n-gram stands in a caption."""
    return Counter(
        tuple(words[start : start + n]) for n in range(1, LONGEST + 1) for start in range(len(words) - n + 1)
    )


def _agreement(said: Weights, right: Weights, length: int, other: int) -> float:
    """The mean over the lengths of n-grams, from 0 to 1."""
    pairs = max(length - 1, 0) - max(other - 1, 0)  # COCO's code counts pairs of words
    penalty = math.exp(-(pairs**2) / (2 * DEVIATION**2))
    found = 0.0
    for ours, theirs in zip(said, right, strict=True):
        norms = math.hypot(*ours.values()) * math.hypot(*theirs.values())
        if norms:
            product = sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in ours.items() if gram in theirs)
            found += penalty * product / norms
    return found / LONGEST
