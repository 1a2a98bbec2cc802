"""Fitting the stack: what it may not lose to, what it recovers, and that the model then applies it."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import TEXT_CONFIGS, VISION_CONFIGS
from scipy.special import log_softmax, logsumexp

from hf_multimodal import (
    FusionForImageTextClassification,
    MultimodalProcessor,
    RobustFusionConfig,
    RobustFusionForImageTextClassification,
)
from hf_multimodal.data.counts import PRESENCE_PATTERNS
from hf_multimodal.data.presence import hide
from hf_multimodal.evaluation.plots import plot_missing_curve
from hf_multimodal.hub.tables import curve_table
from hf_multimodal.inference.missing_curve import missing_curve, predictions_by_presence
from hf_multimodal.inference.prediction import predict_dataset
from hf_multimodal.models.modeling_robust_fusion import KNOTS, Stack, log_odds
from hf_multimodal.synthetic.classification import make_controlled
from hf_multimodal.training.from_scratch import train_tokenizer, vision_part
from hf_multimodal.training.stacking import (
    common_scale,
    fit_classes,
    fit_labels,
    fit_scales,
    fit_stack,
    fit_values,
    prior_logits,
)


def nll(logits: np.ndarray, labels: np.ndarray) -> float:
    return -log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()


def test_the_stack_is_its_formula_written_as_a_loop():
    draw = np.random.default_rng(0)
    stack = Stack(num_labels=3).double()
    for name, (low, high) in {
        "weights": (0, 1),
        "temperatures": (0.3, 3),
        "scales": (0.5, 2),
        "prior": (-1, 1),
    }.items():
        buffer = getattr(stack, name)
        buffer.copy_(torch.from_numpy(draw.uniform(low, high, tuple(buffer.shape))))
    stack.knots.copy_(torch.from_numpy(np.sort(draw.uniform(-3, 3, (4, KNOTS)), axis=1)))
    heads, mask = draw.normal(size=(40, 3, 3)) * 2, draw.integers(0, 2, (40, 2))
    expected = np.empty((40, 3))
    buffers = {name: buffer.double().numpy() for name, buffer in stack.named_buffers()}
    for row, (image, text) in enumerate(mask):
        of = {name: buffer[image + 2 * text] for name, buffer in buffers.items() if name != "prior"}
        weighed = sum(of["weights"][head] * heads[row, head] for head in range(3)) / of["temperatures"]
        others = np.delete(weighed, weighed.argmax())
        sure = weighed.max() - logsumexp(others)
        scales = [np.interp(sure, of["knots"], of["scales"][:, label]) for label in range(3)]
        expected[row] = weighed * scales if image + text else buffers["prior"]
    answers = stack(torch.from_numpy(heads), torch.from_numpy(mask))
    assert {tuple(row) for row in mask} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    np.testing.assert_allclose(answers.numpy(), expected, rtol=1e-6)


def test_no_head_at_any_temperature_beats_the_stack():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 300)
    heads = draw.normal(size=(300, 3, 3)) * np.array([4.0, 1.0, 1.0])[:, None]
    heads[np.arange(300), 1, labels] += 1.0
    coefficients = fit_classes(heads, labels)[:, 0]
    stacked = nll(np.einsum("h,nhc->nc", coefficients, heads), labels)
    for head in range(3):
        for scale in (0.1, 0.3, 1.0, 3.0):
            prior = ((scale * np.eye(3)[head] - 1 / 3) ** 2).sum() / 600  # worth one row
            assert stacked <= nll(scale * heads[:, head], labels) + prior
    assert (coefficients >= 0).all() and coefficients[1] > 5 * coefficients[[0, 2]].max()


def test_the_true_temperature_is_found():
    draw = np.random.default_rng(1)
    logits = draw.normal(size=(20000, 1, 4)) * 2
    labels = (logits[:, 0] + draw.gumbel(size=(20000, 4))).argmax(axis=1)
    assert fit_classes(3 * logits, labels)[0, 0] == pytest.approx(1 / 3, rel=0.05)


def test_a_pattern_that_few_rows_show_learns_from_the_rest():
    draw = np.random.default_rng(3)

    def shown(rows):
        logits = draw.normal(size=(rows, 2, 3))
        return logits, (logits.mean(axis=1) / 2 + draw.gumbel(size=(rows, 3))).argmax(axis=1)

    many, few = shown(20000), shown(20)
    scale = common_scale([many, few])
    assert scale == pytest.approx(0.5, abs=0.03)
    pooled, alone = fit_classes(*few, scale=scale)[:, 0], fit_classes(*few)[:, 0]
    assert abs(pooled - 0.25).max() < 0.1 < abs(alone - 0.25).max()
    assert fit_classes(*many, scale=scale) == pytest.approx(fit_classes(*many), abs=0.01)  # many need no help
    larger = common_scale([(10 * many[0], many[1]), (10 * few[0], few[1])])
    assert fit_classes(10 * few[0], few[1], scale=larger)[:, 0] == pytest.approx(pooled / 10, rel=0.01)


def test_pooling_never_costs_what_one_head_alone_has():
    """An image head that says nothing, and that loudly, must not draw the text head down with it."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, 400)
    image, text = 4 * draw.normal(size=(2, 400, 4))
    text /= 2
    text[np.arange(400), labels] += 3
    heads = np.stack([(image + text) / 2, image, text], axis=1)
    coefficients = fit_classes(heads, labels, scale=common_scale([(heads, labels), (heads[:, :2], labels)]))[:, 0]
    stacked = nll(np.einsum("h,nhc->nc", coefficients, heads), labels)
    alone = fit_classes(heads[:, 2:], labels)[0, 0]
    assert stacked <= nll(alone * heads[:, 2], labels) + 1 / 400


def test_how_sure_an_answer_is_survives_float32():
    logits = torch.tensor([[40.0, 0.0, -1.0], [30.0, 0.0, -1.0]])
    assert log_odds(logits) == pytest.approx(log_odds(logits.double()), abs=1e-5)
    assert log_odds(logits)[0] - log_odds(logits)[1] == pytest.approx(10, abs=1e-5)


def test_a_few_right_answers_do_not_ask_for_endless_confidence():
    logits = np.array([[[3.0, 0.0], [2.0, 0.0]]] * 5)
    assert fit_classes(logits, np.zeros(5, dtype=int)).sum() < 2


def test_scales_mend_what_one_temperature_cannot():
    draw = np.random.default_rng(3)
    sure = draw.random(20000) < 0.5
    logits = draw.normal(size=(20000, 4)) * 0.3
    logits[np.arange(20000), 0] += np.where(sure, 4.0, 1.5)
    right = draw.random(20000) < np.where(sure, 0.95, 0.4)
    labels = np.where(right, logits.argmax(axis=1), (logits.argmax(axis=1) + draw.integers(1, 4, 20000)) % 4)
    fitted, fresh = slice(0, 10000), slice(10000, None)
    knots, scales = fit_scales(logits[fitted], labels[fitted])
    assert (np.diff(knots) > 0).all() and (scales > 0).all()
    stack = Stack(num_labels=4)
    stack.knots[3], stack.scales[3] = torch.from_numpy(knots), torch.from_numpy(scales[:, None])
    heads = torch.from_numpy(logits[fresh])[:, None].expand(-1, 3, -1)
    answers = stack(heads, torch.ones(10000, 2)).numpy()
    first = np.sort(logits[fresh], axis=1)
    odds = first[:, -1] - logsumexp(first[:, :-1], axis=1)
    by_hand = np.interp(odds, knots, scales)[:, None] * logits[fresh]
    assert answers == pytest.approx(by_hand, abs=1e-5)
    assert (answers.argmax(axis=1) == logits[fresh].argmax(axis=1)).all()
    one = fit_classes(logits[fitted][:, None], labels[fitted])[0, 0]
    assert nll(answers, labels[fresh]) < nll(one * logits[fresh], labels[fresh]) - 0.02
    confidence = np.exp(log_softmax(answers, axis=1).max(axis=1))
    for rows, wanted in ((sure[fresh], 0.95), (~sure[fresh], 0.4)):
        assert confidence[rows].mean() == pytest.approx(wanted, abs=0.02)


def test_scales_that_are_chance_are_left_out():
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(300, 3)) * draw.uniform(0.5, 3, size=(300, 1))
    labels = (logits + draw.gumbel(size=logits.shape)).argmax(axis=1)  # what these logits say
    knots, scales = fit_scales(logits, labels)
    assert (np.diff(knots) > 0).all() and (scales == 1).all()


def test_scales_of_logits_that_are_all_alike():
    knots, scales = fit_scales(np.array([[1.0, 0.0]] * 40), np.array([0, 1] * 20))
    assert len(knots) == len(scales) == KNOTS and (np.diff(knots) == 1).all()
    assert len(set(scales)) == 1 and 0 < scales[0] < 0.2


def test_labels_and_values_have_weights_of_their_own():
    draw = np.random.default_rng(2)
    heads = draw.normal(size=(5000, 2, 2))
    truth = np.stack([heads[:, 0, 0], heads[:, 1, 1]], axis=1)  # label 0 follows head 0, label 1 head 1
    labels = (draw.random((5000, 2)) < 1 / (1 + np.exp(-truth))).astype(float)
    assert fit_labels(heads, labels) == pytest.approx(np.eye(2), abs=0.12)
    blended = 0.25 * heads[:, 0] + 0.75 * heads[:, 1]
    assert fit_values(heads, blended) == pytest.approx(np.array([[0.25] * 2, [0.75] * 2]), abs=1e-4)


def test_priors():
    assert prior_logits([[1.0, 0.0]] * 8, "multi_label_classification", 2) == pytest.approx([np.log(9), -np.log(9)])
    assert prior_logits([1.0, 2.0], "regression", 1).tolist() == [1.5]
    assert logsumexp(prior_logits([0, 1, 1], "single_label_classification", 4)) == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def trained():
    """A model of random weights whose stack is fitted on rows of which some lack something."""
    rows = make_controlled("redundant", size=48)
    present = np.array([[1, 1], [1, 1], [1, 0], [0, 1]] * 12, dtype=bool)
    rows = hide(rows, present)
    tokenizer = train_tokenizer([text or "" for text in rows["text"]])
    _, image_processor = vision_part(None)
    image_processor.size = {"height": 32, "width": 32}
    text = TEXT_CONFIGS["bert"]()
    text.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    config = RobustFusionConfig(
        vision_config=VISION_CONFIGS["vit"](),
        text_config=text,
        hidden_size=16,
        num_labels=4,
        problem_type="single_label_classification",
    )
    model = RobustFusionForImageTextClassification(config)
    processor = MultimodalProcessor(image_processor, tokenizer)
    fit_stack(model, processor, rows, [0, 0, 0, 1, 2, 3], batch_size=16)
    return model, processor, rows, present


def test_heads_that_were_not_trained_have_no_weight(trained):
    model, processor, rows, _ = trained
    config = type(model.config)(**{**model.config.to_dict(), "unimodal_loss_weight": 0.0})
    other = type(model)(config)
    fit_stack(other, processor, rows, [0, 1, 2, 3], batch_size=16)
    assert other.stack.weights[1:, 0] == pytest.approx(torch.ones(3, 4)) and not other.stack.weights[1:, 1:].any()


def test_what_fit_stack_refuses(trained):
    model, processor, rows, _ = trained
    unlabelled = rows.remove_columns("label").add_column("label", [0] * 47 + [None])
    for given, prior, message in (
        (unlabelled, [0, 1], "1 rows of dataset have no label, such as row 47"),
        (rows, [0, -100], "1 rows of prior_labels have no label, such as row 1"),
        (rows.select([]), [0, 1], "needs labelled validation rows"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_stack(model, processor, given, prior)
    with pytest.raises(ValueError, match="Linear has no stack"):
        fit_stack(torch.nn.Linear(2, 2), processor, rows, [0, 1])


def test_a_head_that_reads_what_is_missing_has_no_weight(trained):
    weights = trained[0].stack.weights[..., 0]
    assert weights[1, 2] == weights[2, 1] == 0
    assert weights[1:].sum(dim=1) == pytest.approx(torch.ones(3), abs=1e-5)
    assert (weights >= 0).all()


def test_the_model_applies_what_was_fitted(trained):
    model, processor, rows, present = trained
    complete = rows.select(np.flatnonzero(present.all(axis=1)))
    stacked = predict_dataset(model, processor, complete).metrics()["nll"]
    before = {name: buffer.clone() for name, buffer in model.stack.named_buffers()}
    for head in range(3):
        model.stack.weights[3] = torch.eye(3)[head][:, None]
        model.stack.temperatures[3] = 1.0
        assert stacked <= predict_dataset(model, processor, complete).metrics()["nll"] + 1e-6
    for name, value in before.items():
        getattr(model.stack, name).copy_(value)
    nothing = hide(rows, np.zeros((48, 2), dtype=bool))
    answers = predict_dataset(model, processor, nothing).probabilities
    assert answers == pytest.approx(np.tile([0.4, 0.2, 0.2, 0.2], (48, 1)), abs=1e-6)


@pytest.mark.parametrize("fusion", ["concat", "cross_attention"])
@pytest.mark.parametrize("family", [FusionForImageTextClassification, RobustFusionForImageTextClassification])
def test_predictions_by_presence_are_those_to_rows_without_the_rest(trained, family, fusion):
    model, processor, rows, present = trained
    fields = {**model.config.to_dict(), "fusion": fusion, "architectures": None}
    fields = {
        name: value
        for name, value in fields.items()
        if name in {f.name for f in dataclasses.fields(family.config_class)}
    }
    torch.manual_seed(1)
    model = family(family.config_class(**fields)).eval()
    found = predictions_by_presence(model, processor, rows, tuple(PRESENCE_PATTERNS), batch_size=10)
    for pattern, answers in found.items():
        alone = predict_dataset(model, processor, hide(rows, present & PRESENCE_PATTERNS[pattern]), batch_size=7)
        assert answers.ids == alone.ids and (answers.labels == alone.labels).all()
        np.testing.assert_allclose(answers.probabilities, alone.probabilities, atol=1e-6)
        assert (answers.has_image == alone.has_image).all() and (answers.has_text == alone.has_text).all()


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("multi_label_classification", [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
        ("regression", [0.5, -1.0, 2.0, 0.0]),
    ],
)
def test_other_problem_types_from_fit_to_curve(trained, problem_type, labels):
    _, processor, rows, present = trained
    width = 3 if problem_type == "multi_label_classification" else 1
    text = TEXT_CONFIGS["bert"]()
    text.vocab_size = len(processor.tokenizer)
    config = RobustFusionConfig(
        vision_config=VISION_CONFIGS["vit"](),
        text_config=text,
        hidden_size=16,
        num_labels=width,
        problem_type=problem_type,
    )
    model = RobustFusionForImageTextClassification(config)
    rows = rows.remove_columns("label").add_column("label", labels * 12)
    fit_stack(model, processor, rows, labels, batch_size=16)
    total = model.stack.weights[1:].sum(dim=1)
    assert total.shape == (3, width)
    assert ((total - 1).abs().le(1e-4) | total.eq(0)).all()  # 0 where the heads of random weights say nothing
    points = missing_curve([predictions_by_presence(model, processor, rows)], present)
    metric = "nll" if width == 3 else "mse"
    assert len(points) == 21 and all(np.isfinite(point[metric]["mean"]) for point in points)
    assert len(plot_missing_curve(points).axes[1].lines) == 3
    assert f" {metric} |" in curve_table(points)
