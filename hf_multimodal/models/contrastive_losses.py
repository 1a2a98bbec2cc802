"""Losses that align images with texts, over the similarities of all pairs of a batch.

All have one signature, and see one way: row r is what is looked from, column c what is looked at, both ways in turn. A
row's match stands `start` columns to the right of the diagonal, so that a loss can be taken over some rows at a time.
What `complete` and `negative` leave out is neither pulled nor pushed; a batch without a complete pair costs 0.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedConfig

Cost = tuple[torch.Tensor, torch.Tensor]  # a sum, and the number of terms that it is to be divided by
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, PreTrainedConfig, int], Cost]
Mining = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, int], Cost]


def loss_both_ways(
    loss: Loss,
    images: torch.Tensor,
    texts: torch.Tensor,
    scaling: nn.Module,
    complete: torch.Tensor,
    image_ids: torch.Tensor,
    config: PreTrainedConfig,
    cells: int | None = None,
) -> torch.Tensor:
    """The mean of a loss from images to texts and from texts to images.

    Args:
        loss: An entry of `LOSSES`.
        images: (batch, width), of length 1.
        texts: (batch, width), of length 1; row r belongs to image r.
        scaling: Cosines to logits.
        complete: (batch,) bool, whether both sides of the pair are there.
        image_ids: (batch,), equal numbers are no negatives of each other.
        config: An [`AlignerConfig`].
        cells: How many similarities are held at once, each row whole; the gradient is then computed at once with the
            loss, some rows at a time, and is the same. None holds all.

    Returns:
        A scalar.
    """

    def of_rows(rows: torch.Tensor, columns: torch.Tensor, start: int) -> Cost:
        own = slice(start, start + len(rows))
        negative = complete[own, None] & complete & (image_ids[own, None] != image_ids)
        with torch.autocast(rows.device.type, enabled=False):  # a cosine in bfloat16 has three digits
            similarity = rows @ columns.T
        return loss(similarity, scaling(similarity), complete[own], negative, config, start)

    def one_way(side: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if cells is None:
            total, count = of_rows(side, other, 0)
            return total / count.clamp(min=1)
        learned = [side, other, *scaling.parameters()]
        gradients = [torch.zeros_like(one) for one in learned]
        value, number, step = side.new_zeros(()), complete.new_zeros((), dtype=torch.long), max(1, cells // len(side))
        for start in range(0, len(side), step):
            with torch.enable_grad():
                rows, columns = (one.detach().requires_grad_() for one in (side[start : start + step], other))
                total, count = of_rows(rows, columns, start)
            wanted = [rows, columns, *(one for one in learned[2:] if one.requires_grad)]
            kept = [gradients[0][start : start + step], gradients[1]]
            kept += [sums for one, sums in zip(learned[2:], gradients[2:], strict=True) if one.requires_grad]
            found = torch.autograd.grad(total, wanted, allow_unused=True)
            for sums, part in zip(kept, found, strict=True):
                if part is not None:
                    sums += part
            value, number = value + total.detach(), number + count
        # Each difference is 0; what it is multiplied by is the gradient.
        parts = [((one - one.detach()) * sums).sum() for one, sums in zip(learned, gradients, strict=True)]
        return torch.stack([value, *parts]).sum() / number.clamp(min=1)

    return (one_way(images, texts) + one_way(texts, images)) / 2


def _sum(values: torch.Tensor, where: torch.Tensor) -> Cost:
    """The sum over what the mask marks, and its number."""
    return values.masked_fill(~where, 0).sum(), where.sum()


def _lowest(values: torch.Tensor) -> float:
    """A number below all others that gives no NaN where a whole row holds it."""
    return torch.finfo(values.dtype).min


def infonce(
    similarity: torch.Tensor,
    logits: torch.Tensor,
    complete: torch.Tensor,
    negative: torch.Tensor,
    config: PreTrainedConfig,
    start: int = 0,
) -> Cost:
    """Cross-entropy of finding the text of an image and the image of a text, averaged; CLIP's loss.

    From [van den Oord et al., 2018](https://arxiv.org/abs/1807.03748), in both directions as in
    [Radford et al., 2021](https://arxiv.org/abs/2103.00020).

    Args:
        similarity: (rows, batch) cosines.
        logits: (rows, batch), the cosines times the model's scale, plus its bias where it has one.
        complete: (rows,) bool, whether both sides of the pair are there.
        negative: (rows, batch) bool, image and text that do not belong together.
        config: An [`AlignerConfig`].
        start: Column of the first row's match.

    Returns:
        The sum over the rows, and what it is to be divided by, the number of complete ones.

    Example:

    >>> cosines = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> complete, negative = torch.tensor([True, True]), ~torch.eye(2, dtype=torch.bool)
    >>> infonce(cosines, 100 * cosines, complete, negative, None)
    (tensor(0.), tensor(2))
    """

    match = logits.diagonal(start)
    others = logits.masked_fill(~negative, _lowest(logits)).logsumexp(dim=1)
    return _sum(torch.logaddexp(match, others) - match, complete)


def sigmoid(
    similarity: torch.Tensor,
    logits: torch.Tensor,
    complete: torch.Tensor,
    negative: torch.Tensor,
    config: PreTrainedConfig,
    start: int = 0,
) -> Cost:
    """Each pair alone is judged as matching or not; summed over all pairs, by the number of matches; SigLIP's loss.

    From [Zhai et al., 2023](https://arxiv.org/abs/2303.15343). Arguments as for [`infonce`].
    """
    matches = nn.functional.softplus(-logits.diagonal(start))
    others = nn.functional.softplus(logits).masked_fill(~negative, 0).sum(dim=1)
    return _sum(matches + others, complete)


def _hardest(
    similarity: torch.Tensor, complete: torch.Tensor, negative: torch.Tensor, margin: float, start: int
) -> Cost:
    hardest = similarity.masked_fill(~negative, _lowest(similarity)).amax(dim=1)
    return _sum((margin - similarity.diagonal(start) + hardest).relu(), complete)


def _semi_hard(
    similarity: torch.Tensor, complete: torch.Tensor, negative: torch.Tensor, margin: float, start: int
) -> Cost:
    farther = similarity < similarity.diagonal(start)[:, None]
    return _hardest(similarity, complete, negative & farther, margin, start)


def _all_violating(
    similarity: torch.Tensor, complete: torch.Tensor, negative: torch.Tensor, margin: float, start: int
) -> Cost:
    cost = (margin - similarity.diagonal(start)[:, None] + similarity).relu()
    return _sum(cost, negative & (cost > 0))


TRIPLET_MININGS: dict[str, Mining] = {"semi_hard": _semi_hard, "all": _all_violating, "hard": _hardest}


def triplet(
    similarity: torch.Tensor,
    logits: torch.Tensor,
    complete: torch.Tensor,
    negative: torch.Tensor,
    config: PreTrainedConfig,
    start: int = 0,
) -> Cost:
    """A match is to be nearer than a negative that is mined in the batch, by a margin of .2.

    `config.triplet_mining` says which negative each meets: `semi_hard`, the nearest of those that are farther than
    the match, if there is one, as in FaceNet ([Schroff et al., 2015](https://arxiv.org/abs/1503.03832)); `all`, the
    mean over every triplet that violates the margin, as in [Hermans et al., 2017](https://arxiv.org/abs/1703.07737);
    `hard`, the nearest, as in VSE++ ([Faghri et al., 2018](https://arxiv.org/abs/1707.05612)). Where different
    pictures of a batch may show the same, `hard` meets little else and learns badly. Arguments as for [`infonce`].
    """
    mine, margin = TRIPLET_MININGS[config.triplet_mining], 0.2 if config.margin is None else config.margin
    return mine(similarity, complete, negative, margin, start)


def contrastive_pair(
    similarity: torch.Tensor,
    logits: torch.Tensor,
    complete: torch.Tensor,
    negative: torch.Tensor,
    config: PreTrainedConfig,
    start: int = 0,
) -> Cost:
    """Matches (label 1: the diagonal) are pulled together, all others (label 0) pushed a margin of 1 apart.

    With the Euclidean distance d of the normalised embeddings a match costs d² / 2 and another pair
    max(0, margin - d)² / 2; summed over all pairs, by the number of matches. From
    [Hadsell et al., 2006](https://doi.org/10.1109/CVPR.2006.100), whose label 0 is the match. Arguments as for
    [`infonce`].
    """
    margin = 1.0 if config.margin is None else config.margin
    squared = (2 - 2 * similarity).clamp(min=1e-12)  # the root has no slope at 0
    others = (margin - squared.sqrt()).relu().square() / 2
    return _sum(squared.diagonal(start) / 2 + others.masked_fill(~negative, 0).sum(dim=1), complete)


def margin_ranking(
    similarity: torch.Tensor,
    logits: torch.Tensor,
    complete: torch.Tensor,
    negative: torch.Tensor,
    config: PreTrainedConfig,
    start: int = 0,
) -> Cost:
    """A match is to rank above every negative by a margin of .2; what is short of it is summed.

    From DeViSE ([Frome et al., 2013](https://research.google/pubs/pub41473/)), in both
    directions as in [Kiros et al., 2014](https://arxiv.org/abs/1411.2539). Arguments as for [`infonce`].
    """
    margin = 0.2 if config.margin is None else config.margin
    short = (margin - similarity.diagonal(start)[:, None] + similarity).relu()
    return _sum(short.masked_fill(~negative, 0).sum(dim=1), complete)


LOSSES: dict[str, Loss] = {
    "infonce": infonce,
    "sigmoid": sigmoid,
    "triplet": triplet,
    "contrastive_pair": contrastive_pair,
    "margin_ranking": margin_ranking,
}
SCALED_LOSSES = ("infonce", "sigmoid")  # those that read the logits, and so teach the scale
