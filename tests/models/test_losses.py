"""Every entry of `LOSSES` against a plain loop, those of CLIP and SigLIP against transformers' own; what they hold."""

import math

import pytest
import torch
import transformers as hf
from conftest import PATCHES, TEXT
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_multimodal.models import losses
from hf_multimodal.models.configuration_vision_text import AlignerConfig
from hf_multimodal.models.losses import LOSSES, SCALED_LOSSES, TRIPLET_MININGS, Pairs

CASES = [(name, mining) for name in LOSSES for mining in (TRIPLET_MININGS if name == "triplet" else ["hard"])]
COMPLETE = torch.tensor([True, True, False, True, True, True, True])
IDS = torch.tensor([0, 1, 2, 3, 4, 5, 5])
SCALE, BIAS = 2.0, -0.5


def make_pairs(seed: int = 0):
    """Cosines of seven pairs, of which the third is incomplete and the last two show one image."""
    draw = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(7, 3, generator=draw, dtype=torch.float64) for _ in range(2))
    image[6] = image[5]
    image, text = torch.nn.functional.normalize(image + 0.5 * text), torch.nn.functional.normalize(text)
    negative = (IDS[:, None] != IDS) & COMPLETE[:, None] & COMPLETE
    return image @ text.T, negative


def both_ways(name, similarity, logits, complete, image_ids, config, cells=None):
    """A loss of given similarities: those of the rows of a matrix with the rows of the unit matrix."""
    rows = logits if name in SCALED_LOSSES else similarity
    eye, one = torch.eye(len(rows), dtype=rows.dtype), torch.ones((), dtype=rows.dtype)
    return LOSSES[name](Pairs(rows, eye, one, None, complete, image_ids, cells), config)


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
            value = both_ways(name, leaf, SCALE * leaf + BIAS, COMPLETE, IDS, config)
        value.backward()
        results.append((value.detach(), leaf.grad))
    assert results[1][0] > 0
    torch.testing.assert_close(*[value for value, _ in results], rtol=0, atol=1e-12)
    torch.testing.assert_close(*[gradient for _, gradient in results], rtol=0, atol=1e-12)


def make_embeddings(count: int = 7, seed: int = 1) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    sides = [torch.randn(count, 3, generator=draw, dtype=torch.float64) for _ in range(2)]
    return [torch.nn.functional.normalize(side).requires_grad_() for side in sides]


def make_scalars(name: str) -> list[torch.Tensor]:
    """Scale, and bias where the loss has one."""
    count = {"infonce": 1, "sigmoid": 2}.get(name, 1)
    return [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (9.0, -2.0)[:count]]


@pytest.mark.parametrize(("name", "mining"), CASES)
@pytest.mark.parametrize("cells", [1, 9, 28, 10_000])  # squares of 1, 3, 5 and 7; 1, 4 and 7 rows
@pytest.mark.parametrize("masks", [(None, None), (COMPLETE, None), (None, IDS), (COMPLETE, IDS)])
def test_some_similarities_at_a_time_give_the_value_and_the_gradients_of_all(name, mining, cells, masks):
    config = AlignerConfig(loss=name, triplet_mining=mining, margin=1.0)
    results = []
    for held in (None, cells):
        learned = [*make_embeddings(), *make_scalars(name)]
        images, texts, scale, *bias = learned
        value = LOSSES[name](Pairs(images, texts, scale, *(bias or [None]), *masks, held), config)
        results.append((value.detach(), torch.autograd.grad(3 * value, learned, allow_unused=True)))
    assert results[0][0] > 0
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCALED_LOSSES)
@pytest.mark.parametrize("masks", [(None, None), (COMPLETE, IDS)])
@pytest.mark.parametrize("cells", [None, 9])
def test_the_gradient_by_hand_is_the_slope(name, masks, cells):
    def value(images, texts, scale, bias=None):
        return LOSSES[name](Pairs(images, texts, scale, bias, *masks, cells), AlignerConfig())

    assert torch.autograd.gradcheck(value, [*make_embeddings(), *make_scalars(name)])
    learned = [*make_embeddings(), *make_scalars(name)]
    with pytest.raises(
        RuntimeError, match="infonce and sigmoid have no second derivative; leave create_graph=True out"
    ):
        torch.autograd.grad(value(*learned), learned, create_graph=True)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves(result) if isinstance(one, torch.Tensor)]
        self.found = max([self.found, *(one.untyped_storage().nbytes() // one.itemsize for one in tensors)])
        return result


@pytest.mark.parametrize(("name", "mining"), CASES)
@pytest.mark.parametrize("masked", [False, True])
def test_no_more_similarities_than_asked_for_are_held(name, mining, masked):
    config = AlignerConfig(loss=name, triplet_mining=mining)
    masks = (torch.arange(30) > 1, torch.arange(30) // 2) if masked else (None, None)
    for cells, most in ((None, 900), (64, 90)):  # the embeddings have 90 elements
        images, texts = make_embeddings(30)
        scale, *bias = make_scalars(name)
        with Largest() as largest:
            LOSSES[name](Pairs(images, texts, scale, *(bias or [None]), *masks, cells), config).backward()
        assert largest.found == most


class Products(TorchDispatchMode):
    """How often logits are computed."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found += func is torch.ops.aten.mm.default
        return func(*args, **(kwargs or {}))


def test_logits_beyond_what_is_kept_are_computed_again(monkeypatch):
    results = []
    for kept in (2**24, 20, 9):
        monkeypatch.setattr(losses, "KEPT", kept)
        monkeypatch.setattr(losses, "SIDE", 3)
        images, texts = make_embeddings()
        with Products() as products:
            value = LOSSES["infonce"](Pairs(images, texts, torch.tensor(9.0)), None)
            value.backward()
        results.append((products.found, value.detach(), images.grad, texts.grad))
    assert [found for found, *_ in results] == [9, 16, 17]
    for result in results[1:]:
        torch.testing.assert_close(result[1:], results[0][1:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCALED_LOSSES)
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_large_logits_lose_nothing(name, scale):
    """Where all of a row lies far below the rest, and where float32 cannot tell 1 from a probability."""
    images, texts = make_embeddings(9)
    with torch.no_grad():
        texts[3], texts[5] = -images[3], images[5]
        images[7], images[8] = -texts[0], texts[0]
    results = []
    for dtype in (torch.float64, torch.float32):
        sides = [side.detach().to(dtype).requires_grad_() for side in (images, texts)]
        value = LOSSES[name](Pairs(*sides, torch.tensor(scale, dtype=dtype), cells=16), None)
        value.backward()
        results.append([value.detach().double(), *(side.grad.double() for side in sides)])
    logits = (scale * images @ texts.T).detach()
    match = torch.arange(9)
    expected = (
        torch.nn.functional.cross_entropy(logits, match) + torch.nn.functional.cross_entropy(logits.T, match)
    ) / 2
    if name == "sigmoid":
        expected = -torch.nn.functional.logsigmoid(logits * (2 * torch.eye(9) - 1)).sum() / 9
    torch.testing.assert_close(results[0][0], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("name", "mining"), CASES)
def test_incomplete_pairs_and_captions_of_one_image_are_not_read(name, mining):
    similarity, _ = make_pairs()
    similarity.requires_grad_()
    config = AlignerConfig(loss=name, triplet_mining=mining, margin=2.0)
    value = both_ways(name, similarity, SCALE * similarity, COMPLETE, IDS, config)
    value.backward()
    assert similarity.grad[2].abs().sum() == similarity.grad[:, 2].abs().sum() == 0
    assert similarity.grad[5, 6] == similarity.grad[6, 5] == 0
    assert (similarity.grad.diagonal() <= 0).all() and similarity.grad.diagonal().any()


@pytest.mark.parametrize(("name", "mining"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_without_a_complete_pair_gives_zero(name, mining, dtype):
    similarity = make_pairs()[0].to(dtype).requires_grad_()
    nothing = torch.zeros(7, dtype=torch.bool)
    config = AlignerConfig(loss=name, triplet_mining=mining)
    value = both_ways(name, similarity, 100 * similarity, nothing, IDS, config)
    value.backward()
    assert value == 0 and similarity.grad.abs().sum() == 0


@pytest.mark.parametrize(("name", "mining"), CASES)
def test_equal_embeddings_give_finite_gradients(name, mining):
    similarity = torch.ones(4, 4, requires_grad=True)
    config = AlignerConfig(loss=name, triplet_mining=mining)
    both_ways(name, similarity, 100 * similarity, None, None, config).backward()
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
    ours = both_ways(name, torch.zeros(5, 5), logits, None, None, AlignerConfig())
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
