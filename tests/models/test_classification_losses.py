"""The classification losses: what has no label counts nowhere, and labels that the model has not are named."""

from typing import Any

import pytest
import torch
from conftest import make_batch, without_dropout
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fusion_model import make_model

from hf_multimodal import FusionConfig, FusionForImageTextClassification, RobustFusionForImageTextClassification
from hf_multimodal.models.modeling_fusion import CLASSIFICATION_LOSSES, classification_loss

SINGLE, MULTI, REGRESSION = CLASSIFICATION_LOSSES
FAMILIES = [FusionForImageTextClassification, RobustFusionForImageTextClassification]
NAN = float("nan")
# What one entry of a label may be, with what stands for none.
ENTRIES: dict[str, Any] = {
    SINGLE: st.sampled_from([0, 1, 2, -100]),
    MULTI: st.sampled_from([0.0, 1.0, 0.25, -100.0, NAN]),
    REGRESSION: st.sampled_from([0.5, -100.0, 3.0, NAN]),
}


@st.composite
def problems(draw: Any, rows: Any) -> tuple[dict[str, Any], torch.Tensor]:
    """Fields of a configuration, and labels of which any may be missing."""
    problem_type = draw(st.sampled_from(list(CLASSIFICATION_LOSSES)))
    fields: dict[str, Any] = {"problem_type": problem_type, "num_labels": 3}
    if problem_type == SINGLE:
        fields["label_smoothing"] = draw(st.sampled_from([0.0, 0.2]))
    if problem_type != REGRESSION:
        fields["class_weights"] = draw(st.sampled_from([None, [1.0, 2.0, 0.5]]))
    count = draw(rows)
    entries = ENTRIES[problem_type]
    label = entries if problem_type == SINGLE else st.lists(entries, min_size=3, max_size=3)
    labels = torch.tensor(draw(st.lists(label, min_size=count, max_size=count)))
    return fields, labels if problem_type == SINGLE else labels.double()


def known_entries(labels: torch.Tensor, problem_type: str) -> list[list[int]]:
    """Of each row, which of its labels are there."""
    table = labels.reshape(len(labels), -1).tolist()
    missing = () if problem_type == REGRESSION else (-100,)
    return [[k for k, entry in enumerate(row) if entry == entry and entry not in missing] for row in table]


def by_hand(logits: torch.Tensor, labels: torch.Tensor, fields: dict[str, Any]) -> float:
    """The mean over the labelled rows of the mean over their known labels, one number after the other."""
    weights = fields.get("class_weights") or [1.0] * 3
    found = []
    for row, known in enumerate(known_entries(labels, fields["problem_type"])):
        values = []
        for k in known:
            if fields["problem_type"] == SINGLE:
                label, smoothing = int(labels[row]), fields["label_smoothing"]
                target = torch.full((3,), smoothing / 3, dtype=torch.double)
                target[label] += 1 - smoothing
                values.append(-weights[label] * (target * logits[row].log_softmax(-1)).sum().item())
                continue
            score, target_value = logits[row, k], labels[row, k].item()
            if fields["problem_type"] == REGRESSION:
                values.append((score.item() - target_value) ** 2)
                continue
            yes, no = score.sigmoid().log().item(), (-score).sigmoid().log().item()
            values.append(-weights[k] * target_value * yes - (1 - target_value) * no)
        found += [sum(values) / len(values)] if values else []
    return sum(found) / max(len(found), 1)


@settings(max_examples=300, deadline=None)
@given(problem=problems(st.integers(1, 6)), seed=st.integers(0, 99))
def test_any_pattern_of_labels_against_a_loop(problem, seed):
    fields, labels = problem
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(labels), 3, dtype=torch.double, generator=draw).requires_grad_()
    loss = classification_loss(logits, labels, FusionConfig(**fields))
    assert loss.dtype == torch.double
    assert loss.item() == pytest.approx(by_hand(logits.detach(), labels, fields), rel=1e-12, abs=1e-12)
    loss.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    for row, known in enumerate(known_entries(labels, fields["problem_type"])):
        unknown = [k for k in range(3) if k not in known] if labels.ndim > 1 else ([] if known else [0, 1, 2])
        assert not logits.grad[row, unknown].any()


MODELS: dict[Any, Any] = {}


def model_of(family: Any, problem_type: str) -> Any:
    """One model a family and problem type, in training mode and float64; its configuration is set as asked."""
    if (family, problem_type) not in MODELS:
        model = make_model(family=family, num_labels=3, problem_type=problem_type)
        MODELS[family, problem_type] = without_dropout(model).double().train()
    return MODELS[family, problem_type]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(problem=problems(st.just(4)), masks=st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_unlabelled_rows_change_neither_loss_nor_gradients(family, problem, masks):
    fields, labels = problem
    model = model_of(family, fields["problem_type"])
    for name, value in {"label_smoothing": 0.0, "class_weights": None, **fields}.items():
        if name != "num_labels":
            setattr(model.config, name, value)
    present, shown = (torch.tensor([[mask & 1, mask >> 1] for mask in part]) for part in (masks[:4], masks[4:]))
    batch = {**make_batch(), "modality_mask": present, "labels": labels}
    batch["pixel_values"] = batch["pixel_values"].double()
    if family is RobustFusionForImageTextClassification:
        batch["fusion_mask"] = shown
    rows = [row for row, known in enumerate(known_entries(labels, fields["problem_type"])) if known]
    found = []
    for part in (batch, {name: value[rows] for name, value in batch.items()}):
        model.zero_grad()
        if len(part["labels"]):
            loss = model(**part).loss
            loss.backward()
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            found.append((loss.item(), gradients))
            assert all(gradient.isfinite().all() for gradient in gradients)
    if len(found) == 1:  # nothing has a label
        assert found[0][0] == 0 and not any(gradient.any() for gradient in found[0][1])
        return
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12, abs=1e-12)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert (one - other).abs().max() <= 1e-10


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 3.0]])
@pytest.mark.parametrize("family", FAMILIES)
def test_four_rows_without_a_label_beside_four_with_one(family, weights, batch):
    model = make_model(family=family, class_weights=weights).eval()
    labels = torch.tensor([0, 1, 2, 0])
    loss = model(**batch, labels=labels).loss
    twice = {name: torch.cat([value, value]) for name, value in batch.items()}
    with_none = model(**twice, labels=torch.cat([labels, torch.full((4,), -100)])).loss
    assert with_none.item() == pytest.approx(loss.item(), abs=1e-6)
    nothing = model(**batch, labels=torch.full((4,), -100)).loss
    nothing.backward()
    assert nothing.item() == 0 and model.classifier.weight.grad.eq(0).all()


def test_numbers_of_a_regression_are_no_marks():
    logits, config = torch.zeros(2, 1), FusionConfig(num_labels=1)
    assert classification_loss(logits, torch.tensor([-100, 0]), config).item() == 5000
    assert classification_loss(logits, torch.tensor([NAN, 3.0]), config).item() == 9
    assert config.problem_type == "regression"


@pytest.mark.parametrize(
    ("problem_type", "labels", "message"),
    [
        (None, [0, 3], "the label of row 1 of the batch is 3, but the model has 3 classes, 0 to 2: num_labels or id2"),
        (SINGLE, [-100, -1], r"label of row 1 of the batch is -1, .* -100 marks a row without a label"),
        (SINGLE, [0.5, 1.0], "label of row 0 of the batch is 0.5, but the model has 3 classes"),
        (None, [0, 1, 2], r"single-label classification are \(batch,\), got \(3,\) for 2 rows"),
        (None, [[0, 1, 0]] * 2, r"\(batch,\), got \(2, 3\) for 2 rows: several labels an example are given as floats"),
        (
            None,
            [0.0, 1.0],
            r"multi-label classification are \(2, 3\), got \(2,\): numbers of classes are given as int",
        ),
        (None, [[0.0, 1.0]] * 2, r"are \(2, 3\), got \(2, 2\): num_labels or id2label of the model's configuration"),
        (MULTI, [[0.0, 1, 0], [0, 0, 2]], "label 2 of row 1 of the batch is 2.0, but multi-label targets lie between"),
        (REGRESSION, [0.0, 1.0], r"labels of regression are \(2, 3\), got \(2,\)"),
        (REGRESSION, [[0.0, 1.0]] * 3, r"labels of regression are \(2, 3\), got \(3, 2\)"),
    ],
)
def test_labels_that_do_not_fit_are_named(problem_type, labels, message):
    config = FusionConfig(num_labels=3, problem_type=problem_type)
    with pytest.raises(ValueError, match=message):
        classification_loss(torch.zeros(2, 3), torch.tensor(labels), config)
    assert config.problem_type == problem_type  # labels that do not fit decide nothing


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_names_the_label_that_it_has_not(family, batch):
    with pytest.raises(ValueError, match="label of row 2 of the batch is 3, but the model has 3 classes, 0 to 2"):
        make_model(family=family)(**batch, labels=torch.tensor([0, 1, 3, 0]))


def test_missing_labels_are_one_graph():
    torch.compiler.reset()
    compiled = torch.compile(classification_loss, backend="eager", fullgraph=True)
    config = FusionConfig(num_labels=3, problem_type=SINGLE, class_weights=[1.0, 2.0, 3.0])
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    for labels in ([0, 1, 2, 0], [-100, 1, -100, 2], [-100] * 4):
        expected = classification_loss(logits, torch.tensor(labels), config)
        torch.testing.assert_close(compiled(logits, torch.tensor(labels), config), expected)
    torch.compiler.reset()


@pytest.mark.parametrize("problem_type", CLASSIFICATION_LOSSES)
def test_no_label_is_looked_at_on_a_device(problem_type):
    """Tensors on the meta device hold nothing, so whatever would make a GPU wait raises on them."""
    single = problem_type == SINGLE
    weights = None if problem_type == REGRESSION else [1.0, 2.0, 3.0]
    config = FusionConfig(num_labels=3, problem_type=problem_type, class_weights=weights)
    labels = torch.zeros(4, dtype=torch.long) if single else torch.zeros(4, 3)
    readable = torch.ones(4, dtype=torch.bool, device="meta")
    assert classification_loss(torch.zeros(4, 3, device="meta"), labels.to("meta"), config, readable).shape == ()
