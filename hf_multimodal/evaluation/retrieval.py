"""How well texts find their image and images find their texts: recall and ranks, both ways.

The conventions, since published numbers differ by them:

- A text has one right image. An image with several texts is right by the best of them, and its other texts are
  neither right nor wrong ([Karpathy and Fei-Fei, 2015](https://arxiv.org/abs/1412.2306)).
- The rank of a query is 1 plus the number of wrong answers that score at least as high as the right one: a tie counts
  against the query, so a model that gives everything one score gets the worst ranks and not the best.
- An interval is that of 95 % over draws of images, each with all its texts: the texts of one image are not
  independent.
- The pool, everything that a query is compared with, is told beside every number: recall means nothing without it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from hf_multimodal.evaluation.bootstrap import RESAMPLES, resample_counts
from hf_multimodal.evaluation.calibration import FloatArray

RECALL_AT = (1, 5, 10)
CELLS = 16_000_000  # scores held at once: 64 MB
TIE = 1e-6  # float32 products of equal vectors differ by where they stand in a matrix, by less than this
DIRECTIONS = {"image_to_text": "image to text", "text_to_image": "text to image"}


def retrieval_ranks(image_embeds: Tensor, text_embeds: Tensor, image_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Rank of the right answer for every image and every text, by cosine, a tie counting against the query.

    The scores are computed a chunk of texts at a time, so a matrix of 10,000 images by 50,000 texts never stands in
    memory.

    Args:
        image_embeds: (images, width), of any length each.
        text_embeds: (texts, width).
        image_ids: (texts,) row in `image_embeds` of each text's image.

    Returns:
        (images,) ranks from 1, 0 for an image without a text, and (texts,) ranks from 1.

    Raises:
        ValueError: Shapes disagree, an embedding is not finite, or an id names no image.

    Example:

    >>> images, texts = torch.eye(3), torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.6, 0.8, 0]])
    >>> [ranks.tolist() for ranks in retrieval_ranks(images, texts, torch.tensor([0, 1, 0]))]
    [[1, 1, 0], [1, 1, 2]]
    """
    _check(image_embeds, text_embeds, image_ids)
    images, texts = (F.normalize(embeds.float(), dim=-1) for embeds in (image_embeds, text_embeds))
    owners = image_ids.to(images.device)
    right = (texts * images[owners]).sum(dim=-1)  # (texts,)
    best = right.new_full((len(images),), torch.inf).scatter_reduce(0, owners, right, "amax", include_self=False)
    text_ranks, image_ranks = torch.empty_like(owners), (best < torch.inf).long()
    for start in range(0, len(texts), chunk := max(1, CELLS // len(images))):
        rows = slice(start, start + chunk)
        scores = texts[rows] @ images.T
        scores.scatter_(1, owners[rows, None], -torch.inf)  # what is left is wrong
        text_ranks[rows] = 1 + (scores >= right[rows, None] - TIE).sum(dim=1)
        image_ranks += (scores >= best - TIE).sum(dim=0)
    return image_ranks, text_ranks


def retrieval_metrics(
    image_embeds: Tensor,
    text_embeds: Tensor,
    image_ids: Tensor,
    *,
    image_groups: Sequence[Any] | npt.NDArray[Any] | None = None,
    text_groups: Sequence[Any] | npt.NDArray[Any] | None = None,
) -> dict[str, Any]:
    """Recall@1, 5 and 10, mean and median rank in both directions, over all queries and by group.

    Args:
        image_embeds: (images, width).
        text_embeds: (texts, width).
        image_ids: (texts,) row in `image_embeds` of each text's image.
        image_groups: A value for each image, to see which kinds of image align badly. Groups divide the queries;
            the pool stays whole.
        text_groups: A value for each text; by default a text is in the group of its image.

    Returns:
        `image_to_text` and `text_to_image`, each with `recall_at_1`, `recall_at_5`, `recall_at_10`, `mean_rank`,
        `median_rank`, `queries` and `pool`; `rsum`, the sum of the six recalls in percent (at most 600); `intervals`:
        `low` and `high` of each recall and of the rsum; with groups `groups`: the two directions by group.

    Raises:
        ValueError: `retrieval_ranks` refuses the embeddings, or there is not one group for each query.

    Example:

    >>> texts = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.6, 0.8, 0]])
    >>> found = retrieval_metrics(torch.eye(3), texts, torch.tensor([0, 1, 0]))
    >>> found["image_to_text"]["recall_at_1"], found["text_to_image"]["mean_rank"], found["text_to_image"]["pool"]
    (1.0, 1.3333333333333333, 3)
    """
    image_ranks, text_ranks = (ranks.cpu().numpy() for ranks in retrieval_ranks(image_embeds, text_embeds, image_ids))
    ranks = {"image_to_text": image_ranks, "text_to_image": text_ranks}
    pools = {"image_to_text": len(text_ranks), "text_to_image": len(image_ranks)}
    found: dict[str, Any] = {way: _summary(ranks[way][ranks[way] > 0], pools[way]) for way in DIRECTIONS}
    found["rsum"] = 100 * sum(found[way][f"recall_at_{k}"] for way in DIRECTIONS for k in RECALL_AT)
    found["intervals"] = _intervals(image_ranks, text_ranks, image_ids.cpu().numpy())
    groups = {
        name: np.asarray(values).astype(str)
        for name, values in (("image_to_text", image_groups), ("text_to_image", text_groups))
        if values is not None
    }
    for way, values in groups.items():
        if len(values) != len(ranks[way]):
            raise ValueError(f"{way.split('_')[0]}_groups must have {len(ranks[way])} values, got {len(values)}.")
    if image_groups is not None and text_groups is None:
        groups["text_to_image"] = groups["image_to_text"][image_ids.cpu().numpy()]
    if groups:
        found["groups"] = {
            str(name): {
                way: _summary(chosen, pools[way])
                for way, values in groups.items()
                if len(chosen := ranks[way][(values == name) & (ranks[way] > 0)])
            }
            for name in np.unique(np.concatenate(list(groups.values())))
        }
    return found


def _summary(ranks: npt.NDArray[Any], pool: int) -> dict[str, float | int]:
    recalls = {f"recall_at_{k}": float((ranks <= k).mean()) for k in RECALL_AT}
    middle = {"mean_rank": float(ranks.mean()), "median_rank": float(np.median(ranks))}
    return {**recalls, **middle, "queries": len(ranks), "pool": pool}


def _intervals(
    image_ranks: npt.NDArray[Any], text_ranks: npt.NDArray[Any], owners: npt.NDArray[Any]
) -> dict[str, Any]:
    """95 % percentile intervals by bootstrap over images, each with all its texts; the pool stays whole."""
    at, images = np.array(RECALL_AT), len(image_ranks)
    found: dict[str, npt.NDArray[Any]] = {
        "image_to_text": (image_ranks[:, None] <= at) & (image_ranks > 0)[:, None],
        "text_to_image": np.stack([np.bincount(owners[text_ranks <= k], minlength=images) for k in at], axis=1),
    }
    asked: dict[str, npt.NDArray[Any]] = {
        "image_to_text": image_ranks > 0,
        "text_to_image": np.bincount(owners, minlength=images),
    }
    draws: dict[str, list[FloatArray]] = {way: [] for way in found}
    for counts in resample_counts(RESAMPLES, images, seed=0):
        for way, parts in draws.items():
            queries = (counts @ asked[way])[:, None]
            parts.append(counts @ found[way] / np.maximum(queries, 1))  # a draw may hold none
    recalls = {way: np.concatenate(parts) for way, parts in draws.items()}  # (resamples, cut-offs)

    def ends(values: FloatArray) -> dict[str, float]:
        low, high = np.percentile(values, [2.5, 97.5]).tolist()
        return {"low": low, "high": high}

    by_way = {
        way: {f"recall_at_{k}": ends(values[:, column]) for column, k in enumerate(RECALL_AT)}
        for way, values in recalls.items()
    }
    return {**by_way, "rsum": ends(100 * sum(values.sum(axis=1) for values in recalls.values()))}


def _check(image_embeds: Tensor, text_embeds: Tensor, image_ids: Tensor) -> None:
    shapes = tuple(image_embeds.shape), tuple(text_embeds.shape)
    if not len(shapes[0]) == len(shapes[1]) == 2 or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            f"image_embeds and text_embeds must be two tables of one width, got {shapes[0]} and {shapes[1]}."
        )
    images, texts = len(image_embeds), len(text_embeds)
    if not images or not texts:
        raise ValueError(f"there is nothing to rank: {images} images and {texts} texts.")
    for name, embeds in (("image_embeds", image_embeds), ("text_embeds", text_embeds)):
        broken = (~embeds.isfinite().all(dim=1)).nonzero()[:, 0]
        if len(broken):
            rows = f"{len(broken)} such row{'s' if len(broken) > 1 else ''}"
            raise ValueError(f"{name} must be finite, row {broken[0]} is not ({rows} of {len(embeds)}).")
    if image_ids.shape != (texts,):
        raise ValueError(f"image_ids must have shape ({texts},), got {tuple(image_ids.shape)}.")
    outside = ((image_ids < 0) | (image_ids >= images)).nonzero()[:, 0]
    if len(outside) or image_ids.is_floating_point():
        where = f"{image_ids[outside[0]]} in row {outside[0]}" if len(outside) else str(image_ids.dtype)
        raise ValueError(f"image_ids must be ({texts},) whole numbers in 0..{images - 1}, got {where}.")
