"""`scripts/train_aligner.py` from a table to the folder that it leaves, and that folder evaluated again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PATCHES
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from test_embedding import make_pair
from test_scripts import script, write_table
from transformers import AutoModel, ViTConfig, ViTImageProcessor, ViTModel

from hf_multimodal.data.checks import BadSamplesError
from hf_multimodal.data.loading import load_data
from hf_multimodal.data.pair_collator import PairCollator
from hf_multimodal.data.pairs import group_pairs
from hf_multimodal.inference.embedding import embed_texts
from hf_multimodal.inference.prediction import load_model
from hf_multimodal.synthetic.retrieval import retrieval_ceiling
from hf_multimodal.training.aligner_trainer import AlignerTrainer
from hf_multimodal.training.arguments import MultimodalTrainingArguments

train, evaluate = script("train_aligner"), script("evaluate")

FAST = ["--from_scratch", "--use_cpu", "--dataloader_num_workers", "0", "--disable_tqdm", "true"]
FAST += ["--per_device_train_batch_size", "6", "--num_train_epochs", "1", "--projection_dim", "16"]
COLOURS = {"blue": (20, 40, 250), "red": (250, 60, 20), "green": (30, 220, 40)}


def make_rows(folder: Path, images: int = 30) -> list[dict[str, str]]:
    """Two captions an image; the split as captions.csv of flickr8k has it; two rows lack a side."""
    rows = []
    for number in range(images):
        name = list(COLOURS)[number % 3]
        Image.new("RGB", (16, 16), COLOURS[name]).save(folder / f"{number}.png")
        split = "train" if number < 18 else "dev" if number < 24 else "test"
        for caption in range(2):
            text = f"{['a', 'one'][caption]} {name} thing number {number}"
            rows.append({"image": f"{number}.png", "caption_id": str(caption), "caption": text, "split": split})
            rows[-1]["colour"] = name
    rows[1]["caption"], rows[5]["image"] = "", ""
    return rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A trained aligner, the table it was trained on, and what the script returned."""
    folder = tmp_path_factory.mktemp("aligner")
    table = write_table(folder / "captions.csv", make_rows(folder))
    flags = ["--captions_per_image", "2", "--group_by", "colour"]
    metrics = train(["--data", str(table), "--output_dir", str(folder / "run"), *FAST, *flags])
    return folder / "run", table, metrics


def test_a_run_leaves_all_its_files(run):
    folder, _, metrics = run
    files = {path.name for path in folder.iterdir()}
    assert files >= {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "run.yaml"}
    assert files >= {"metrics.json", "history.png", "bad_samples.csv"}
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert type(AutoModel.from_pretrained(folder)).__name__ == "AlignerModel"
    for split in ("test", "validation"):
        assert metrics[split]["image_to_text"]["queries"] == metrics[split]["text_to_image"]["pool"] == 6
        assert metrics[split]["image_to_text"]["pool"] == metrics[split]["text_to_image"]["queries"] == 12
        assert set(metrics[split]["groups"]) == set(COLOURS)
    facts = metrics["run"]
    assert facts["steps"] == 3 and facts["best_step"] == 3  # an image stands once in an epoch
    assert (facts["train_rows"], facts["train_images"], facts["examples_per_step"]) == (36, 18, 6)
    assert facts["incomplete_pairs"] == {"train": 2, "validation": 0, "test": 0}


def test_a_run_leaves_its_card(run):
    folder, table, metrics = run
    text = (folder / "README.md").read_text(encoding="utf-8")
    card = ModelCard(text)
    recall = metrics["test"]["text_to_image"]["recall_at_5"]
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found["R@5, text to image, pool of 6"] == round(recall, 4) and len(found) == 6
    assert card.data.pipeline_tag == "zero-shot-image-classification"
    assert "| image to text | blue | 2 | 12 |" in text and "18 training images with their captions; 2 rows" in text
    assert "hidden_size" not in text and str(table.parent) not in text


def test_the_card_of_a_generated_task_tells_its_ceiling(tmp_path):
    sizes = ["--max_train_samples", "12", "--max_eval_samples", "6", "--max_predict_samples", "30"]
    metrics = train(["--data", "controlled:retrieval", *FAST, *sizes, "--output_dir", str(tmp_path)])
    rows = load_data("controlled:retrieval", splits=["test"], test_size=30).splits["test"]
    shown = [list(row) for row in zip(rows["shape"][:], rows["colour"][:], rows["place"][:], strict=True)]
    best = metrics["run"]["data"]["ceiling"]["text_to_image"]
    assert best["recall_at_1"] == retrieval_ceiling(shown).text_to_image < best["recall_at_5"] <= 1
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"| text to image | {best['recall_at_1']:.4f} | {best['recall_at_5']:.4f} |" in text
    assert "Data: controlled:retrieval." in text and "it is of no use on others" in text


def test_evaluate_finds_the_metrics_of_the_run(run, tmp_path, capsys):
    folder, table, metrics = run
    flags = ["--model", str(folder), "--data", str(table), "--output_dir", str(tmp_path)]
    found = evaluate([*flags, "--group_by", "colour"])["test"]
    assert found.pop("incomplete_pairs") == 0
    assert found == metrics["test"]
    assert json.loads((tmp_path / "metrics.json").read_text())["test"]["rsum"] == found["rsum"]
    assert "| image to text | all | 6 | 12 |" in capsys.readouterr().out
    assert evaluate([*flags[:4], "--split", "all"])["test"]["incomplete_pairs"] == 2
    with pytest.raises(ValueError, match="missing_curve is for classifiers, and .* is a multimodal_aligner"):
        evaluate([*flags, "--missing_curve"])


def test_evaluate_names_the_families_that_it_takes(run, tmp_path):
    for part in make_pair("clip"):
        part.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="are of type multimodal_aligner or multimodal_fusion or .* is a clip. Retri"):
        evaluate(["--model", str(tmp_path), "--data", str(run[1])])


@pytest.mark.parametrize("more", [[], ["--gradient_cache_chunk_size", "4"]], ids=["whole", "cached"])
def test_a_resumed_run_repeats_the_whole_bit_for_bit(run, tmp_path, more):
    _, table, _ = run
    flags = ["--data", str(table), *FAST, "--num_train_epochs", "3", "--augment", *more]
    keep = ["--load_best_model_at_end", "false", "--save_total_limit", "5"]
    train([*flags, *keep, "--output_dir", str(tmp_path / "whole")])
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    (tmp_path / "cut").mkdir()
    (tmp_path / "whole" / "checkpoint-3").rename(tmp_path / "cut" / "checkpoint-3")
    train([*flags, *keep, "--output_dir", str(tmp_path / "cut"), "--resume_from_checkpoint"])
    cut = load_file(tmp_path / "cut" / "model.safetensors")
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


@pytest.fixture
def tiny_vit(tmp_path):
    ViTConfig(**PATCHES, hidden_dropout_prob=0.0).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    return str(tmp_path / "vit")


def on_trained_models(run, tiny_vit, tmp_path):
    """Flags of a run that starts from stored weights on both sides."""
    folder, table, _ = run
    ViTModel(ViTConfig.from_pretrained(tiny_vit)).save_pretrained(tiny_vit)
    trained, processor = load_model(folder)
    trained.text_model.save_pretrained(tmp_path / "text")
    processor.tokenizer.save_pretrained(tmp_path / "text")
    return ["--data", str(table), *FAST[1:], "--vision_model", tiny_vit, "--text_model", str(tmp_path / "text")]


def make_trainer(folder, table, tmp_path, **options):
    model, processor = load_model(folder)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    args = MultimodalTrainingArguments(tmp_path, use_cpu=True, gradient_accumulation_steps=2, **options)
    rows, _ = group_pairs(load_data(table, pairs=True).splits["train"])
    collator = PairCollator(processor, captions_per_image=2)
    trainer = AlignerTrainer(model, args, data_collator=collator, train_dataset=rows)
    trainer.current_gradient_accumulation_steps = 2
    return trainer, collator([rows[number] for number in range(7)])


def test_gradient_caching_steps_as_the_whole_batch_does(run, tiny_vit, tmp_path):
    _, table, _ = run  # on a model without BatchNorm
    train(["--data", str(table), *FAST, "--vision_model", tiny_vit, "--output_dir", str(tmp_path / "run")])
    found = []
    for size in (None, 3):
        trainer, batch = make_trainer(tmp_path / "run", table, tmp_path, gradient_cache_chunk_size=size)
        loss = trainer.training_step(trainer.model, batch)
        found.append((loss, {name: p.grad for name, p in trainer.model.named_parameters()}))
    (direct, expected), (cached, gradients) = found
    assert direct > 0
    torch.testing.assert_close(cached, direct, rtol=0, atol=1e-6)
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, rtol=0, atol=1e-5, msg=name)


def test_a_run_on_states_equals_a_run_on_images(run, tiny_vit, tmp_path):
    _, table, _ = run
    flags = ["--data", str(table), *FAST, "--vision_model", tiny_vit, "--freeze_vision_layers", "1"]
    flags += ["--captions_per_image", "2"]
    plain = train([*flags, "--output_dir", str(tmp_path / "plain")])
    kept = train([*flags, "--feature_cache", str(tmp_path / "states"), "--output_dir", str(tmp_path / "kept")])
    assert kept["test"]["rsum"] == pytest.approx(plain["test"]["rsum"], abs=1e-3)
    models = [load_model(tmp_path / name) for name in ("plain", "kept")]
    embeds = [embed_texts(model, processor, ["a red thing", "one blue thing"]) for model, processor in models]
    torch.testing.assert_close(embeds[1], embeds[0], rtol=0, atol=1e-3)
    assert len(list((tmp_path / "states").glob("*.npy"))) == 1


def test_a_wholly_frozen_vision_model_is_read_and_left_as_it_was(run, tiny_vit, tmp_path):
    flags = on_trained_models(run, tiny_vit, tmp_path)
    metrics = train([*flags, "--freeze_vision_layers", "all", "--output_dir", str(tmp_path / "run")])
    model, _ = load_model(tmp_path / "run")
    stored = ViTModel.from_pretrained(tiny_vit, add_pooling_layer=False).state_dict()
    left = model.vision_model.state_dict()
    assert stored.keys() == left.keys() and all(torch.equal(value, left[name].cpu()) for name, value in stored.items())
    count = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("vision_model."))
    assert metrics["run"]["trainable_parameters"] == count and metrics["test"]["rsum"] > 0


def test_a_dry_run_counts_pairs_and_writes_nothing(run, tmp_path, capsys):
    _, table, _ = run
    report = train(["--data", str(table), "--output_dir", str(tmp_path / "run"), "--dry_run", *FAST])
    assert not (tmp_path / "run").exists() and report["loss"] > 0
    assert report["incomplete_pairs"] == {"train": 2, "validation": 0, "test": 0}
    assert report["splits"]["train"]["presence"] == {"both": 34, "image": 1, "text": 1, "neither": 0}
    assert "loss of one step" in capsys.readouterr().out


def test_bad_images_go_by_the_policy(tmp_path):
    table = write_table(tmp_path / "captions.csv", make_rows(tmp_path))
    (tmp_path / "4.png").write_bytes(b"")
    flags = ["--data", str(table), "--output_dir", str(tmp_path / "run"), *FAST]
    with pytest.raises(BadSamplesError, match="row 8 .*'image', .*4.png.*zero bytes"):
        train(flags)
    metrics = train([*flags, "--on_bad_sample", "missing"])
    assert metrics["run"]["incomplete_pairs"]["train"] == 4 and metrics["run"]["train_images"] == 17


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text_column", "captoin"], r"no column 'captoin' \(text_column\), .* Did you mean 'caption'\?"),
        (["--group_by", "color"], r"no column 'color' \(group_by\), .* Did you mean 'colour'\?"),
        (["--label_column", "colour"], "unknown argument 'label_column'"),
        (
            ["--metric_for_best_model", "loss"],
            r"metric_for_best_model must be one of \['rsum', 'image_to_text_.*'loss'",
        ),
        (["--loss", "infonec"], r"loss must be one of \[.*\], got 'infonec'"),
        (["--captions_per_image", "0"], "captions_per_image must be 1 or more, got 0"),
        (["--gradient_cache_chunk_size", "0"], "gradient_cache_chunk_size must be 1 or more, got 0"),
        (["--margin", "-1", "--loss", "triplet"], "margin must be more than 0, got -1.0"),
    ],
)
def test_a_wrong_choice_is_named(run, tmp_path, flags, message):
    _, table, _ = run
    with pytest.raises(ValueError, match=message):
        train(["--data", str(table), "--output_dir", str(tmp_path), *FAST, *flags])


def test_a_image_in_two_groups_is_refused(run, tmp_path):
    _, table, _ = run
    with pytest.raises(ValueError, match=r"an image has one group, but '.*1.png' is in '0' and in '1'"):
        train(["--data", str(table), "--output_dir", str(tmp_path), *FAST, "--group_by", "caption_id"])


def test_lora_is_merged_into_what_is_left(run, tiny_vit, tmp_path):
    flags = on_trained_models(run, tiny_vit, tmp_path)
    metrics = train([*flags, "--lora_rank", "2", "--output_dir", str(tmp_path / "run")])
    model, _ = load_model(tmp_path / "run")
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    assert metrics["run"]["trainable_parameters"] < metrics["run"]["parameters"]


def test_a_table_without_pairs_is_refused(tmp_path):
    rows = [{**row, "caption": ""} if row["split"] == "dev" else row for row in make_rows(tmp_path)]
    table = write_table(tmp_path / "captions.csv", rows)
    with pytest.raises(ValueError, match="the split 'validation' has no pair of an image and a caption"):
        train(["--data", str(table), "--output_dir", str(tmp_path / "run"), *FAST])
    table = write_table(tmp_path / "images.csv", [{"image": row["image"]} for row in rows])
    with pytest.raises(ValueError, match="no column 'text', their columns are"):
        train(["--data", str(table), "--output_dir", str(tmp_path / "run"), *FAST])
