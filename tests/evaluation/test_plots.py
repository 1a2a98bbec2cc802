"""What is drawn: lines, cells, bars, images and words, read from the figures."""

import logging
import sys
import warnings

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from hf_multimodal.evaluation import fonts
from hf_multimodal.evaluation.plots import plot_confusion, plot_history, plot_missing_curve, plot_prediction

CHINESE = "这是一个测试：今天的天气真好，我们去公园看花。"
HISTORY = [
    {"loss": 1.0, "learning_rate": 1e-3, "epoch": 0.5, "step": 5},
    {"loss": 0.8, "epoch": 1.0, "step": 10},
    {
        "eval_loss": 0.95,
        "eval_nll": 0.9,
        "eval_accuracy": 0.6,
        "eval_majority_accuracy": 0.55,
        "epoch": 1.0,
        "step": 10,
    },
    {"loss": 0.5, "epoch": 2.0, "step": 20},
    {
        "eval_loss": 0.99,
        "eval_nll": 1.1,
        "eval_accuracy": 0.7,
        "eval_majority_accuracy": 0.55,
        "epoch": 2.0,
        "step": 20,
    },
    {"train_runtime": 9.0, "train_loss": 0.7, "epoch": 2.0, "step": 20},
    {"eval_nll": 0.9, "eval_accuracy": 0.6, "epoch": 2.0, "step": 20},  # the best checkpoint, evaluated at the end
]


def lines_of(axes):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def names_on(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def pixels(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def needs_chinese_font():
    if len(fonts.families_for(CHINESE)) == 1:
        pytest.skip("no font with Chinese characters: install one, or the extra `cjk`")


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def same_quantity(log):
    """The log of a model whose validation loss is the NLL, as half precision rounds it."""
    return [{**entry, "eval_loss": entry["eval_nll"] * 1.004} if "eval_nll" in entry else entry for entry in log]


def test_history_draws_the_log():
    figure = plot_history(same_quantity(HISTORY))
    assert titles(figure) == ["Loss", "Validation scores"]
    left, right = figure.axes
    assert lines_of(left) == {
        "training loss": ([0.5, 1.0, 2.0], [1.0, 0.8, 0.5]),
        "validation NLL": ([1.0, 2.0], [0.9, 1.1]),
        "lowest, epoch 1": ([1.0, 1.0], [0, 1]),
    }
    assert lines_of(right) == {
        "accuracy": ([1.0, 2.0], [0.6, 0.7]),
        "majority class": ([0, 1], [0.55, 0.55]),
    }
    assert [text.get_text() for text in right.get_legend().get_texts()] == list(lines_of(right))
    assert left.get_xlabel() == "epoch"


def test_history_draws_another_training_loss_apart():
    figure = plot_history(HISTORY)  # its eval_loss is not its eval_nll
    assert titles(figure) == ["Training loss", "Validation NLL", "Validation scores"]
    assert [list(lines_of(axes)) for axes in figure.axes] == [
        ["training loss"],
        ["validation NLL", "lowest, epoch 1"],
        ["accuracy", "majority class"],
    ]
    assert figure.axes[0].get_legend() is None  # its title says it
    unknown = [{name: value for name, value in entry.items() if name != "eval_loss"} for entry in HISTORY]
    assert titles(plot_history(unknown)) == titles(figure)


def test_history_of_a_regression_and_of_nothing():
    log = [{"eval_mse": 2.0, "eval_r2": 0.1, "epoch": 1.0}, {"eval_mse": 1.0, "eval_r2": 0.4, "epoch": 2.0}]
    figure = plot_history(log)
    left, right = figure.axes
    assert titles(figure) == ["Validation squared error", "Validation scores"]
    assert lines_of(left)["validation squared error"] == ([1.0, 2.0], [2.0, 1.0])
    assert lines_of(right) == {"R²": ([1.0, 2.0], [0.1, 0.4])}
    assert [axes.texts[0].get_text() for axes in plot_history([]).axes] == ["nothing logged"]
    assert titles(plot_history([{"loss": 1.0, "epoch": 1.0}])) == ["Training loss"]


def test_history_of_an_aligner_shows_both_recalls():
    log = [{"loss": 3.0 - epoch, "epoch": float(epoch)} for epoch in (1, 2)]
    recalls = {"eval_rsum": 90.0, "eval_image_to_text_recall_at_1": 0.3, "eval_text_to_image_recall_at_1": 0.2}
    figure = plot_history([*log, {**recalls, "epoch": 2.0}])
    assert titles(figure) == ["Training loss", "Validation scores"]
    assert list(lines_of(figure.axes[1])) == ["R@1, image to text", "R@1, text to image"]


@pytest.mark.parametrize(
    ("last", "ticks"),
    [(1, [0, 1]), (2.5, [0, 1, 2]), (3, [0, 1, 2, 3]), (20, [0, 5, 10, 15, 20]), (100, [0, 20, 40, 60, 80, 100])],
)
def test_history_has_whole_epochs_and_no_others(last, ticks):
    log = [{"loss": 1.0, "epoch": last / 2}, {"eval_nll": 0.9, "eval_accuracy": 0.6, "epoch": last}]
    for axes in plot_history(log).axes:
        assert axes.get_xticks().tolist() == ticks and axes.get_xlim() == (0, last)
        assert names_on(axes.xaxis) == list(map(str, ticks))


def test_history_of_less_than_an_epoch_is_drawn_by_step():
    log = [{"loss": 1.0, "epoch": 0.2, "step": 10}, {"loss": 0.9, "eval_nll": 0.9, "epoch": 0.4, "step": 20}]
    for axes in plot_history(log).axes:
        assert axes.get_xlabel() == "step" and axes.get_xticks().tolist() == [0, 5, 10, 15, 20]
    assert "lowest, step 20" in lines_of(axes)


def test_history_axes_end_where_values_can():
    scores = {"eval_accuracy": 1.0, "eval_macro_f1": 0.98, "eval_nll": 0.001, "eval_loss": 0.001}
    figure = plot_history([{"loss": 0.02, "epoch": 1.0}, {**scores, "epoch": 1.0}])
    loss, score = (axes.get_ylim() for axes in figure.axes)
    assert loss[0] == 0 and loss[1] > 0.02 and score[1] == 1 and 0.97 < score[0] < 0.98
    alone = plot_history([{"eval_accuracy": 0.6, "eval_nll": 0.9, "epoch": 1.0}])  # one value has no range
    assert [axes.get_ylim()[0] for axes in alone.axes] == [0, 0] and alone.axes[1].get_ylim()[1] == 1
    negative = plot_history([{"eval_r2": -0.5, "epoch": 1.0}, {"eval_r2": 0.5, "epoch": 2.0}]).axes[0]
    assert negative.get_ylim()[0] < -0.5 and negative.get_ylim()[1] < 1


def curve(over, count, *metrics):
    summary = {"count": count, "over": over, **{name: {"mean": 0.9, "sd": 0.02} for name in metrics}}
    return [
        {"missing": which, "rate": rate, **summary}
        for which in ("image", "text", "both")
        for rate in (0.0, 0.1, 0.5, 1.0)
    ]


@pytest.mark.parametrize(
    ("over", "count", "said"),
    [
        ("draws", 5, "5 draws of which rows lack something"),
        ("runs", 3, "3 runs, each the mean over draws of which rows lack something"),
    ],
)
def test_missing_curve_says_what_its_band_is(over, count, said):
    figure = plot_missing_curve(curve(over, count, "accuracy", "macro_f1", "majority_accuracy", "nll"))
    assert figure.get_supxlabel() == f"line and band: mean and one standard deviation over {said}"
    score, loss = figure.axes
    assert (score.get_ylabel(), loss.get_ylabel()) == ("accuracy", "NLL")
    assert [len(axes.collections) for axes in figure.axes] == [3, 3]
    assert list(lines_of(score)) == ["no image", "no text", "half no image, half no text", "majority class"]
    for axes in figure.axes:
        assert names_on(axes.xaxis) == ["0", "10", "50", "100"] and axes.get_xlim() == (0, 100)
    assert score.get_ylim()[1] <= 1


def test_missing_curve_of_one_metric_has_one_panel():
    assert [axes.get_ylabel() for axes in plot_missing_curve(curve("draws", 5, "r2")).axes] == ["R²"]


def test_confusion_shows_counts_and_colours_rows():
    figure = plot_confusion([[6, 2], [0, 0]], ["cat", "dog"])
    axes = figure.axes[0]
    assert axes.images[0].get_array().tolist() == [[0.75, 0.25], [0.0, 0.0]]
    assert axes.images[0].get_clim() == (0, 1)
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "6",
        (1, 0): "2",
        (0, 1): "0",
        (1, 1): "0",
    }
    assert axes.texts[0].get_color() == "white" and axes.texts[1].get_color() != "white"
    assert names_on(axes.xaxis) == names_on(axes.yaxis) == ["cat", "dog"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")


def test_confusion_of_thirty_long_names_stays_legible():
    names = [f"class number {k} with the same long ending" for k in range(30)]
    axes = plot_confusion(np.eye(30, dtype=int) * 1000, names).axes[0]
    shown = names_on(axes.yaxis)
    assert len(set(shown)) == 30  # cut names that became equal are told apart
    assert max(map(fonts.ems, shown)) < 17
    assert min(text.get_fontsize() for text in axes.texts) > 6
    assert axes.get_xticklabels()[0].get_rotation() == 40


def test_confusion_refuses_another_shape():
    with pytest.raises(ValueError, match=r"matrix must have shape \(3, 3\) for 3 classes, got \(2, 2\)"):
        plot_confusion([[1, 0], [0, 1]], ["a", "b", "c"])


def test_prediction_shows_image_text_class_and_bars():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8))
    figure = plot_prediction(image, "costs $5 or $6_a", ["no", "maybe", "yes"], [0.1, 0.2, 0.7])
    shown, bars, words = figure.axes
    assert np.array_equal(shown.images[0].get_array(), np.asarray(image))
    assert [bar.get_width() for bar in bars.patches] == [0.7, 0.2, 0.1]
    assert names_on(bars.yaxis) == ["yes", "maybe", "no"]
    assert [text.get_text() for text in bars.texts] == ["0.700", "0.200", "0.100"]
    assert bars.get_ylim()[0] > bars.get_ylim()[1]  # the first bar is on top
    assert bars.get_xticks().tolist() == [0, 0.25, 0.5, 0.75, 1] and bars.spines["bottom"].get_bounds() == (0, 1)
    colors = [bar.get_facecolor() for bar in bars.patches]
    assert colors[0] != colors[1] == colors[2]
    assert words.texts[0].get_text() == "costs $5 or $6_a"
    assert not words.texts[0].get_parse_math()
    assert figure.get_suptitle() == "predicted: yes"


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_absent_inputs_are_said(text):
    figure = plot_prediction(None, text, ["no", "yes"], [0.4, 0.6])
    assert figure.axes[0].texts[0].get_text() == "no image"
    assert not figure.axes[0].images
    assert figure.axes[2].texts[0].get_text() == "no text"


def test_the_word_nan_is_text():
    assert plot_prediction(None, "NaN", ["no", "yes"], [0.4, 0.6]).axes[2].texts[0].get_text() == "NaN"


def test_prediction_of_other_problem_types():
    several = {"problem_type": "multi_label_classification"}
    figure = plot_prediction(None, "x", ["sea", "sun", "fog"], [0.9, 0.5, 0.1], **several)
    assert figure.get_suptitle() == "predicted: sea, sun"
    figure = plot_prediction(None, "x", ["sea", "sun", "fog"], [0.9, 0.5, 0.1], thresholds=[0.95, 0.5, 0.1], **several)
    assert figure.get_suptitle() == "predicted: sun, fog"
    assert plot_prediction(None, "x", ["a"], [0.1], **several).get_suptitle() == "predicted: none of the labels"
    figure = plot_prediction(None, "x", [], 3.25, problem_type="regression")
    assert (figure.get_suptitle(), len(figure.axes)) == ("predicted: 3.25", 2)


def test_many_classes_draw_the_thirty_most_probable():
    probabilities = np.arange(1, 101) / 5050
    bars = plot_prediction(None, "x", [f"c{k}" for k in range(100)], probabilities).axes[1]
    assert names_on(bars.yaxis) == [f"c{k}" for k in range(99, 69, -1)]
    assert bars.get_title() == "the 30 most probable of 100 classes"


def test_prediction_refuses_another_number_of_classes():
    with pytest.raises(ValueError, match="2 classes need as many probabilities, got 3"):
        plot_prediction(None, "x", ["no", "yes"], [0.1, 0.2, 0.7])


def test_long_text_is_wrapped_and_cut():
    words = "many words of a tweet " * 20
    lines = plot_prediction(None, words, ["a"], [1.0]).axes[2].texts[0].get_text().split("\n")
    assert " ".join(lines).split() == words.split()
    assert len(lines) > 1 and max(map(fonts.ems, lines)) <= 60
    lines = plot_prediction(None, words * 10, ["a"], [1.0]).axes[2].texts[0].get_text().split("\n")
    assert len(lines) == 14 and lines[-1].endswith(" …")
    lines = plot_prediction(None, "W" * 100, ["a"], [1.0]).axes[2].texts[0].get_text().split("\n")
    assert "".join(lines) == "W" * 100 and len(lines) == 2


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "F"])
def test_any_image_mode_is_drawn(mode):
    if mode == "I;16":
        image = Image.fromarray(np.array([[0, 65535], [32768, 0]], dtype=np.uint16))
    else:
        image = Image.fromarray(np.array([[0, 255], [128, 0]], dtype=np.uint8)).convert(mode)
    value_range = (0, 255) if mode == "F" else None
    shown = plot_prediction(image, None, ["a"], [1.0], value_range=value_range).axes[0].images[0].get_array()
    assert shown.shape == (2, 2, 3) and shown.dtype == np.uint8
    assert shown[0, 0].max() < 10 and shown[0, 1].min() > 245
    if mode not in ("1", "P", "CMYK"):
        assert 120 < shown[1, 0, 0] < 136


def test_transparency_lies_on_white():
    shown = plot_prediction(Image.new("RGBA", (1, 1), (0, 0, 0, 0)), None, ["a"], [1.0]).axes[0].images[0].get_array()
    assert shown.tolist() == [[[255, 255, 255]]]


def test_chinese_is_drawn_as_chinese():
    needs_chinese_font()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns "Glyph ... missing from font(s)"
        pixels(plot_confusion([[1, 0], [0, 1]], ["积极", "消极"]))
        figure = plot_prediction(None, CHINESE, ["积极", "消极"], [0.9, 0.1])
        drawn = pixels(figure)
        other = pixels(plot_prediction(None, CHINESE[::-1], ["积极", "消极"], [0.9, 0.1]))
    assert figure.axes[2].texts[0].get_text() == CHINESE
    assert (drawn != other).any()  # empty boxes would look the same in any order


def test_chinese_lines_break_anywhere():
    lines = plot_prediction(None, CHINESE * 6, ["a"], [1.0]).axes[2].texts[0].get_text().split("\n")
    assert "".join(lines) == CHINESE * 6 and len(lines) == 3


def test_missing_glyphs_are_warned_of_once_with_the_cure(monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(fonts, "_candidates", lambda: iter(()))
    monkeypatch.setattr(fonts, "_extra_font", lambda: None)
    fonts._warn.cache_clear()
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")  # one warning is enough: matplotlib's own are silenced while saving
        for _ in range(2):
            plot_prediction(None, "好", ["a"], [1.0], tmp_path / "p.png")
    assert [record.getMessage() for record in caplog.records] == [
        "no installed font has a glyph for 1 characters, such as 好 (U+597D): pip install 'hf_multimodal[cjk]'."
    ]
    fonts._warn.cache_clear()


def test_the_extra_font_is_used_before_the_machine_s():
    extra = fonts._extra_font()
    if extra is None:
        pytest.skip("the extra `cjk` is not installed")
    assert fonts.families_for("我 and you") == ["DejaVu Sans", "Noto Sans SC"]
    assert "zhplot" not in sys.modules  # importing it would change matplotlib's settings


def test_files_are_png_images(tmp_path):
    plot_history(HISTORY, tmp_path / "h.png")
    plot_confusion([[1, 0], [0, 1]], ["a", "b"], tmp_path / "c.png")
    plot_prediction(None, "x", ["a", "b"], [0.5, 0.5], tmp_path / "p.png")
    for name in ("h.png", "c.png", "p.png"):
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG" and min(image.size) > 300


def test_plots_leave_pyplot_alone(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    plot_prediction(None, CHINESE, ["a"], [1.0], tmp_path / "p.png")
    assert dict(matplotlib.rcParams) == before


def test_plot_history_of_models_without_classes():
    """An image tokenizer has its PSNR in axes of its own, a text-to-image model both losses in one."""
    log = [{"loss": 0.05, "epoch": 1.0}, {"eval_psnr": 22.0, "epoch": 1.0}]
    assert [axes.get_title(loc="left") for axes in plot_history(log).axes] == ["Training loss", "Validation PSNR, dB"]
    figure = plot_history([{"loss": 4.0, "epoch": 1.0}, {"eval_loss": 4.0, "epoch": 1.0}])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss"]
    assert [line.get_label() for line in figure.axes[0].lines][:2] == ["training loss", "validation loss"]
