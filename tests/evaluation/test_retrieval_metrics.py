"""Retrieval metrics against a plain loop over queries, with ties, duplicates and several captions an image."""

import json

import numpy as np
import pytest
import torch

from hf_multimodal.evaluation import retrieval
from hf_multimodal.evaluation.bootstrap import resample_counts
from hf_multimodal.evaluation.retrieval import retrieval_metrics, retrieval_ranks
from hf_multimodal.hub.tables import retrieval_table


def loop_ranks(image_embeds, text_embeds, image_ids):
    """One query at a time in double precision; a wrong answer as high as the best right one is ahead of it."""
    images = torch.nn.functional.normalize(image_embeds.double(), dim=-1)
    texts = torch.nn.functional.normalize(text_embeds.double(), dim=-1)
    owners = image_ids.tolist()
    image_ranks, text_ranks = [], []
    for image in range(len(images)):
        scores = [float(images[image] @ text) for text in texts]
        right = [score for score, owner in zip(scores, owners, strict=True) if owner == image]
        wrong = [score for score, owner in zip(scores, owners, strict=True) if owner != image]
        image_ranks.append(1 + sum(score >= max(right) - 1e-6 for score in wrong) if right else 0)
    for text, owner in enumerate(owners):
        scores = [float(texts[text] @ image) for image in images]
        wrong = [score for image, score in enumerate(scores) if image != owner]
        text_ranks.append(1 + sum(score >= scores[owner] - 1e-6 for score in wrong))
    return image_ranks, text_ranks


def draw(images=23, texts=61, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image_ids = torch.randint(images - 1, (texts,), generator=generator)
    image_embeds = torch.randn(images, width, generator=generator)
    noise = torch.randn(texts, width, generator=generator)
    return image_embeds, image_embeds[image_ids] + noise, image_ids


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cells", [retrieval.CELLS, 50])
def test_ranks_equal_those_of_a_plain_loop(seed, cells, monkeypatch):
    monkeypatch.setattr(retrieval, "CELLS", cells)
    data = draw(seed=seed)
    assert 0 in loop_ranks(*data)[0]  # an image without any text is no query, but stays in the pool
    assert [ranks.tolist() for ranks in retrieval_ranks(*data)] == list(loop_ranks(*data))


def test_duplicates_and_ties_count_against_the_query():
    image_embeds, text_embeds, image_ids = draw()
    image_embeds[7] = 3 * image_embeds[4]  # length does not matter
    text_embeds[9], text_embeds[30] = text_embeds[8], text_embeds[8]
    data = image_embeds.round(), text_embeds.round(), image_ids
    assert [ranks.tolist() for ranks in retrieval_ranks(*data)] == list(loop_ranks(*data))
    equal = retrieval_metrics(torch.ones(5, 3), torch.ones(10, 3), torch.arange(10) // 2)
    assert equal["text_to_image"]["mean_rank"] == 5 and equal["image_to_text"]["mean_rank"] == 9  # 8 wrong captions
    assert equal["text_to_image"]["recall_at_1"] == 0


def test_equal_vectors_tie_wherever_they_stand():
    vectors = torch.nn.functional.normalize(torch.randn(1, 384, generator=torch.Generator().manual_seed(1)), dim=-1)
    image_ranks, text_ranks = retrieval_ranks(vectors.repeat(97, 1), vectors.repeat(97, 1), torch.arange(97))
    assert image_ranks.tolist() == text_ranks.tolist() == [97] * 97


def test_metrics_are_those_of_the_ranks():
    # images on the axes; the text of image 0 points at image 1 first
    images = torch.eye(4)
    texts = torch.tensor([[0.5, 0.8, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0.9, 0.8, 0.7, 0.1], [0, 1, 0, 0]])
    found = retrieval_metrics(images, texts, torch.tensor([0, 1, 2, 3, 1]))
    ranks = np.array([2, 1, 1, 4, 1])
    assert retrieval_ranks(images, texts, torch.tensor([0, 1, 2, 3, 1]))[1].tolist() == ranks.tolist()
    assert found["text_to_image"] == {
        "recall_at_1": 0.6,
        "recall_at_5": 1.0,
        "recall_at_10": 1.0,
        "mean_rank": 1.8,
        "median_rank": 1.0,
        "queries": 5,
        "pool": 4,
    }
    assert (found["image_to_text"]["queries"], found["image_to_text"]["pool"]) == (4, 5)
    recalls = [found[way][f"recall_at_{k}"] for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    assert found["rsum"] == pytest.approx(100 * sum(recalls))
    json.dumps(found, allow_nan=False)


def test_groups_split_the_queries_and_not_the_pool():
    image_embeds, text_embeds, image_ids = draw()
    kinds = np.array(["cat", "dog", "sea"])[np.arange(len(image_embeds)) % 3]
    found = retrieval_metrics(image_embeds, text_embeds, image_ids, image_groups=kinds)
    image_ranks, text_ranks = (np.array(ranks) for ranks in loop_ranks(image_embeds, text_embeds, image_ids))
    assert list(found["groups"]) == ["cat", "dog", "sea"]
    for kind, group in found["groups"].items():
        ours, theirs = image_ranks[(kinds == kind) & (image_ranks > 0)], text_ranks[kinds[image_ids] == kind]
        assert group["image_to_text"]["mean_rank"] == pytest.approx(ours.mean())
        assert group["text_to_image"]["mean_rank"] == pytest.approx(theirs.mean())
        assert group["text_to_image"]["median_rank"] == np.median(theirs)
        assert (group["image_to_text"]["pool"], group["text_to_image"]["pool"]) == (61, 23)
        assert group["text_to_image"]["queries"] == len(theirs)
    languages = np.arange(61) % 2
    by_text = retrieval_metrics(image_embeds, text_embeds, image_ids, text_groups=languages)["groups"]
    assert by_text["1"]["text_to_image"]["mean_rank"] == pytest.approx(text_ranks[languages == 1].mean())
    assert list(by_text["1"]) == ["text_to_image"]


def test_the_table_always_tells_the_pool():
    data = draw()
    found = retrieval_metrics(*data, image_groups=["a", "b"] * 11 + ["a"])
    table = retrieval_table(found)
    assert table.splitlines()[0].startswith("| queries | group | number | pool | R@1 | R@5 | R@10 | mean rank |")
    low, high = found["intervals"]["text_to_image"]["recall_at_5"].values()
    assert f" ({low:.3f} to {high:.3f}) |" in table and low < found["text_to_image"]["recall_at_5"] < high
    assert "| text to image | all | 61 | 23 |" in table and "| image to text | all | " in table
    assert "| text to image | b | " in table and f"rsum {found['rsum']:.1f}" in table
    assert all(" 23 | " in line or " 61 | " in line for line in table.splitlines()[2:8])


@pytest.mark.parametrize("seed", range(2))
def test_intervals_equal_a_loop_over_resampled_images(seed, monkeypatch):
    monkeypatch.setattr(retrieval, "RESAMPLES", 40)
    image_embeds, text_embeds, image_ids = draw(seed=seed)
    image_ranks, text_ranks = loop_ranks(image_embeds, text_embeds, image_ids)
    recalls = []
    for counts in np.concatenate(list(resample_counts(40, 23, 0))):
        images = np.repeat(np.arange(23), counts.astype(int))
        ours = [image_ranks[image] for image in images if image_ranks[image]]
        theirs = [text_ranks[text] for image in images for text in np.flatnonzero(image_ids == image)]
        recalls.append([np.mean(np.array(ranks) <= k) for ranks in (ours, theirs) for k in (1, 5, 10)])
    low, high = np.percentile(recalls, [2.5, 97.5], axis=0)
    found = retrieval_metrics(image_embeds, text_embeds, image_ids)["intervals"]
    cells = [found[way][f"recall_at_{k}"] for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    np.testing.assert_allclose([cell["low"] for cell in cells], low)
    np.testing.assert_allclose([cell["high"] for cell in cells], high)
    rsum = np.percentile(100 * np.sum(recalls, axis=1), [2.5, 97.5])
    np.testing.assert_allclose([found["rsum"]["low"], found["rsum"]["high"]], rsum)


def test_what_cannot_be_ranked_is_named():
    image_embeds, text_embeds, image_ids = draw()
    broken = text_embeds.clone()
    broken[17, 2] = float("nan")
    with pytest.raises(ValueError, match=r"text_embeds must be finite, row 17 is not \(1 such row of 61\)\."):
        retrieval_metrics(image_embeds, broken, image_ids)
    with pytest.raises(ValueError, match=r"one width, got \(23, 6\) and \(61, 5\)"):
        retrieval_metrics(image_embeds, text_embeds[:, :5], image_ids)
    with pytest.raises(ValueError, match=r"image_ids must be \(61,\) whole numbers in 0\.\.22, got 23 in row 3"):
        retrieval_metrics(image_embeds, text_embeds, image_ids.index_fill(0, torch.tensor(3), 23))
    with pytest.raises(ValueError, match=r"image_ids must have shape \(61,\), got \(60,\)"):
        retrieval_metrics(image_embeds, text_embeds, image_ids[:60])
    with pytest.raises(ValueError, match="image_groups must have 23 values, got 2"):
        retrieval_metrics(image_embeds, text_embeds, image_ids, image_groups=["a", "b"])
    with pytest.raises(ValueError, match="there is nothing to rank: 0 images and 61 texts"):
        retrieval_metrics(image_embeds[:0], text_embeds, image_ids)
