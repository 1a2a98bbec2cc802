"""Losses that align images with texts, over the similarities of all pairs of a batch.

All have one signature. Row r is image r, column c is text c, and the pairs that match stand on the diagonal. What
`complete` and `negative` leave out is neither pulled nor pushed; a batch without a complete pair costs 0.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedConfig

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, PreTrainedConfig], torch.Tensor]
Mining = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


def _mean(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """The mean over what the mask marks; 0 where it marks nothing."""
    return values.masked_fill(~where, 0).sum() / where.sum().clamp(min=1)


def _lowest(values: torch.Tensor) -> float:
    """A number below all others that gives no NaN where a whole row holds it."""
    return torch.finfo(values.dtype).min


def infonce(
    similarity: torch.Tensor,
    logits: torch.Tensor,
    complete: torch.Tensor,
    negative: torch.Tensor,
    config: PreTrainedConfig,
) -> torch.Tensor:
    """Cross-entropy of finding the text of an image and the image of a text, averaged; CLIP's loss.

    From [van den Oord et al., 2018](https://arxiv.org/abs/1807.03748), in both directions as in
    [Radford et al., 2021](https://arxiv.org/abs/2103.00020).

    Args:
        similarity: (batch, batch) cosines.
        logits: (batch, batch), the cosines times the model's scale, plus its bias where it has one.
        complete: (batch,) bool, whether both sides of the pair are there.
        negative: (batch, batch) bool, image and text that do not belong together.
        config: An [`AlignerConfig`].

    Returns:
        A scalar.

    Example:

    >>> cosines = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> complete, negative = torch.tensor([True, True]), ~torch.eye(2, dtype=torch.bool)
    >>> infonce(cosines, 100 * cosines, complete, negative, None)
    tensor(0.)
    """

    def one_way(logits: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        compared = negative | torch.diag(complete)
        total = logits.masked_fill(~compared, _lowest(logits)).logsumexp(dim=1)
        return _mean(total - logits.diagonal(), complete)

    return (one_way(logits, negative) + one_way(logits.T, negative.T)) / 2


def sigmoid(
    similarity: torch.Tensor,
    logits: torch.Tensor,
    complete: torch.Tensor,
    negative: torch.Tensor,
    config: PreTrainedConfig,
) -> torch.Tensor:
    """Each pair alone is judged as matching or not; summed over all pairs, by the number of matches; SigLIP's loss.

    From [Zhai et al., 2023](https://arxiv.org/abs/2303.15343). Arguments as for [`infonce`].
    """
    matches = nn.functional.softplus(-logits.diagonal())
    others = nn.functional.softplus(logits).masked_fill(~negative, 0).sum(dim=1)
    return _mean(matches + others, complete)


def _hardest(similarity: torch.Tensor, complete: torch.Tensor, negative: torch.Tensor, margin: float) -> torch.Tensor:
    hardest = similarity.masked_fill(~negative, _lowest(similarity)).amax(dim=1)
    return _mean((margin - similarity.diagonal() + hardest).relu(), complete)


def _semi_hard(
    similarity: torch.Tensor, complete: torch.Tensor, negative: torch.Tensor, margin: float
) -> torch.Tensor:
    return _hardest(similarity, complete, negative & (similarity < similarity.diagonal()[:, None]), margin)


def _all_violating(
    similarity: torch.Tensor, complete: torch.Tensor, negative: torch.Tensor, margin: float
) -> torch.Tensor:
    cost = (margin - similarity.diagonal()[:, None] + similarity).relu()
    return _mean(cost, negative & (cost > 0))


TRIPLET_MININGS: dict[str, Mining] = {"hard": _hardest, "semi_hard": _semi_hard, "all": _all_violating}


def triplet(
    similarity: torch.Tensor,
    logits: torch.Tensor,
    complete: torch.Tensor,
    negative: torch.Tensor,
    config: PreTrainedConfig,
) -> torch.Tensor:
    """A match is to be nearer than a negative that is mined in the batch, by a margin of .2.

    Averaged over images and texts. `config.triplet_mining` says which negative each meets: `hard`, the nearest, as in
    VSE++ ([Faghri et al., 2018](https://arxiv.org/abs/1707.05612)); `semi_hard`, the nearest of those that are farther
    than the match, if there is one, as in FaceNet ([Schroff et al., 2015](https://arxiv.org/abs/1503.03832)); `all`,
    the mean over every triplet that violates the margin, as in
    [Hermans et al., 2017](https://arxiv.org/abs/1703.07737). Arguments as for [`infonce`].
    """
    mine, margin = TRIPLET_MININGS[config.triplet_mining], 0.2 if config.margin is None else config.margin
    rows = mine(similarity, complete, negative, margin)
    return (rows + mine(similarity.T, complete, negative.T, margin)) / 2


def contrastive_pair(
    similarity: torch.Tensor,
    logits: torch.Tensor,
    complete: torch.Tensor,
    negative: torch.Tensor,
    config: PreTrainedConfig,
) -> torch.Tensor:
    """Matches (label 1: the diagonal) are pulled together, all others (label 0) pushed a margin of 1 apart.

    With the Euclidean distance d of the normalised embeddings a match costs d² / 2 and another pair
    max(0, margin - d)² / 2; summed over all pairs, by the number of matches. From
    [Hadsell et al., 2006](https://doi.org/10.1109/CVPR.2006.100), whose label 0 is the match. Arguments as for
    [`infonce`].
    """
    margin = 1.0 if config.margin is None else config.margin
    squared = (2 - 2 * similarity).clamp(min=1e-12)  # the root has no slope at 0
    others = (margin - squared.sqrt()).relu().square() / 2
    return _mean(squared.diagonal() / 2 + others.masked_fill(~negative, 0).sum(dim=1), complete)


def margin_ranking(
    similarity: torch.Tensor,
    logits: torch.Tensor,
    complete: torch.Tensor,
    negative: torch.Tensor,
    config: PreTrainedConfig,
) -> torch.Tensor:
    """A match is to rank above every negative by a margin of .2; what is short of it is summed.

    Averaged over images and texts. From DeViSE ([Frome et al., 2013](https://research.google/pubs/pub41473/)), in both
    directions as in [Kiros et al., 2014](https://arxiv.org/abs/1411.2539). Arguments as for [`infonce`].
    """
    margin = 0.2 if config.margin is None else config.margin

    def one_way(similarity: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        short = (margin - similarity.diagonal()[:, None] + similarity).relu()
        return _mean(short.masked_fill(~negative, 0).sum(dim=1), complete)

    return (one_way(similarity, negative) + one_way(similarity.T, negative.T)) / 2


LOSSES: dict[str, Loss] = {
    "infonce": infonce,
    "sigmoid": sigmoid,
    "triplet": triplet,
    "contrastive_pair": contrastive_pair,
    "margin_ranking": margin_ranking,
}
SCALED_LOSSES = ("infonce", "sigmoid")  # those that read the logits, and so teach the scale
