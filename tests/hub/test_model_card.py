"""Cards: their numbers are the run's, their snippets run, and nothing in labels or names breaks them."""

import ast
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TEXT_CONFIGS, VISION_CONFIGS
from huggingface_hub import EvalResultEntry, InferenceClient, ModelCard, metadata_load, parse_eval_result_entries
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from huggingface_hub.utils import validate_repo_id
from PIL import Image
from test_processor import make_image_processor, make_tokenizer
from test_scripts import script
from test_vision_language import make_with_processor as make_vision_language

from hf_multimodal import (
    AlignerConfig,
    AlignerModel,
    FusionConfig,
    FusionForImageTextClassification,
    MultimodalProcessor,
    RobustFusionConfig,
    RobustFusionForImageTextClassification,
)
from hf_multimodal.hub.card import write_card
from hf_multimodal.hub.eval_results import EVAL_RESULTS
from hf_multimodal.hub.files import images_of_card
from hf_multimodal.hub.runs import CardArguments, hub_name
from hf_multimodal.hub.tables import inline, markdown_table
from hf_multimodal.inference.missing_curve import RATES
from hf_multimodal.models.configuration_vision_text import MODALITIES

main = script("write_card")
CARDS = Path(__file__).parents[2] / "model_cards"

HOSTILE = [
    '"]: {evil}\n---\n# <script>alert(1)</script>',
    "a|b\\|c\\",
    "`rm -rf` ```\n```python",
    "{{ 7*7 }} {% raw %}",
    "- item\n: [x](http://evil.example) ![](x)",
    "\u202eno\u2028yes\x00\ud800",
    "no",
    "w" * 5000,
]
PRESENCE = ("both", "image", "text", "neither")
TOKEN = "hf_" + "a" * 34


def scores(names: list[str], value: float = 0.7325) -> dict[str, Any]:
    found = {name: value + 0.0101 * k for k, name in enumerate(("accuracy", "macro_f1", "nll", "ece"))}
    found |= {"majority_accuracy": 0.6037, "majority_macro_f1": 0.2511, "count": 817}
    entry = {"precision": 0.6113, "recall": 0.6227, "support": 211}
    return {**found, "per_class": {name: {**entry, "f1": 0.6333 + 0.01 * k} for k, name in enumerate(names)}}


def make_run(folder: Path, names: list[str], **changes: Any) -> Path:
    """A folder as a robust run leaves it, with everything that a card can tell, without weights."""
    counts = {"rows": 2811, "classes": {name: 301 + k for k, name in enumerate(names)}}
    presence = {"both": 1405, "image": 703, "text": 702, "neither": 1}
    curve = [
        {"missing": which, "rate": rate, "count": 5, "over": "draws", "accuracy": {"mean": 0.6977, "sd": 0.0123}}
        for which in MODALITIES
        for rate in RATES
    ]
    facts = {
        **{"steps": 309, "examples_per_step": 32, "epochs": 3.0, "train_seconds": 434.34, "seed": 4, "best_step": 206},
        **{"parameters": 27530819, "trainable_parameters": 22896131, "train_rows": 2811, "bad_samples": 7},
        "base_models": ["some-one/vision", "some-one/text"],
        "hyperparameters": {
            "learning_rate": 2.5e-05,
            "label_smoothing": 0.15,
            "from_scratch": False,
            "no_stack": None,
        },
        "data": {
            **{"kind": "controlled", "name": "controlled:unique", "made_splits": ["test"], "group_duplicates": False},
            "splits": {split: {**counts, "presence": presence} for split in ("test", "train", "validation")},
            "ceiling": {seen: {"accuracy": 0.9025, "nll": 0.397} for seen in ("both", "image", "text")},
        },
    }
    lead = {"difference": 0.0228, "low": 0.0045, "high": 0.0413}
    metrics = {
        **{"test": scores(names), "run": facts, "missing_curve": curve},
        "intervals": {"test": {name: {"low": 0.7011, "high": 0.7612} for name in ("accuracy", "nll", "ece")}},
        "baselines": {
            "image alone": {"accuracy": 0.6462, "nll": 0.8021, "difference": {"accuracy": lead, "nll": lead}}
        },
    }
    config = {
        **{"model_type": "multimodal_robust_fusion", "problem_type": "single_label_classification"},
        **{"id2label": dict(enumerate(names)), "fusion": "concat"},
        "vision_config": {"model_type": "vit", "num_hidden_layers": 10, "_name_or_path": "/home/me/secret/deit"},
        "text_config": {"model_type": "bert", "hidden_size": 384},
    }
    arguments = {"data": "/home/me/secret/table.csv", "vision_model": "/home/me/secret/deit", "hub_token": TOKEN}
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({**metrics, **changes}))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "run.yaml").write_text(yaml.safe_dump(arguments))
    for name in ("history", "confusion", "missing_curve"):
        Image.new("RGB", (4, 4)).save(folder / f"{name}.png")
    return folder


def tables(card: str) -> list[list[list[str]]]:
    """Tables of a card as cells, cut as GitHub cuts them: at every bar that is not escaped."""
    found: list[list[list[str]]] = [[]]
    for line in card.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)(?:\\\\)*\|", line)
            found[-1].append([cell.strip() for cell in cells[1:-1]])
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def test_hostile_names_break_neither_yaml_nor_markdown(tmp_path):
    tame = [f"class {k}" for k in range(len(HOSTILE))]
    usual = write_card(make_run(tmp_path / "tame" / "run", tame), dataset_name="data", language=["no"]).read_text()
    folder = make_run(tmp_path / HOSTILE[4].replace("/", "") / HOSTILE[1], HOSTILE)
    for name in HOSTILE:
        text = write_card(folder, dataset_name=name, title=name, language=["no"]).read_text(encoding="utf-8")
        card = ModelCard(text)
        assert yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n")) == card.data.to_dict()
        assert card.data.language == ["no"] and len(card.data.eval_results) == 4
        assert card.data.eval_results[0].dataset_type == "unknown"
        assert [line for line in text.splitlines() if line.startswith("## ")] == [
            line for line in usual.splitlines() if line.startswith("## ")
        ]
        assert sum(line.startswith("```") for line in text.splitlines()) == 2
        assert sum(line.startswith(("- ", "# ", "![", "---")) for line in text.splitlines()) == sum(
            line.startswith(("- ", "# ", "![", "---")) for line in usual.splitlines()
        )
        assert [[len(row) for row in table] for table in tables(text)] == [
            [len(row) for row in table] for table in tables(usual)
        ]
        body = re.sub(r"```python\n.*?\n```", "", card.text, flags=re.DOTALL)
        for evil in ("<script", "{{", "{%", "](http://evil", "http://evil", "\u202e", "\u2028", "\x00", "w" * 201):
            assert evil not in body
        assert TOKEN not in text and "secret" not in text


@pytest.mark.parametrize("text", HOSTILE)
def test_inline_text_stays_in_its_cell(text):
    table = markdown_table([[inline(text), 1.0], ["x", 2.0]], ["name", "value"])
    assert [len(row) for row in tables(table)[0]] == [2, 2, 2, 2]
    assert len(table.splitlines()) == 4 and not inline(text).startswith(("-", "+", "=", "#", ":", " "))


def test_every_number_is_the_runs(tmp_path):
    folder = make_run(tmp_path / "run", ["cold", "warm"])
    text = write_card(folder, license="apache-2.0").read_text()
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())["project"]
    needed = [project["requires-python"], next(d for d in project["dependencies"] if d.startswith("transformers"))]
    allowed = {"95", *re.findall(r"\d+\.\d+", " ".join(needed))}  # per cent of an interval, and what it needs

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            for name, entry in value.items():
                collect(str(name)), collect(entry)
        elif isinstance(value, list):
            for entry in value:
                collect(entry)
        elif isinstance(value, str):
            allowed.update(re.findall(r"\d+", value))
        elif value is not None and not isinstance(value, bool):
            allowed.update((f"{value:.4f}", f"{value:g}", f"{value:,}", f"{value:,.0f}", f"{100 * value:.0f}"))
            allowed.add(str(round(value, 4)))

    for name in ("metrics.json", "config.json"):
        collect(json.loads((folder / name).read_text()))
    body = re.sub(r"```.*?```|F1|apache-2.0", "", text, flags=re.DOTALL)
    found = set(re.findall(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", body))
    assert {number.rstrip(",") for number in found} <= allowed
    for expected in (
        "| accuracy | 0.7325 | 0.7011 to 0.7612 | 0.6037 |",
        "| macro-F1 | 0.7426 |  | 0.2511 |",
        "| train | 2811 | 1405 | 703 | 702 | 1 |",
        "| cold | 301 | 301 | 301 |",
        "| cold | 0.6333 | 0.6113 | 0.6227 | 211 |",
        "| both | 0.9025 | 0.3970 |",
        "| image | 50 % | 0.6977 ± 0.0123 |",
        "| image alone | 0.6462 | 0.8021 | +0.0228 (+0.0045 to +0.0413) |",
        "309 steps of 32 examples (3 epochs) in 434 seconds, seed 4; that of step 206 was kept.",
        "27,530,819 parameters, 22,896,131 of them trained.",
        "[some-one/vision](https://huggingface.co/some-one/vision)",
        "| `learning_rate` | 2.5e-05 |",
        "![Confusion matrix](confusion.png)",
        "Worst at cold: F1 0.6333 on 211 rows.",
    ):
        assert expected in text, expected
    card = ModelCard(text)
    assert card.data.license == "apache-2.0" and card.data.base_model == ["some-one/vision", "some-one/text"]
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-classification")
    assert card.data.metrics == ["accuracy", "f1", "nll", "ece"]
    assert {result.metric_name: result.metric_value for result in card.data.eval_results}["macro-F1"] == 0.7426


def hub_run(folder: Path, **changes: Any) -> Path:
    """A run on a data set of the Hub, its test split measured whole."""
    make_run(folder, ["cold", "warm"])
    metrics = json.loads((folder / "metrics.json").read_text())
    counts = {"rows": 817, "classes": {"cold": 400, "warm": 417}, "presence": dict.fromkeys(PRESENCE, 0)}
    data = {"kind": "Hub", "name": "some-one/weather", "config": None, "made_splits": ["validation"]}
    metrics["run"]["data"] = {**data, "splits": {"test": counts}, "group_duplicates": False, **changes}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def check_metadata(path: Path) -> dict[str, Any]:
    """What the Hub demands of a card's metadata, as far as it can be seen offline."""
    card, found = ModelCard.load(path), metadata_load(path)
    assert found is not None and yaml.safe_load(card.data.to_yaml()) == found  # nothing is lost in reading it
    assert re.fullmatch("[a-z0-9.+-]+", found["license"]) and found["library_name"] == "transformers"
    task = found["pipeline_tag"].replace("-", "_")
    # Of the Hub's tasks that our models have it lacks two.
    assert hasattr(InferenceClient, task) or task in ("image_feature_extraction", "image_text_to_text")
    assert all(isinstance(tag, str) for tag in found["tags"])
    for name in (*found.get("base_model", ()), *found.get("datasets", ())):
        validate_repo_id(name)
    types = set()
    if "model-index" in found:
        name, results = model_index_to_eval_results(found["model-index"])
        assert name and results == card.data.eval_results
        assert eval_results_to_model_index(name, results) == found["model-index"]
        types = {result.dataset_type for result in results}
        for result in results:
            assert isinstance(result.metric_value, float) and result.dataset_name and result.metric_type
            assert result.task_type == found["pipeline_tag"]
    assert types <= {"unknown", *found.get("datasets", ())}  # a data set is named by its Hub id alone
    return found


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"kind": "controlled", "name": "controlled:unique"}, "generated data, task unique"),
        ({"kind": "table", "name": None}, "local files"),
        ({"kind": "Hub", "name": "../no id"}, "local files"),
    ],
)
def test_data_without_a_hub_id_are_named_in_words(tmp_path, data, name):
    path = write_card(hub_run(tmp_path / "run", **data))
    found = check_metadata(path)
    assert "datasets" not in found
    assert found["model-index"][0]["results"][0]["dataset"] == {"name": name, "type": "unknown", "split": "test"}
    assert not (tmp_path / "run" / ".eval_results").exists()
    assert check_metadata(write_card(tmp_path / "run", dataset_name="Weather, 2024"))["model-index"][0]["results"][0][
        "dataset"
    ] == {"name": "Weather, 2024", "type": "unknown", "split": "test"}


def test_a_data_set_of_the_hub_is_named_by_its_id(tmp_path):
    folder = hub_run(tmp_path / "run", config="de")
    found = check_metadata(write_card(folder))
    assert found["datasets"] == ["some-one/weather"]
    assert found["model-index"][0]["results"][0]["dataset"] == {
        "name": "some-one/weather",
        "type": "some-one/weather",
        "config": "de",
        "split": "test",
    }
    assert "[some-one/weather](https://huggingface.co/datasets/some-one/weather)" in (folder / "README.md").read_text()
    (entry,) = parse_eval_result_entries(yaml.safe_load((folder / EVAL_RESULTS).read_text()))
    assert entry == EvalResultEntry("some-one/weather", "de", 0.7325, notes="accuracy on 817 rows of the test split")


def test_eval_results_are_replaced_and_removed_with_the_metrics(tmp_path):
    folder = hub_run(tmp_path / "run")
    write_card(folder)
    (entry,) = yaml.safe_load((folder / EVAL_RESULTS).read_text())
    assert entry["dataset"] == {"id": "some-one/weather", "task_id": "default"} and entry["value"] == 0.7325
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["test"]["accuracy"] = 0.5
    (folder / "metrics.json").write_text(json.dumps(metrics))
    write_card(folder, tmp_path / "card.md")  # a card elsewhere leaves the folder as it is
    assert yaml.safe_load((folder / EVAL_RESULTS).read_text())[0]["value"] == 0.7325
    write_card(folder)
    assert yaml.safe_load((folder / EVAL_RESULTS).read_text())[0]["value"] == 0.5
    metrics["test"]["count"] = 400  # of 817: no score of the whole split
    (folder / "metrics.json").write_text(json.dumps(metrics))
    write_card(folder)
    assert not (folder / ".eval_results").exists()


@pytest.mark.parametrize("changes", [{"made_splits": ["test"]}, {"splits": {}}, {"kind": "table"}])
def test_eval_results_are_of_a_split_of_the_data_set_alone(tmp_path, changes):
    folder = hub_run(tmp_path / "run", **changes)
    write_card(folder)
    assert not (folder / ".eval_results").exists()


def test_eval_results_of_other_tasks(tmp_path):
    folder = hub_run(tmp_path / "run")
    metrics = json.loads((folder / "metrics.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    way = {"recall_at_1": 0.25, "recall_at_5": 0.5, "recall_at_10": 0.75, "mean_rank": 2.0, "median_rank": 2.0}
    recalls = {name: {**way, "queries": 817, "pool": 400} for name in ("image_to_text", "text_to_image")}
    for problem, scores_of, notes in (
        ("multi_label_classification", {"mAP": 0.25, "count": 817}, "mAP on 817 rows of the test split"),
        ("regression", {"pearson": 0.25, "count": 817}, "Pearson's r on 817 rows of the test split"),
        (None, {**recalls, "rsum": 300.0}, "recall@1, text to image on 817 rows of the test split"),
        ("regression", {"mse": 0.25, "count": 817}, None),
    ):
        kind = "multimodal_robust_fusion" if problem else "multimodal_aligner"
        (folder / "config.json").write_text(json.dumps({**config, "problem_type": problem, "model_type": kind}))
        kept = {"run": metrics["run"], "test": scores_of}
        (folder / "metrics.json").write_text(json.dumps(kept))
        check_metadata(write_card(folder))
        path = folder / EVAL_RESULTS
        told = [(entry["value"], entry["notes"]) for entry in yaml.safe_load(path.read_text())] if notes else []
        assert path.exists() == bool(notes) and told == ([(0.25, notes)] if notes else [])


def test_names_of_an_earlier_run_are_understood(tmp_path):
    folder = make_run(tmp_path / "run", ["no", "yes"])
    metrics = json.loads((folder / "metrics.json").read_text())
    earlier = {"redraw": [0.7, 0.15, 0.15], "weight_average": 0.99, "whole_pictures": True}
    metrics["run"] |= {"hyperparameters": earlier, "train_pictures": 2811}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    text = write_card(folder).read_text()
    rows = ("| `modality_dropout` | 0.7 0.15 0.15 |", "| `ema_decay` | 0.99 |", "| `whole_images` | True |")
    assert all(row in text for row in rows) and "2,811 training images with their captions" in text
    del metrics["run"]["hyperparameters"]  # of a run that told none, what its run.yaml gave
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "run.yaml").write_text(yaml.safe_dump(earlier))
    text = write_card(folder).read_text()
    assert all(row in text for row in rows)
    for word in ("picture", "redraw", "rival", "weight_average"):
        assert word not in text


def test_an_older_run_tells_less(tmp_path):
    older = {"steps": 300, "examples_per_step": 32, "epochs": 3.0, "train_seconds": 4.3, "seed": 0, "best_step": None}
    folder = make_run(tmp_path / "run", ["no", "yes"], run=older, intervals={}, missing_curve=None, baselines={})
    text = write_card(folder).read_text()
    card = ModelCard(text)
    assert card.data.license == "unknown" and card.data.base_model is None and card.data.datasets is None
    assert "No licence was stated" in text and "the last step was kept." in text
    assert "| metric | value | always the most frequent |" in text and "95 %" not in text
    assert "baseline" not in text and "missing_curve" not in text and "Data:" not in text
    (folder / "metrics.json").write_text("{}")
    text = write_card(folder).read_text()
    assert "## Use" in text and "## Evaluation" not in text and ModelCard(text).data.eval_results is None
    (folder / "metrics.json").unlink()
    with pytest.raises(FileNotFoundError, match="run is no folder of a run: it has no metrics.json"):
        write_card(folder)


def test_a_card_elsewhere_brings_its_images(tmp_path, monkeypatch):
    folder, curve = make_run(tmp_path / "run", ["no", "yes"], missing_curve=None), tmp_path / "curve"
    curve.mkdir()
    with pytest.raises(
        FileNotFoundError, match="holds no missing_curve: `hf-multimodal evaluate --missing_curve` writes it"
    ):
        main(["--run", str(folder), "--curve", str(curve)])
    main(["--run", str(make_run(tmp_path / "whole", ["no", "yes"])), "--title", "of the run itself"])
    assert "# of the run itself\n" in (tmp_path / "whole" / "README.md").read_text()
    points = [{"missing": "image", "rate": 1.0, "count": 3, "over": "runs", "nll": {"mean": 0.5, "sd": 0.25}}]
    (curve / "metrics.json").write_text(json.dumps({"missing_curve": points}))
    Image.new("RGB", (9, 9)).save(curve / "missing_curve.png")
    flags = ["--title", "Two classes", "--limits", "It is *small*.", "--repo_id", "me/mine", "--language", "en", "de"]
    path = main(["--run", str(folder), "--curve", str(curve), "--output", str(tmp_path / "cards" / "a b.md"), *flags])
    text = Path(path).read_text()
    assert "# Two classes\n" in text and "- It is *small*.\n" in text and 'from_pretrained("me/mine"' in text
    assert "| image | 100 % | 0.5000 ± 0.2500 |" in text and ModelCard(text).data.language == ["en", "de"]
    links = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert links == ["a%20b/history.png", "a%20b/confusion.png", "a%20b/missing_curve.png"]
    copy = Image.open(tmp_path / "cards" / "a b" / "missing_curve.png")
    assert copy.size == (9, 9) and copy.mode == "P"  # few colours are enough, and stay small in a repository
    assert not (folder / "README.md").exists()
    again = write_card(folder).read_text()
    assert again == text.replace("(a%20b/", "(")  # what was given once stays
    with pytest.raises(ValueError, match=r"output must be a Markdown file, such as .*cards/one.md, got"):
        write_card(folder, tmp_path / "cards" / "one")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"license": "Apache 2.0"}, "license must be the Hub's name of one, such as apache-2.0, got 'Apache 2.0'"),
        ({"language": ["english"]}, "language must be codes of two or three letters, such as en, got 'english'"),
        ({"base_models": ["/home/me/bert"]}, "base_models must be names on the Hub, got '/home/me/bert'"),
    ],
)
def test_what_the_hub_would_refuse_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        CardArguments(**given)


def test_a_folder_is_no_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_name("runs/mine") == "runs/mine"
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert [hub_name(name) for name in ("runs/mine", "./x", "~/x", "a/b/c", "torchvision:resnet18", "", None)] == [
        None
    ] * 7


@pytest.mark.parametrize("path", sorted(CARDS.glob("[a-z]*.md")), ids=lambda path: path.stem)
def test_the_cards_of_the_real_runs_stand(path):
    text = path.read_text(encoding="utf-8")
    assert ModelCard(text).data.eval_results
    check_metadata(path)
    images = [CARDS / link for link in re.findall(r"!\[.*?\]\((.*?)\)", text)]
    assert images and all(image.stat().st_size < 120_000 for image in images)


VISION, TEXT = VISION_CONFIGS["vit"], TEXT_CONFIGS["bert"]
CLASSES = {"id2label": {0: "cold", 1: "warm"}}
MODELS = {
    "fusion": lambda: FusionForImageTextClassification(
        FusionConfig(vision_config=VISION(), text_config=TEXT(), hidden_size=8, **CLASSES)
    ),
    "image": lambda: FusionForImageTextClassification(
        FusionConfig(vision_config=VISION(), text_config=None, hidden_size=8, **CLASSES)
    ),
    "text, multi-label": lambda: FusionForImageTextClassification(
        FusionConfig(
            vision_config=None,
            text_config=TEXT(),
            hidden_size=8,
            problem_type="multi_label_classification",
            **CLASSES,
        )
    ),
    "regression": lambda: FusionForImageTextClassification(
        FusionConfig(
            vision_config=VISION(), text_config=TEXT(), hidden_size=8, problem_type="regression", num_labels=1
        )
    ),
    "robust": lambda: RobustFusionForImageTextClassification(
        RobustFusionConfig(vision_config=VISION(), text_config=TEXT(), hidden_size=8, **CLASSES)
    ),
    "aligner": lambda: AlignerModel(AlignerConfig(vision_config=VISION(), text_config=TEXT(), projection_dim=8)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_the_snippet_runs(kind, tmp_path, monkeypatch, capsys):
    folder = tmp_path / 'a "model"'
    model = MODELS[kind]()
    images, tokenizer = make_image_processor(), make_tokenizer()
    images.size = {"height": 32, "width": 32}
    processor = MultimodalProcessor(
        images if model.config.vision_config is not None else None,
        tokenizer if model.config.text_config is not None else None,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "metrics.json").write_text("{}")
    text = write_card(folder).read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30)).save("photo.jpg")
    names: dict[str, Any] = {}
    exec(snippet, names)
    printed = capsys.readouterr().out
    if kind == "aligner":
        assert names["similarity"].shape == (1, 2) and names["similarity"].abs().max() <= 1
        assert ModelCard(text).data.pipeline_tag == "zero-shot-image-classification"
    elif kind == "regression":
        assert "predicts a number" in text and float(yaml.safe_load(printed)[0]) == pytest.approx(
            names["logits"].item(), abs=1e-6
        )
    else:
        assert "one of 2 classes: cold, warm" in text or kind == "text, multi-label"
        assert len(yaml.safe_load(printed)) == (2 if kind == "robust" else 1)


# Vision-language models


CONVERSATION = {"task": "conversation", "prompt": "Describe the image.", "stage": "both", "projector_epochs": 1.5}
ANSWERS = {"exact_match": 0.6125, "token_f1": 0.6437, "answers": 1234, "baseline_exact_match": 0.3071}
CAPTIONS = {"bleu_4": 0.2113, "cider": 0.7219, "images": 499, "most_frequent_bleu_4": 0.0412}
NARROW = {"exact_match": 0.5013, "token_f1": 0.5027, "answers": 617, "baseline_exact_match": 0.5119}
VISION_LANGUAGE_CONFIG = {
    "model_type": "multimodal_vision_language",
    "image_seq_length": 49,
    "vision_config": {"model_type": "vit", "num_hidden_layers": 10, "_name_or_path": "/home/me/secret/deit"},
    "text_config": {"model_type": "gpt2", "n_layer": 6, "n_embd": 768},
}


def sample(question: str = "what is this", answer: str = "a cat", reference: str = "a dog") -> dict[str, str]:
    return {"question": question, "answer": answer, "reference": reference}


def make_vision_language_run(folder: Path, kinds: list[str], **changes: Any) -> Path:
    """A folder as a run of a vision-language model leaves it, without weights."""
    by_kind = {kind: {**NARROW, "exact_match": 0.7231} if k else NARROW for k, kind in enumerate(kinds)}
    facts = {
        **{"steps": 309, "examples_per_step": 32, "epochs": 3.0, "train_seconds": 434.34, "seed": 4, "best_step": 206},
        **{"parameters": 27530819, "trainable_parameters": 22896131, "train_rows": 2811},
        **{"stage": "both", "task": "conversation", "prompt": "Describe the image."},
        **{"rows_cut": {"train": 5, "test": 2}, "rows_too_long": 3},
        "stage_1": {"steps": 151, "train_seconds": 61.2, "trainable_parameters": 41003},
        "base_models": ["some-one/vision", "some-one/text"],
        "hyperparameters": {**CONVERSATION, "freeze_vision": True, "lora_rank": None},
        "data": {"kind": "controlled", "name": "controlled:questions", "splits": {}},
    }
    samples = [sample(f"what is number {k}") for k in range(11, 30)]
    metrics = {"test": {**ANSWERS, "by_kind": by_kind}, "run": facts, "samples": samples}
    metrics |= {"run": {**facts, **changes.pop("facts", {})}, **changes}
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.json").write_text(json.dumps(VISION_LANGUAGE_CONFIG))
    return folder


def headings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("#")]


def test_answers_stand_beside_the_blind_baseline(tmp_path):
    folder = make_vision_language_run(tmp_path / "run", ["count", "colour"])
    Image.new("RGB", (4, 4)).save(folder / "answers.png")
    path = write_card(folder)
    text, found = path.read_text(), check_metadata(path)
    for expected in (
        "| questions | answers | exact match | blind baseline | token F1 |",
        "| count | 617 | 0.5013 | 0.5119 | 0.5027 |",
        "| colour | 617 | 0.7231 | 0.5119 | 0.5027 |",
        "| all | 1234 | 0.6125 | 0.3071 | 0.6437 |",
        "1,234 answers of the test split",
        "| row | question | answer of this model | reference |",
        "| 1 | what is number 11 | a cat | a dog |",
        "![The images of these rows, in order](answers.png)",
        "49 tokens of each image, from a vision model (vit (10 layers)), among the words that a decoder (gpt2 (6 ",
        "(6 layers, width 768)) reads.",
        "Started from [some-one/vision](https://huggingface.co/some-one/vision) and [some-one/text]",
        "27,530,819 parameters, 22,896,131 of them trained.",
        "The projector alone first (41,003 parameters): 151 steps in 61 seconds. Then 309 steps of 32 examples",
        "3 rows were left out, being too long. 7 rows were cut, being too long.",
        "| `stage` | both |\n| `projector_epochs` | 1.5 |",
        "| `freeze_vision` | True |",
        "- The data are generated: it is of no use on others.",
        "- The questions alone give 0.3071 exact match",
        "- No better than the blind baseline at: count.\n",
        "- No licence was stated for the weights; those of the models that it was made from ([some-one/vision]",
    ):
        assert expected in text, expected
    assert "what is number 18" in text and "what is number 19" not in text  # eight, whatever the run holds
    assert "secret" not in text and "`prompt`" not in text
    assert (found["pipeline_tag"], found["library_name"]) == ("image-text-to-text", "transformers")
    assert found["tags"] == ["multimodal", "llava"] and found["base_model"] == ["some-one/vision", "some-one/text"]
    assert found["metrics"] == ["exact_match", "f1"]
    values = [result.metric_value for result in ModelCard(text).data.eval_results]
    assert values == [0.6125, 0.6437] and not (folder / ".eval_results").exists()
    stated = write_card(folder, license="apache-2.0").read_text()
    assert "- The licences of the models that it was made from ([some-one/vision]" in stated


def test_captions_stand_beside_the_most_frequent_one(tmp_path):
    facts = {"task": "caption", "prompt": "Say it in `German`.", "stage": "projector", "stage_1": None}
    facts["hyperparameters"] = {**CONVERSATION, **facts}
    samples = [sample("Say it in `German`.", "Ein Hund", "Eine Katze")]
    folder = make_vision_language_run(tmp_path / "run", [], facts=facts, test=CAPTIONS, samples=samples)
    path = write_card(folder)
    text = path.read_text()
    for expected in (
        "A vision-language model (LLaVA) that writes captions of images.",
        r'question = "Say it in \x60German\x60."',
        "The projector alone was trained: 309 steps",
        "499 images of the test split.",
        "| metric | value | always the most frequent caption |",
        "| BLEU-4 (0 to 1) | 0.2113 | 0.0412 |",
        "| CIDEr (0 to 10) | 0.7219 |  |",
        "| row | answer of this model | reference |\n|---:|---|---|\n| 1 | Ein Hund | Eine Katze |",
        "| `prompt` | Say it in \\`German\\`. |",
        "- It learned captions alone",
    ):
        assert expected in text, expected
    assert "blind" not in text and check_metadata(path)["metrics"] == ["bleu", "cider"]


def test_a_decoder_alone_tells_of_no_projector(tmp_path):
    facts = {"stage": "decoder", "stage_1": None, "hyperparameters": {**CONVERSATION, "stage": "decoder"}}
    text = write_card(make_vision_language_run(tmp_path / "run", [], facts=facts)).read_text()
    assert "| `stage` | decoder |" in text and "projector_epochs" not in text
    assert "\n309 steps of 32 examples" in text  # no first stage before them


@pytest.mark.parametrize("nothing", [{}, {"test": {}}, {"test": {"images": 3}, "samples": []}])
def test_parts_that_lack_leave_no_heading(tmp_path, nothing):
    folder = make_vision_language_run(tmp_path / "run", [])
    (folder / "metrics.json").write_text(json.dumps(nothing))
    path = write_card(folder)
    text = path.read_text()
    assert headings(re.sub("```.*?```", "", text, flags=re.DOTALL)) == ["# run", "## Use", "## Limits"]
    assert "model-index" not in check_metadata(path) and "None" not in text
    assert 'question = "What is in this image?"' in text
    without = {name: ANSWERS[name] for name in ("exact_match", "token_f1", "answers")}
    (folder / "metrics.json").write_text(json.dumps({"validation": without}))
    text = write_card(folder).read_text()
    assert "| all | 1234 | 0.6125 | 0.6437 |" in text and "blind" not in text
    assert headings(re.sub("```.*?```", "", text, flags=re.DOTALL))[2:] == ["## Evaluation", "## Limits"]


@pytest.mark.parametrize("evil", HOSTILE)
def test_what_was_said_breaks_neither_tables_nor_code(tmp_path, evil):
    samples, tame = [sample(evil, evil, evil), sample(answer="a|b\nc")], [sample(), sample()]
    usual = write_card(make_vision_language_run(tmp_path / "tame" / "run", ["x", "y"], samples=tame)).read_text()
    folder = make_vision_language_run(tmp_path / "run", [evil, "y"], samples=samples)
    text = write_card(folder).read_text(encoding="utf-8")
    assert "| 2 | what is this | a&#124;b c | a dog |" in text
    assert headings(text) == headings(usual) and images_of_card(text) == []
    assert [[len(row) for row in table] for table in tables(text)] == [
        [len(row) for row in table] for table in tables(usual)
    ]
    for caption in (False, True):
        if caption:
            metrics = json.loads((folder / "metrics.json").read_text())
            metrics["run"] |= {"task": "caption", "prompt": evil, "hyperparameters": {"task": "caption"}}
            (folder / "metrics.json").write_text(json.dumps(metrics))
            text = write_card(folder).read_text(encoding="utf-8")
        assert sum(line.startswith("```") for line in text.splitlines()) == 4
        first, second = re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)
        (asked,) = re.findall(r"^question = (.*)$", first, re.MULTILINE)
        kept = caption or ("<" not in evil and len(evil) < 100)
        assert ast.literal_eval(asked) == (evil if kept else "What is in this image?")
        compile(f"{first}\n{second}", "card", "exec")


@pytest.mark.parametrize("task", ["conversation", "caption"])
def test_the_snippets_of_a_vision_language_model_run(task, tmp_path, monkeypatch, capsys):
    folder = tmp_path / 'a "model"'
    for part in make_vision_language():
        part.save_pretrained(folder)
    (folder / "metrics.json").write_text(json.dumps({"run": {"task": task, "prompt": "is this a dog"}}))
    text = write_card(folder).read_text()
    first, second = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Image.new("LA", (40, 30)).save("photo.png")
    first = first.replace("photo.jpg", "photo.png")  # a mode that most image processors refuse
    names: dict[str, Any] = {}
    exec(first, names)
    assert names["question"] == ("is this a dog" if task == "caption" else "What is in this image?")
    answer = capsys.readouterr().out
    exec(second, names)
    assert capsys.readouterr().out.strip() == answer.strip() != ""
    read = names["processor"].decode(names["inputs"]["input_ids"][0])
    assert read.endswith("assistant") and read.count("<image>") == names["model"].config.image_seq_length
    whole = names["processor"].decode(names["sequences"][0], skip_special_tokens=True)
    assert whole.endswith(answer.strip()) and len(whole) > len(answer)
