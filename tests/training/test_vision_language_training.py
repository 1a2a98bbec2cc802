"""Training a vision-language model: one step is one step on any number of processes, and with LoRA."""

import copy
from pathlib import Path

import pytest
import torch
import transformers as hf
from test_distributed import run_two_ranks
from test_vision_language import DECODERS, SMALL, make_batch, make_model, make_with_processor
from transformers import AutoModel, AutoModelForImageTextToText
from two_ranks_conversations import STEP, WITH_IMAGE, make_rows, trained_weights

from hf_multimodal import ConversationCollator, MultimodalTrainer, MultimodalTrainingArguments
from hf_multimodal.models import VisionLanguageForConditionalGeneration
from hf_multimodal.training.freezing import freeze_layers
from hf_multimodal.training.lora import add_lora

NEW = [5, 7]  # ids of tokens


@pytest.mark.parametrize("order", WITH_IMAGE)
def test_accumulated_batches_give_the_step_of_one_batch(tmp_path: Path, order: str) -> None:
    """The loss of a step is a mean over its labels, of which each batch has another number."""
    whole = trained_weights(str(tmp_path), order)
    parts = trained_weights(str(tmp_path), order, batch_size=STEP // 4, accumulation=4)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-6, msg=name)


def test_two_ranks_of_which_one_sees_no_image_give_the_step_of_one_process(tmp_path: Path) -> None:
    run_two_ranks(Path(__file__).parents[1].joinpath("two_ranks_conversations.py"), str(tmp_path))
    for order in WITH_IMAGE:
        expected = trained_weights(str(tmp_path), order)
        first, second = (torch.load(tmp_path / f"{order}-{rank}.pt") for rank in range(2))
        for name, value in expected.items():
            assert torch.equal(first[name], second[name]), name
            torch.testing.assert_close(first[name], value, rtol=0, atol=1e-6, msg=name)


class Stop(hf.TrainerCallback):
    """Ends a run after some steps."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def run(folder: Path, lora: bool, stop: int = 6, **options: str):
    """The trainer of a run that evaluates and saves after each second step of six."""
    model, processor = make_with_processor()
    if lora:
        model = add_lora(model, 2, processor.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]))
    args = MultimodalTrainingArguments(
        str(folder),
        per_device_train_batch_size=8,
        max_steps=6,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
        prediction_loss_only=True,
        learning_rate=1e-2,
        head_learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    rows = make_rows("random")
    trainer = MultimodalTrainer(
        model, args, ConversationCollator(processor), train_dataset=rows, eval_dataset=rows, callbacks=[Stop(stop)]
    )
    trainer.train(**options)
    return trainer


@pytest.mark.parametrize("lora", [False, True])
def test_a_resumed_run_is_the_whole_run_and_ends_with_its_best_model(tmp_path: Path, lora: bool) -> None:
    whole = run(tmp_path / "whole", lora)
    losses = [entry["eval_loss"] for entry in whole.state.log_history if "eval_loss" in entry]
    assert len(losses) == 3 and whole.evaluate()["eval_loss"] == pytest.approx(min(losses))
    run(tmp_path / "parts", lora, stop=4)
    resumed = run(tmp_path / "parts", lora, resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-4"))
    found = resumed.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in whole.model.state_dict().items())


@torch.no_grad()
def logits(model, batch) -> torch.Tensor:
    # Of a copy: tensors mapped from a file may lie unaligned in memory, and other kernels round otherwise.
    return copy.deepcopy(model).eval()(**batch).logits


def train_lora(model, new_tokens=NEW):
    """Three steps; the peft model and the batch."""
    batch = make_batch(model, (1, 0, 2), (8, 8, 9))
    wrapped = add_lora(model, 2, new_tokens).train()
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        wrapped(**batch).loss.backward()
        assert all(p.grad is not None for p in wrapped.parameters() if p.requires_grad)  # DDP needs it
        optimizer.step()
    return wrapped, batch


def moved_rows(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    return (before != after).any(dim=1).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("decoder", DECODERS)
def test_lora_moves_its_matrices_the_projector_and_the_rows_of_new_tokens(tmp_path: Path, decoder: str) -> None:
    model = make_model(decoder=decoder)
    model.save_pretrained(tmp_path / "base")
    before = copy.deepcopy(model.state_dict())
    wrapped, batch = train_lora(model)
    expected = logits(wrapped, batch)
    wrapped.save_pretrained(tmp_path / "adapter")
    merged = wrapped.merge_and_unload()
    assert type(merged) is VisionLanguageForConditionalGeneration
    torch.testing.assert_close(logits(merged, batch), expected, rtol=0, atol=1e-5)

    names = {module: f"{name}.weight" for name, module in merged.named_modules()}
    inputs, outputs = merged.get_input_embeddings(), merged.get_output_embeddings()
    assert (inputs.weight is outputs.weight) == (decoder not in ("llama", "gpt_neox"))
    after = merged.state_dict()
    assert set(after) == set(before)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    for module in (inputs, outputs):
        assert moved_rows(before[names[module]], after[names[module]]) == NEW
    others = moved - {names[inputs], names[outputs]}
    assert {name.split(".")[0] for name in others} == {"vision_model", "projector", "text_model"}
    assert all("attention" in name or "attn" in name or name.startswith("projector.") for name in others)

    merged.save_pretrained(tmp_path / "merged")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits(loaded, batch), logits(merged, batch))

    peft = pytest.importorskip("peft")
    again = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert torch.equal(logits(again, batch), expected)


BIASED = {
    "untied": hf.PhiConfig(**SMALL, pad_token_id=0),
    "tied": hf.BertConfig(**SMALL, pad_token_id=0, is_decoder=True),
}


@pytest.mark.parametrize("tied", BIASED)
def test_lora_trains_an_output_with_a_bias_in_full(tmp_path: Path, tied: str, monkeypatch) -> None:
    """The rows that peft trains of an output leave its bias out."""
    monkeypatch.setitem(DECODERS, "biased", lambda: BIASED[tied])
    wrapped, batch = train_lora(make_model(decoder="biased"))
    expected = logits(wrapped, batch)
    merged = wrapped.merge_and_unload()
    assert merged.get_output_embeddings().bias is not None
    torch.testing.assert_close(logits(merged, batch), expected, rtol=0, atol=1e-5)
    merged.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded, batch), logits(merged, batch))


def test_lora_leaves_a_frozen_vision_model_and_known_tokens_alone() -> None:
    model = make_model()
    freeze_layers(model, "vision", "all")
    before = copy.deepcopy(model.state_dict())
    after = train_lora(model, ())[0].merge_and_unload().state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {"projector", "text_model"}
    assert all("self_attn" in name for name in moved if name.startswith("text_model"))
