"""Every entry of `LOSSES` against a plain loop, and those of CLIP and SigLIP against transformers' own."""

import math

import pytest
import torch
import transformers as hf
from conftest import PATCHES, TEXT

from hf_multimodal.models.configuration_aligner import AlignerConfig
from hf_multimodal.models.contrastive_losses import LOSSES, TRIPLET_MININGS, loss_both_ways
from hf_multimodal.models.modeling_aligner import Scaling

CASES = [(name, mining) for name in LOSSES for mining in (TRIPLET_MININGS if name == "triplet" else ["hard"])]
COMPLETE = torch.tensor([True, True, False, True, True, True, True])
SCALE, BIAS = 2.0, -0.5


def make_pairs(seed: int = 0):
    """Cosines of seven pairs, of which the third is incomplete and the last two show one picture."""
    draw = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(7, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    image[6] = image[5]
    image, text = torch.nn.functional.normalize(image + 0.5 * text), torch.nn.functional.normalize(text)
    ids = torch.tensor([0, 1, 2, 3, 4, 5, 5])
    negative = (ids[:, None] != ids) & COMPLETE[:, None] & COMPLETE
    return image @ text.T, negative


def both_ways(name, similarity, logits, complete, negative, config):
    """A loss over all pairs, from images and from texts."""
    views = ((similarity, logits, negative), (similarity.T, logits.T, negative.T))
    costs = [LOSSES[name](s, z, complete, others, config) for s, z, others in views]
    return sum(total / count.clamp(min=1) for total, count in costs) / 2


def infonce(s, match, others, margin, mining):
    logits = [SCALE * s[o] + BIAS for o in [match, *others]]
    return torch.stack(logits).exp().sum().log() - logits[0]


def triplet(s, match, others, margin, mining):
    return [torch.clamp(margin - s[match] + s[o], min=0) for o in mined(s, match, others, mining)]


def mined(s, match, others, mining):
    if mining == "semi_hard":
        others = [o for o in others if s[o] < s[match]]
    if mining != "all" and others:
        others = [max(others, key=lambda o: s[o].item())]
    return others


def by_loop(name, mining, similarity, negative, margin):
    """The loss from its definition, an anchor at a time."""
    anchors, costs = [i for i in range(7) if COMPLETE[i]], []
    for s, is_negative in ((similarity, negative), (similarity.T, negative.T)):
        for i in anchors:
            others = [j for j in range(7) if is_negative[i, j]]
            if name == "infonce":
                costs.append(infonce(s[i], i, others, margin, mining))
            elif name == "triplet" and mining == "all":
                costs.append([c for c in triplet(s[i], i, others, margin, mining) if c > 0])
            elif name == "triplet":
                costs.append(sum(triplet(s[i], i, others, margin, mining), torch.zeros(())))
            elif name == "margin_ranking":
                costs.append(sum(torch.clamp(margin - s[i, i] + s[i, j], min=0) for j in others))
            elif name == "sigmoid":
                pairs = [(i, 1)] + [(j, -1) for j in others]
                costs.append(-sum(torch.log(torch.sigmoid(z * (SCALE * s[i, j] + BIAS))) for j, z in pairs))
            elif name == "contrastive_pair":
                distance = {j: torch.sqrt(2 - 2 * s[i, j]) for j in [i, *others]}
                push = sum(torch.clamp(margin - distance[j], min=0) ** 2 / 2 for j in others)
                costs.append(distance[i] ** 2 / 2 + push)
    if name == "triplet" and mining == "all":
        half = len(anchors)
        ways = [[c for cost in way for c in cost] for way in (costs[:half], costs[half:])]
        return sum(sum(way) / len(way) for way in ways) / 2
    return sum(costs) / len(costs)


@pytest.mark.parametrize(("name", "mining"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_equal_a_plain_loop(name, mining, seed):
    similarity, negative = make_pairs(seed)
    config = AlignerConfig(loss=name, triplet_mining=mining, margin=1.5 if name == "contrastive_pair" else 0.3)
    results = []
    for by_hand in (False, True):
        leaf = similarity.clone().requires_grad_()
        if by_hand:
            value = by_loop(name, mining, leaf, negative, config.margin)
        else:
            value = both_ways(name, leaf, SCALE * leaf + BIAS, COMPLETE, negative, config)
        value.backward()
        results.append((value.detach(), leaf.grad))
    assert results[1][0] > 0
    torch.testing.assert_close(*[value for value, _ in results], rtol=0, atol=1e-12)
    torch.testing.assert_close(*[gradient for _, gradient in results], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "mining"), CASES)
@pytest.mark.parametrize("cells", [1, 21, 28, 10_000])  # one row at a time, three, four, all
def test_some_rows_at_a_time_give_the_value_and_the_gradients_of_all(name, mining, cells):
    draw = torch.Generator().manual_seed(1)
    sides = [torch.randn(7, 3, generator=draw, dtype=torch.float64) for _ in range(2)]
    ids = torch.tensor([0, 1, 2, 3, 4, 5, 5])
    config = AlignerConfig(loss=name, triplet_mining=mining, margin=1.0)
    results, rows_seen = [], []

    def loss(similarity, *args):
        rows_seen.append(len(similarity))
        return LOSSES[name](similarity, *args)

    for held in (None, cells):
        images, texts = (torch.nn.functional.normalize(side).requires_grad_() for side in sides)
        scaling = Scaling(config).double()
        value = loss_both_ways(loss, images, texts, scaling, COMPLETE, ids, config, held)
        learned = (images, texts, *scaling.parameters())
        gradients = torch.autograd.grad(3 * value, learned, allow_unused=True)
        results.append((value.detach(), gradients))
    assert max(rows_seen[2:]) == min(7, max(1, cells // 7)) and results[0][0] > 0
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "mining"), CASES)
def test_incomplete_pairs_and_captions_of_one_picture_are_not_read(name, mining):
    similarity, negative = make_pairs()
    similarity.requires_grad_()
    config = AlignerConfig(loss=name, triplet_mining=mining, margin=2.0)
    value = both_ways(name, similarity, SCALE * similarity, COMPLETE, negative, config)
    value.backward()
    assert similarity.grad[2].abs().sum() == similarity.grad[:, 2].abs().sum() == 0
    assert similarity.grad[5, 6] == similarity.grad[6, 5] == 0
    assert (similarity.grad.diagonal() <= 0).all() and similarity.grad.diagonal().any()


@pytest.mark.parametrize(("name", "mining"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_without_a_complete_pair_gives_zero(name, mining, dtype):
    similarity = make_pairs()[0].to(dtype).requires_grad_()
    nothing = torch.zeros(7, 7, dtype=torch.bool)
    config = AlignerConfig(loss=name, triplet_mining=mining)
    value = both_ways(name, similarity, 100 * similarity, nothing[0], nothing, config)
    value.backward()
    assert value == 0 and similarity.grad.abs().sum() == 0


@pytest.mark.parametrize(("name", "mining"), CASES)
def test_equal_embeddings_give_finite_gradients(name, mining):
    similarity = torch.ones(4, 4, requires_grad=True)
    negative, complete = ~torch.eye(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)
    config = AlignerConfig(loss=name, triplet_mining=mining)
    both_ways(name, similarity, 100 * similarity, complete, negative, config).backward()
    assert similarity.grad.isfinite().all()


@pytest.mark.parametrize("name", ["infonce", "sigmoid"])
def test_clip_and_siglip_have_the_same_loss(name):
    text = {**TEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    if name == "infonce":
        model = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=PATCHES, projection_dim=8))
    else:
        model = hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=PATCHES))
    model = model.double().eval()
    inputs = {"input_ids": torch.randint(3, 60, (5, 6)), "pixel_values": torch.randn(5, 3, 32, 32).double()}
    output = model(**inputs, return_loss=True)
    logits, theirs = output.logits_per_image, output.loss
    complete = torch.ones(5, dtype=torch.bool)
    negative = ~torch.eye(5, dtype=torch.bool)
    ours = both_ways(name, torch.zeros(5, 5), logits, complete, negative, AlignerConfig())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = [
        torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in (ours, theirs)
    ]
    assert sum(gradient is not None for gradient in gradients[0]) > 20
    for mine, other in zip(*gradients, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "clip"}, r"loss must be one of \['infonce', 'sigmoid', .*\], got 'clip'"),
        ({"projection": "none"}, r"projection must be one of \['linear', 'mlp'\], got 'none'"),
        ({"triplet_mining": "easy"}, r"triplet_mining must be one of \['semi_hard', 'all', 'hard'\], got 'easy'"),
        ({"margin": 0}, "margin must be more than 0, got 0"),
    ],
)
def test_every_choice_of_the_config_is_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        AlignerConfig(**fields)


@pytest.mark.parametrize("name", ["hidden_size", "projection_dim"])
def test_the_width_has_two_names(name, tmp_path):
    config = AlignerConfig(**{name: 48})
    config.save_pretrained(tmp_path)
    for one in (config, AlignerConfig.from_pretrained(tmp_path)):
        assert one.hidden_size == one.projection_dim == 48
    assert '"hidden_size"' not in (tmp_path / "config.json").read_text()
    assert math.isclose(AlignerConfig.from_pretrained(tmp_path, **{name: 32}).projection_dim, 32)
