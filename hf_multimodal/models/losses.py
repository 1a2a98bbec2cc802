"""Losses that align images with texts, over the similarities of all pairs of a batch.

All have one signature and look both ways, from images to texts and from texts to images. What `complete` and
`image_ids` of the [`Pairs`] leave out is neither pulled nor pushed; a batch without a complete pair costs 0.

`infonce` and `sigmoid` go over squares of the logits, with a gradient written by hand: no slower than the plain
formula, and what they hold does not grow with the square of the batch; a gradient of their gradient is refused. The
others go over rows, by automatic differentiation.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

# How many logits, 64 MB, the gradient finds again: all of 4,096 pairs. It computes further ones a second time.
KEPT = 2**24
SIDE = 2**9  # of a square on a CPU, so that it stays in the cache
FAR = 60.0  # of the largest logit of a square: what it adds to exp(logit - largest) is below the last digit


@dataclass
class Pairs:
    """What a loss compares: row r of the images belongs to row r of the texts.

    Args:
        images: (batch, width), of length 1, float32 or wider.
        texts: (batch, width), of length 1, in the same dtype.
        scale: Scalar. A logit is a cosine times `scale`, plus `bias`; only `infonce` and `sigmoid` read logits.
        bias: Scalar; None adds nothing.
        complete: (batch,) bool, whether both sides of the pair are there; None means that all are.
        image_ids: (batch,), equal numbers are no negatives of each other; None means that all differ.
        cells: How many similarities are held at once; value and gradient are the same. None means 4,096 squared, and
            all for the losses that go over rows.
    """

    images: torch.Tensor
    texts: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None = None
    complete: torch.Tensor | None = None
    image_ids: torch.Tensor | None = None
    cells: int | None = None

    def masks(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`complete` and `image_ids`, written out where they are None."""
        count, device = len(self.images), self.images.device
        complete = torch.ones(count, dtype=torch.bool, device=device) if self.complete is None else self.complete
        return complete, torch.arange(count, device=device) if self.image_ids is None else self.image_ids


Loss = Callable[[Pairs, PreTrainedConfig], torch.Tensor]
Square = tuple[slice, slice, torch.Tensor]  # rows, columns, and the logits where they cross
Value = Callable[[Iterable[Square], torch.Tensor], tuple[torch.Tensor, ...]]
Slope = Callable[..., torch.Tensor]


def _squares(side: int, kept: list[torch.Tensor], most: int, *inputs: Any) -> Iterator[Square]:
    """All logits, the first from `kept`, where `most` of those that are computed stay; `side` 0 means one square.

    What is no negative is -inf. The match of an incomplete pair is the largest number: found beyond doubt, it costs
    nothing and pulls nothing.
    """
    images, texts, bias, complete, image_ids = inputs
    starts = range(0, len(images), side) if side else (0,)
    for number, (row, column) in enumerate((row, column) for row in starts for column in starts):
        rows, columns = slice(row, row + side or None), slice(column, column + side or None)
        if number < len(kept):
            yield rows, columns, kept[number]
            continue
        logits = images[rows] @ texts[columns].T
        if bias is not None:
            logits += bias
        if complete is not None:
            left_out = image_ids[rows, None] == image_ids[columns]
            left_out |= ~(complete[rows, None] & complete[columns])
            if row == column:
                left_out.fill_diagonal_(False)
                logits.diagonal().masked_fill_(~complete[rows], torch.finfo(logits.dtype).max)
            logits.masked_fill_(left_out, -torch.inf)
        if number < most:
            kept.append(logits)
        yield rows, columns, logits


class _OverSquares(torch.autograd.Function):
    """The sum of a loss over squares of logits.

    Args:
        value: From the squares and the images, the sum and the vectors that `slope` reads.
        slope: From a square and those vectors, the derivative of the sum with respect to the logits.
        side: Rows of a square.
        most: How many squares are kept for the gradient.
        inputs: Images times the scale, texts, bias, `complete`, `image_ids`; the third, and the last two, may be None.
    """

    @staticmethod
    def forward(ctx: Any, value: Value, slope: Slope, side: int, most: int, *inputs: Any) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        with torch.autocast(inputs[0].device.type, enabled=False):  # a cosine in bfloat16 has three digits
            total, *vectors = value(_squares(side, kept, most, *inputs), inputs[0])
        ctx.save_for_backward(*inputs, *vectors, *kept)
        ctx.slope, ctx.side, ctx.parts = slope, side, (len(inputs), len(inputs) + len(vectors))
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise RuntimeError("infonce and sigmoid have no second derivative; leave create_graph=True out.")
        one, two = ctx.parts
        inputs, vectors, kept = ctx.saved_tensors[:one], ctx.saved_tensors[one:two], ctx.saved_tensors[two:]
        images, texts, bias = inputs[:3]
        of_images, of_texts = torch.zeros_like(images), torch.zeros_like(texts)
        of_bias = None if bias is None else torch.zeros_like(bias)
        with torch.autocast(images.device.type, enabled=False):
            for rows, columns, logits in _squares(ctx.side, list(kept), 0, *inputs):
                slope = ctx.slope(rows, columns, logits, *vectors)
                of_images[rows].addmm_(slope, texts[columns])
                of_texts[columns].addmm_(slope.T, images[rows])
                if of_bias is not None:
                    of_bias += slope.sum()
        parts = (part if part is None else part.mul_(gradient) for part in (of_images, of_texts, of_bias))
        return None, None, None, None, *parts, None, None


def _over_squares(value: Value, slope: Slope, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor | int]:
    """The sum of a loss and the number of complete pairs, at least 1."""
    masks = (None, None) if pairs.complete is None and pairs.image_ids is None else pairs.masks()
    cells = KEPT if pairs.cells is None else pairs.cells
    side = min(math.isqrt(cells), SIDE) if pairs.images.device.type == "cpu" else math.isqrt(cells)
    most = cells // side**2
    if torch.compiler.is_compiling():
        side, most = 0, 1  # one graph for batches of any length
    scaled = pairs.images * pairs.scale
    total = _OverSquares.apply(value, slope, side, most, scaled, pairs.texts, pairs.bias, *masks)
    return total, max(1, len(pairs.images)) if masks[0] is None else masks[0].sum().clamp(min=1)


def _may_look(tensor: torch.Tensor) -> bool:
    """Whether a number in it may decide what is computed: on an accelerator that waits, in a graph it cannot be."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _log_sums(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`logsumexp` of the rows and of the columns, by one exponential of each logit where they are near enough."""
    if _may_look(logits):
        highest = logits.max()
        terms = (logits - highest).exp_()
        sums = terms.sum(dim=1), terms.sum(dim=0)
        if min(one.min() for one in sums) > math.exp(-FAR):
            return highest + sums[0].log(), highest + sums[1].log()
    return logits.logsumexp(dim=1), logits.logsumexp(dim=0)


def _shares(logits: torch.Tensor, of_rows: torch.Tensor, of_columns: torch.Tensor) -> torch.Tensor:
    """Each logit's share of its row plus that of its column, by one exponential where they are near enough."""
    if _may_look(logits):
        highest = logits.max().clamp(min=torch.finfo(logits.dtype).min)
        to_rows, to_columns = highest - of_rows, highest - of_columns
        if max(to_rows.max(), to_columns.max()) < FAR:
            shares = (logits - highest).exp_()
            return shares.mul_(to_rows.exp()[:, None] + to_columns.exp())
    shares = (logits - of_rows[:, None]).exp_()
    return shares.add_((logits - of_columns).exp_())


def _infonce_value(squares: Iterable[Square], images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    of_rows, of_columns, match = images.new_full((3, len(images)), -torch.inf)
    for rows, columns, logits in squares:
        row_sums, column_sums = _log_sums(logits)
        of_rows[rows] = torch.logaddexp(of_rows[rows], row_sums)
        of_columns[columns] = torch.logaddexp(of_columns[columns], column_sums)
        if rows == columns:
            match[rows] = logits.diagonal()
    return ((of_rows - match) + (of_columns - match)).sum(), of_rows, of_columns


def _infonce_slope(
    rows: slice, columns: slice, logits: torch.Tensor, of_rows: torch.Tensor, of_columns: torch.Tensor
) -> torch.Tensor:
    slope = _shares(logits, of_rows[rows], of_columns[columns])
    if rows == columns:
        slope.diagonal().sub_(2)
    return slope


def infonce(pairs: Pairs, config: PreTrainedConfig) -> torch.Tensor:
    """Cross-entropy of finding the text of an image and the image of a text, averaged; CLIP's loss.

    From [van den Oord et al., 2018](https://arxiv.org/abs/1807.03748), in both directions as in
    [Radford et al., 2021](https://arxiv.org/abs/2103.00020).

    Args:
        pairs: What is compared.
        config: An [`AlignerConfig`].

    Returns:
        A scalar.

    Example:

    >>> infonce(Pairs(torch.eye(2), torch.eye(2), scale=torch.tensor(100.0)), None)
    tensor(0.)
    """
    total, count = _over_squares(_infonce_value, _infonce_slope, pairs)
    return total / (2 * count)


def _sigmoid_value(squares: Iterable[Square], images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    costs = images.new_zeros(len(images))
    for rows, columns, logits in squares:
        cost = nn.functional.softplus(logits, threshold=40)  # where float64 too shows no difference from the logit
        if rows == columns:
            cost.diagonal().copy_(nn.functional.softplus(-logits.diagonal(), threshold=40))
        costs[rows] += cost.sum(dim=1)
    return (costs.sum(),)


def _sigmoid_slope(rows: slice, columns: slice, logits: torch.Tensor) -> torch.Tensor:
    slope = logits.sigmoid()
    if rows == columns:
        slope.diagonal().copy_(-(-logits.diagonal()).sigmoid())
    return slope


def sigmoid(pairs: Pairs, config: PreTrainedConfig) -> torch.Tensor:
    """Each pair alone is judged as matching or not; summed over all pairs, by the number of matches; SigLIP's loss.

    From [Zhai et al., 2023](https://arxiv.org/abs/2303.15343).

    Args:
        pairs: What is compared.
        config: An [`AlignerConfig`].

    Returns:
        A scalar.
    """
    total, count = _over_squares(_sigmoid_value, _sigmoid_slope, pairs)
    return total / count


@dataclass
class Rows:
    """Some rows of a batch, of images or of texts, each beside all that it is compared with.

    Args:
        similarity: (rows, batch), cosines.
        match: (rows,), the cosine of each row with its match.
        complete: (rows,) bool, whether both sides of a row's pair are there.
        negative: (rows, batch) bool, what is a negative of a row.
    """

    similarity: torch.Tensor
    match: torch.Tensor
    complete: torch.Tensor
    negative: torch.Tensor


Cost = tuple[torch.Tensor, torch.Tensor]  # a sum, and the number of terms that it is to be divided by
RowLoss = Callable[[Rows, PreTrainedConfig], Cost]


def over_rows(loss: RowLoss, pairs: Pairs, config: PreTrainedConfig) -> torch.Tensor:
    """The mean of a loss from images to texts and from texts to images.

    Where it is taken over some rows at a time, the gradient is computed at once with it.

    Args:
        loss: Of some rows.
        pairs: What is compared.
        config: An [`AlignerConfig`].

    Returns:
        A scalar.
    """
    complete, image_ids = pairs.masks()

    def of_rows(rows: torch.Tensor, columns: torch.Tensor, start: int) -> Cost:
        own = slice(start, start + len(rows))
        negative = complete[own, None] & complete & (image_ids[own, None] != image_ids)
        with torch.autocast(rows.device.type, enabled=False):
            similarity = rows @ columns.T
            return loss(Rows(similarity, similarity.diagonal(start), complete[own], negative), config)

    def one_way(side: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if pairs.cells is None:
            total, count = of_rows(side, other, 0)
            return total / count.clamp(min=1)
        of_side, of_other = torch.zeros_like(side), torch.zeros_like(other)
        value, number = side.new_zeros(()), complete.new_zeros((), dtype=torch.long)
        step = max(1, pairs.cells // len(side))
        for start in range(0, len(side), step):
            with torch.enable_grad():
                rows, columns = (one.detach().requires_grad_() for one in (side[start : start + step], other))
                total, count = of_rows(rows, columns, start)
            of_side[start : start + step], of_columns = torch.autograd.grad(total, (rows, columns))
            of_other += of_columns
            value, number = value + total.detach(), number + count
        # Each difference is 0; what it is multiplied by is the gradient.
        parts = [((one - one.detach()) * sums).sum() for one, sums in ((side, of_side), (other, of_other))]
        return torch.stack([value, *parts]).sum() / number.clamp(min=1)

    return (one_way(pairs.images, pairs.texts) + one_way(pairs.texts, pairs.images)) / 2


def _sum(values: torch.Tensor, where: torch.Tensor) -> Cost:
    """The sum over what the mask marks, and its number."""
    return values.masked_fill(~where, 0).sum(), where.sum()


def _hardest(rows: Rows, margin: float) -> Cost:
    lowest = torch.finfo(rows.similarity.dtype).min  # no NaN where a whole row holds it, as -inf would give
    hardest = rows.similarity.masked_fill(~rows.negative, lowest).amax(dim=1)
    return _sum((margin - rows.match + hardest).relu(), rows.complete)


def _semi_hard(rows: Rows, margin: float) -> Cost:
    farther = rows.similarity < rows.match[:, None]
    return _hardest(replace(rows, negative=rows.negative & farther), margin)


def _all_violating(rows: Rows, margin: float) -> Cost:
    cost = (margin - rows.match[:, None] + rows.similarity).relu()
    return _sum(cost, rows.negative & (cost > 0))


TRIPLET_MININGS = {"semi_hard": _semi_hard, "all": _all_violating, "hard": _hardest}


def triplet(rows: Rows, config: PreTrainedConfig) -> Cost:
    """A match is to be nearer than a negative that is mined in the batch, by a margin of .2.

    `config.triplet_mining` says which negative each meets: `semi_hard`, the nearest of those that are farther than
    the match, if there is one, as in FaceNet ([Schroff et al., 2015](https://arxiv.org/abs/1503.03832)); `all`, the
    mean over every triplet that violates the margin, as in [Hermans et al., 2017](https://arxiv.org/abs/1703.07737);
    `hard`, the nearest, as in VSE++ ([Faghri et al., 2018](https://arxiv.org/abs/1707.05612)). Where different
    images of a batch may show the same, `hard` meets little else and learns badly.

    Args:
        rows: What is compared.
        config: An [`AlignerConfig`].
    """
    return TRIPLET_MININGS[config.triplet_mining](rows, 0.2 if config.margin is None else config.margin)


def contrastive_pair(rows: Rows, config: PreTrainedConfig) -> Cost:
    """Matches (label 1: the diagonal) are pulled together, all others (label 0) pushed a margin of 1 apart.

    With the Euclidean distance d of the normalised embeddings a match costs d² / 2 and another pair
    max(0, margin - d)² / 2; summed over all pairs, by the number of matches. From
    [Hadsell et al., 2006](https://doi.org/10.1109/CVPR.2006.100), whose label 0 is the match.

    Args:
        rows: What is compared.
        config: An [`AlignerConfig`].
    """
    margin = 1.0 if config.margin is None else config.margin
    to_match, to_all = ((2 - 2 * cosine).clamp(min=1e-12) for cosine in (rows.match, rows.similarity))
    others = (margin - to_all.sqrt()).relu().square() / 2  # clamped, since the root has no slope at 0
    return _sum(to_match / 2 + others.masked_fill(~rows.negative, 0).sum(dim=1), rows.complete)


def margin_ranking(rows: Rows, config: PreTrainedConfig) -> Cost:
    """A match is to rank above every negative by a margin of .2; what is short of it is summed.

    From DeViSE ([Frome et al., 2013](https://research.google/pubs/pub41473/)), in both
    directions as in [Kiros et al., 2014](https://arxiv.org/abs/1411.2539).

    Args:
        rows: What is compared.
        config: An [`AlignerConfig`].
    """
    margin = 0.2 if config.margin is None else config.margin
    short = (margin - rows.match[:, None] + rows.similarity).relu()
    return _sum(short.masked_fill(~rows.negative, 0).sum(dim=1), rows.complete)


LOSSES: dict[str, Loss] = {
    "infonce": infonce,
    "sigmoid": sigmoid,
    "triplet": partial(over_rows, triplet),
    "contrastive_pair": partial(over_rows, contrastive_pair),
    "margin_ranking": partial(over_rows, margin_ranking),
}
SCALED_LOSSES = ("infonce", "sigmoid")  # those that read the logits, and so teach the scale
