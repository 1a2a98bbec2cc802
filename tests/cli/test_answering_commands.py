"""`train-vision-language`, `ask` and `evaluate` on small generated data: what they leave, say and refuse."""

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    GPT2Config,
    LlamaConfig,
    pipeline,
)

from hf_multimodal.cli.ask import main as ask
from hf_multimodal.cli.evaluate import main as evaluate
from hf_multimodal.cli.main import run
from hf_multimodal.cli.train_aligner import main as train_aligner
from hf_multimodal.cli.train_vision_language import main as train_vision_language
from hf_multimodal.training.from_scratch import train_decoder_tokenizer

ROWS = ["--max_train_samples", "32", "--max_eval_samples", "8", "--max_predict_samples", "8"]
ROWS += ["--dataloader_num_workers", "0", "--num_train_epochs", "1"]
DATA = ["--data", "controlled:questions", *ROWS]
SMALL = ["--hidden_size", "16", "--num_hidden_layers", "1", "--num_attention_heads", "2"]
DECODERS = {
    "llama": lambda size: LlamaConfig(
        vocab_size=size, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    ),
    "gpt2": lambda size: GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2),
}


@pytest.fixture(scope="module")
def aligner(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "aligner"
    train_aligner(["--data", "controlled:retrieval", *ROWS, "--from_scratch", "--output_dir", str(folder)])
    return folder


@pytest.fixture(scope="module")
def answering(tmp_path_factory, aligner) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "answering"
    train_vision_language([*DATA, *SMALL, "--from_aligner", str(aligner), "--output_dir", str(folder)])
    return folder


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request, tmp_path_factory) -> Path:
    """A decoder as the Hub has them: with a tokenizer that knows neither images nor turns."""
    folder = tmp_path_factory.mktemp("decoder") / request.param
    tokenizer = train_decoder_tokenizer(["what colour is the circle?", "red", "in the top left"])
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(DECODERS[request.param](len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def image(tmp_path) -> Path:
    Image.new("RGB", (80, 60), "red").save(tmp_path / "x.png")
    return tmp_path / "x.png"


def weights(folder, part=""):
    model = AutoModelForImageTextToText.from_pretrained(folder)
    return {name: value for name, value in model.state_dict().items() if name.startswith(part)}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_train_vision_language_leaves_a_model_that_auto_classes_and_the_pipeline_load(answering, image):
    model = AutoModelForImageTextToText.from_pretrained(answering)
    processor = AutoProcessor.from_pretrained(answering)
    assert model.config.image_seq_length == processor.image_seq_length == 64
    assert model.config.text_config.vocab_size == len(processor.tokenizer)
    ids = processor.tokenizer.convert_tokens_to_ids(["<image>", "<|im_end|>"])
    assert [model.config.image_token_id, model.generation_config.eos_token_id] == ids
    asked = [{"type": "image", "image": Image.open(image)}, {"type": "text", "text": "what?"}]
    said = pipeline("image-text-to-text", model=str(answering))(
        text=[{"role": "user", "content": asked}], max_new_tokens=2
    )
    assert said[0]["generated_text"][-1]["role"] == "assistant"


def test_train_vision_language_tells_scores_by_kind_beside_the_blind_baseline(answering):
    metrics = json.loads((answering / "metrics.json").read_text())
    test, told = metrics["test"], metrics["run"]
    assert test["answers"] == sum(kind["answers"] for kind in test["by_kind"].values()) >= 8
    assert all({"exact_match", "token_f1", "baseline_exact_match"} <= kind.keys() for kind in test["by_kind"].values())
    assert told["stage"] == "decoder" and told["task"] == "conversation" and told["train_rows"] == 32
    assert len(metrics["samples"]) == 8 and set(metrics["samples"][0]) == {"question", "answer", "reference"}
    card = (answering / "README.md").read_text()
    assert "pipeline_tag: image-text-to-text" in card and "answers.png" in card and "existence" in card
    assert Image.open(answering / "answers.png").size[0] > 100


def test_evaluate_finds_what_the_run_found(answering, tmp_path):
    flags = ["--model", str(answering), "--data", "controlled:questions", "--max_predict_samples", "8"]
    found = evaluate([*flags, "--output_dir", str(tmp_path / "out")])["test"]
    run_found = json.loads((answering / "metrics.json").read_text())["test"]
    assert found["exact_match"] == run_found["exact_match"] and found["by_kind"].keys() == run_found["by_kind"].keys()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["test"] == found


def test_a_run_cut_after_its_first_epoch_and_resumed_is_the_whole_run(tmp_path, aligner):
    flags = [*DATA, *SMALL, "--from_aligner", str(aligner), "--num_train_epochs", "2", "--dropout", "0.1"]
    flags += ["--per_device_train_batch_size", "8", "--early_stopping_patience", "0", "--save_total_limit", "2"]
    flags += ["--load_best_model_at_end", "False"]
    for name in ("whole", "cut"):
        train_vision_language([*flags, "--output_dir", str(tmp_path / name)])
    for name in ("config.json", "metrics.json", "model.safetensors", "README.md"):
        (tmp_path / "cut" / name).unlink()
    shutil.rmtree(tmp_path / "cut" / "checkpoint-8")
    train_vision_language([*flags, "--output_dir", str(tmp_path / "cut"), "--resume_from_checkpoint"])
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_both_stages_are_the_two_apart(tmp_path, aligner, decoder):
    flags = [*DATA, "--per_device_train_batch_size", "8"]
    start = ["--from_aligner", str(aligner), "--text_model", str(decoder)]
    both = train_vision_language([*flags, *start, "--output_dir", str(tmp_path / "both")])
    assert both["run"]["stage"] == "both" and both["run"]["stage_1"]["steps"] == 4
    assert not (tmp_path / "both" / "stage_1").exists()
    first = ["--stage", "projector", "--output_dir", str(tmp_path / "one")]
    train_vision_language([*flags, *start, *first])
    second = ["--from_run", str(tmp_path / "one"), "--output_dir", str(tmp_path / "two")]
    train_vision_language([*flags, *second])
    assert equal(weights(tmp_path / "both"), weights(tmp_path / "two"))


def test_the_first_stage_moves_the_projector_alone(tmp_path, aligner, decoder):
    start = ["--from_aligner", str(aligner), "--text_model", str(decoder), "--stage", "projector"]
    found = train_vision_language([*DATA, *start, "--output_dir", str(tmp_path / "run")])
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "run")
    assert found["run"]["trainable_parameters"] == sum(value.numel() for value in model.projector.parameters())
    kept = AutoModelForCausalLM.from_pretrained(decoder).get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight[: len(kept)], kept)
    assert len(kept) + 3 == len(model.get_input_embeddings().weight)  # the image token and both ends of a turn


def test_a_run_ends_with_its_scores_beside_their_baseline(tmp_path, aligner, capsys):
    flags = [*DATA, *SMALL, "--from_aligner", str(aligner), "--max_steps", "1"]
    train_vision_language([*flags, "--output_dir", str(tmp_path / "run")])
    shown = capsys.readouterr().out
    assert "| split | exact_match | baseline_exact_match | token_f1 |" in shown
    assert f"Next: hf-multimodal ask --model {tmp_path / 'run'} --image FILE" in shown


def test_lora_trains_matrices_and_the_new_tokens_and_leaves_an_ordinary_model(tmp_path, aligner, decoder):
    start = ["--from_aligner", str(aligner), "--text_model", str(decoder), "--per_device_train_batch_size", "8"]
    train_vision_language([*DATA, *start, "--stage", "projector", "--output_dir", str(tmp_path / "one")])
    flags = ["--from_run", str(tmp_path / "one"), "--lora_rank", "2", "--freeze_vision", *start[4:]]
    found = train_vision_language([*DATA, *flags, "--output_dir", str(tmp_path / "two")])
    assert found["run"]["trainable_parameters"] < found["run"]["parameters"] / 2
    before, after = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert before.keys() == after.keys()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "two")
    names = {id(value): name for name, value in model.named_parameters()}
    embeddings, output = names[id(model.get_input_embeddings().weight)], model.get_output_embeddings().weight
    rows = (before[embeddings] != after[embeddings]).any(dim=1).nonzero()[:, 0].tolist()
    known = AutoProcessor.from_pretrained(tmp_path / "two").tokenizer
    assert rows == known.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    allowed = ("attn", "projector", embeddings.rpartition(".")[0], "lm_head")
    assert any("attn" in name for name in moved) and all(any(part in name for part in allowed) for name in moved)
    assert output.shape == model.get_input_embeddings().weight.shape


def test_freeze_vision_leaves_the_vision_model_as_it_was(tmp_path, aligner):
    start = ["--from_aligner", str(aligner), "--freeze_vision", *SMALL]
    train_vision_language([*DATA, *start, "--output_dir", str(tmp_path / "run")])
    from hf_multimodal import AlignerModel

    before = AlignerModel.from_pretrained(aligner).vision_model.state_dict()
    after = weights(tmp_path / "run", "vision_model.")
    assert all(torch.equal(value, after[f"vision_model.{name}"]) for name, value in before.items())


def test_captions_are_scored_beside_the_most_frequent_one(tmp_path, aligner):
    data = ["--data", "controlled:retrieval", *ROWS, "--task", "caption", "--prompt", "Say what you see."]
    folder = tmp_path / "run"
    found = train_vision_language([*data, *SMALL, "--from_aligner", str(aligner), "--output_dir", str(folder)])
    names = {"bleu_4", "cider", "images", "most_frequent_bleu_4", "most_frequent_cider"}
    assert found["test"].keys() == names and found["test"]["images"] == 8
    assert found["samples"][0]["question"] == "Say what you see."
    again = evaluate(["--model", str(folder), "--data", "controlled:retrieval", "--max_predict_samples", "8"])
    assert again["test"]["bleu_4"] == found["test"]["bleu_4"]


def test_dry_run_shows_what_is_learned(tmp_path, aligner, capsys):
    flags = [*DATA, *SMALL, "--from_aligner", str(aligner), "--output_dir", str(tmp_path / "run"), "--dry_run"]
    report = train_vision_language(flags)
    shown = capsys.readouterr().out
    assert report["refusals"] == [] and not (tmp_path / "run").exists()
    assert "<|im_start|>user\n<image> × 64" in shown and "<|im_start|>assistant\n[[" in shown
    assert shown.count("<|im_end|>]]") == shown.count("<|im_start|>assistant")


def test_rows_that_are_too_long_are_cut_or_left_out_and_counted(tmp_path, aligner, caplog):
    flags = [*DATA, *SMALL, "--from_aligner", str(aligner), "--max_length", "90"]
    found = train_vision_language([*flags, "--output_dir", str(tmp_path / "run")])["run"]
    assert found["rows_cut"]["train"] > 0 and found["train_rows"] == 32 - found["rows_too_long"]["train"]
    with pytest.raises(ValueError, match="the split 'train' has no conversation left"):
        train_vision_language([*flags[:-1], "60", "--output_dir", str(tmp_path / "none")])


def test_ask_answers_one_question(answering, image, capsys):
    found = ask(
        ["--model", str(answering), "--image", str(image), "what colour is the shape?", "--max_new_tokens", "4"]
    )
    assert [turn["role"] for turn in found["messages"]] == ["user", "assistant"]
    assert found["messages"][0]["content"] == "what colour is the shape?"
    assert capsys.readouterr().out.strip().endswith(found["messages"][1]["content"])
    same = ask(
        [
            "--model",
            str(answering),
            "--image",
            str(image),
            "--question",
            "what colour is the shape?",
            "--max_new_tokens",
            "4",
        ]
    )
    assert same == found


def test_ask_without_a_question_converses(answering, image, monkeypatch, capsys):
    lines = f"what shape is it?\nwhere is it?\n/image nowhere.png\n/image {image}\nhow many?\n\nnot read\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    found = ask(["--model", str(answering), "--image", str(image), "--max_new_tokens", "2"])
    assert [turn["content"] for turn in found["messages"]][0] == "how many?" and len(found["messages"]) == 2
    assert "there is no image 'nowhere.png'" in capsys.readouterr().out


def test_ask_speaks_of_a_text_alone_and_draws_answers(answering):
    flags = ["--model", str(answering), "hello", "--temperature", "1.5", "--max_new_tokens", "4"]
    assert ask([*flags, "--seed", "1"]) == ask([*flags, "--seed", "1"]) != ask([*flags, "--seed", "2"])


def test_ask_refuses_other_models(aligner, capsys):
    assert run("ask", ["--model", str(aligner), "what?"]) == 2
    assert "is a 'multimodal_aligner', which answers no questions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "one of vision_model and from_aligner is needed, or from_run"),
        (["--from_aligner", "x/y", "--vision_model", "x/y"], "one of vision_model and from_aligner is needed"),
        (
            ["--from_run", "x/y", "--text_model", "x/y"],
            "from_run brings vision model and decoder: leave text_model out",
        ),
        (["--from_aligner", "x/y", "--stage", "projector"], "stage 'projector' needs a text_model"),
        (["--from_aligner", "x/y", "--lora_rank", "2"], "lora_rank needs the pretrained weights of a text_model"),
        (["--from_aligner", "x/y", "--task", "captions"], "task must be one of .*Did you mean 'caption'"),
        (
            ["--from_aligner", "x/y", "--text_model", "x/y", "--hidden_size", "8"],
            "hidden_size 8 is for a decoder from random",
        ),
        (["--from_aligner", "x/y", "--projector_epochs", "0"], "projector_epochs must be above 0, got 0"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        train_vision_language([*DATA, *flags])


def test_what_is_no_vision_language_model_is_refused_to_go_on_from(aligner, tmp_path):
    with pytest.raises(ValueError, match="is a 'multimodal_aligner', no vision-language model"):
        train_vision_language([*DATA, "--from_run", str(aligner), "--output_dir", str(tmp_path / "run")])


def test_a_chat_template_without_generation_marks_is_refused_and_chatml_takes_its_place(tmp_path, aligner, decoder):
    folder = shutil.copytree(decoder, tmp_path / "decoder")
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    start = ["--from_aligner", str(aligner), "--text_model", str(folder), "--stage", "decoder"]
    with pytest.raises(ValueError, match=r"has no \{% generation %\} .* no label"):
        train_vision_language([*DATA, *start, "--output_dir", str(tmp_path / "refused")])
    found = train_vision_language([*DATA, *start, "--chat_template", "chatml", "--output_dir", str(tmp_path / "run")])
    assert found["run"]["train_rows"] == 32
    with pytest.raises(ValueError, match="chat_template must be 'chatml' or a file, and there is no 'chatlm'"):
        train_vision_language([*DATA, *start, "--chat_template", "chatlm"])
