"""A vision model in front of a decoder: what it reads, what it writes, and what it refuses."""

import copy

import pytest
import torch
import transformers as hf
from conftest import VISION_CONFIGS, without_dropout
from PIL import Image
from test_processor import make_image_processor
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerFast, pipeline

from hf_multimodal.models import (
    VisionLanguageConfig,
    VisionLanguageForConditionalGeneration,
    VisionLanguageProcessor,
)

VOCABULARY, IMAGE = 64, 63
WIDE = {"vocab_size": VOCABULARY, "max_position_embeddings": 400, "eos_token_id": 1, "bos_token_id": 1}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, **WIDE}
DECODERS = {
    "llama": lambda: hf.LlamaConfig(**SMALL, pad_token_id=0),
    "qwen2": lambda: hf.Qwen2Config(**SMALL, num_key_value_heads=1, pad_token_id=0, tie_word_embeddings=True),
    "gpt2": lambda: hf.GPT2Config(
        vocab_size=VOCABULARY, n_positions=400, n_embd=16, n_layer=2, n_head=2, eos_token_id=1, bos_token_id=1
    ),
    "opt": lambda: hf.OPTConfig(**SMALL, ffn_dim=24, word_embed_proj_dim=12, pad_token_id=0),
    "bloom": lambda: hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2, eos_token_id=1),
    "gpt_neox": lambda: hf.GPTNeoXConfig(**SMALL, pad_token_id=0),
}
VISION = [name for name in VISION_CONFIGS if name not in ("vit_mae", "torchvision:vgg16")]
WORDS = ["[PAD]", "[END]", "[UNK]", "what", "is", "this", "a", "cat", "dog", "red", "user", "assistant"]


def make_model(vision="vit", decoder="llama", **fields):
    torch.manual_seed(0)
    config = VisionLanguageConfig(vision_config=VISION_CONFIGS[vision](), text_config=DECODERS[decoder](), **fields)
    model = VisionLanguageForConditionalGeneration(config)
    model.config.image_seq_length = model.count_image_tokens((32, 32))
    for parameter in model.text_model.parameters():  # no two tokens equally likely
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def make_batch(model, images=(1, 0, 2), words=(3, 5, 2), seed=0):
    """Rows with so many images and words, padded on the left, and their answers as labels."""
    draw = torch.Generator().manual_seed(seed)
    length, rows = model.config.image_seq_length, []
    for number, count in zip(images, words, strict=True):
        text = torch.randint(2, IMAGE, (count,), generator=draw)
        rows.append(torch.cat([torch.full((number * length,), IMAGE), text]))
    longest = max(map(len, rows))
    pads = [longest - len(row) for row in rows]
    ids = torch.stack([torch.nn.functional.pad(row, (pad, 0)) for row, pad in zip(rows, pads, strict=True)])
    mask = torch.stack([torch.arange(longest) >= pad for pad in pads]).long()
    labels = ids.masked_fill((ids == IMAGE) | (mask == 0), -100)
    labels.scatter_(1, torch.tensor(pads)[:, None], -100)  # nothing is read before the first token
    pixel_values = torch.randn(sum(images), 3, 32, 32, generator=draw)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixel_values, "labels": labels}


def rows_of(batch, row, images):
    """One row of a batch, alone and without padding."""
    before = sum(images[:row])
    real = batch["attention_mask"][row].bool()
    found = {name: batch[name][row][real][None] for name in ("input_ids", "attention_mask")}
    if images[row]:
        found["pixel_values"] = batch["pixel_values"][before : before + images[row]]
    return found


@pytest.mark.parametrize("vision", VISION)
def test_every_vision_model_trains_and_travels(vision, tmp_path):
    model = make_model(vision).train()
    batch = make_batch(model)
    model(**batch).loss.backward()
    lacking = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert lacking == []
    model.save_pretrained(tmp_path)
    for auto_class in (AutoModel, AutoModelForImageTextToText):
        loaded = auto_class.from_pretrained(tmp_path)
        assert type(loaded) is VisionLanguageForConditionalGeneration
        state = loaded.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(loaded).eval()(**batch).logits, model.eval()(**batch).logits)


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_trains_travels_and_writes_the_same_alone_and_in_a_batch(decoder, tmp_path):
    model = make_model(decoder=decoder)
    images = (1, 0, 2)
    batch = make_batch(model, images)
    model(**batch).loss.backward()
    model.save_pretrained(tmp_path)
    loaded = copy.deepcopy(AutoModelForImageTextToText.from_pretrained(tmp_path))
    labels = batch.pop("labels")
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    together = model.generate(**batch, **options)[:, labels.shape[1] :]
    assert torch.equal(loaded.generate(**batch, **options)[:, labels.shape[1] :], together)
    assert torch.equal(model.generate(**batch, **options, use_cache=False)[:, labels.shape[1] :], together)
    for row in range(3):
        alone = rows_of(batch, row, images)
        found = model.generate(**alone, **options)[:, alone["input_ids"].shape[1] :]
        assert torch.equal(found[0], together[row]), row


def test_images_stand_where_their_tokens_are():
    model = make_model()
    batch = make_batch(model)
    with torch.no_grad():
        features = model.get_image_features(batch["pixel_values"]).pooler_output
        embeds = model.get_input_embeddings()(batch["input_ids"])
        embeds[batch["input_ids"] == IMAGE] = features.flatten(0, 1)
        expected = model(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits
        found = model(**{**batch, "labels": None}).logits
    assert torch.equal(found, expected)


def test_rows_without_images_change_nothing_for_the_others_and_cost_the_vision_model_nothing(monkeypatch):
    model = make_model()
    images = (1, 0, 2)
    batch = make_batch(model, images)
    seen = []
    forward = type(model.vision_model).forward
    monkeypatch.setattr(
        type(model.vision_model),
        "forward",
        lambda self, pixel_values: seen.append(len(pixel_values)) or forward(self, pixel_values),
    )
    with torch.no_grad():
        together = model(**batch).logits
        for row in range(3):
            alone = rows_of(batch, row, images)
            logits = model(**alone).logits[0]
            torch.testing.assert_close(together[row][-len(logits) :], logits, rtol=1e-4, atol=1e-5)
    assert seen == [3, 1, 2]


def texts_alone(model):
    """A batch as the collator makes it of rows without images."""
    batch = make_batch(model, (0, 0, 0))
    del batch["pixel_values"]
    return batch


def statistics(model):
    return {name: value.clone() for name, value in model.vision_model.named_buffers() if "running" in name}


def refuse_to_see(*args, **kwargs):
    raise AssertionError("the vision model has nothing to see")


@pytest.mark.parametrize("vision", VISION)
def test_in_training_each_parameter_has_a_gradient_without_an_image_too(vision):
    """DDP and FSDP need one on every process, and the processes next door may have images."""
    model = without_dropout(make_model(vision)).train()
    batch, before = texts_alone(model), statistics(model)
    expected = model.eval()(**batch).loss
    found = model.train()(**batch).loss
    assert torch.equal(found, expected)
    found.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    reading = {name: gradient for name, gradient in gradients.items() if not name.startswith("text_model.")}
    assert reading and not any(gradient.any() for gradient in reading.values())
    assert all(torch.equal(value, before[name]) for name, value in statistics(model).items())


def test_texts_alone_do_not_run_the_vision_model_in_evaluation_or_where_it_does_not_learn(monkeypatch):
    model = make_model()
    batch = texts_alone(model)
    monkeypatch.setattr(type(model.vision_model), "forward", refuse_to_see)
    model(**batch)
    model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=3, pad_token_id=0)
    with pytest.raises(AssertionError, match="nothing to see"):
        model.train()(**batch)
    for part in (model.vision_model, model.projector):
        part.requires_grad_(False)
    model(**batch).loss.backward()


@pytest.mark.parametrize("images", [1, 2])
def test_a_lone_image_is_normalised_by_running_statistics(images):
    model = make_model("resnet").train()
    before = statistics(model)
    model(**make_batch(model, (images, 0, 0)))
    after = statistics(model)
    assert before and all(torch.equal(after[name], value) for name, value in before.items()) == (images == 1)


def test_padding_may_stand_on_either_side():
    model = make_model(decoder="gpt2")
    batch = make_batch(model)
    right = {"pixel_values": batch["pixel_values"]}
    for name in ("input_ids", "attention_mask", "labels"):
        fill = -100 if name == "labels" else 0
        rows = []
        for row, mask in zip(batch[name], batch["attention_mask"].bool(), strict=True):
            rows.append(torch.cat([row[mask], row.new_full(((~mask).sum(),), fill)]))
        right[name] = torch.stack(rows)
    torch.testing.assert_close(model(**right).loss, model(**batch).loss)


def test_the_loss_is_a_mean_over_the_tokens_of_all_batches_of_a_step():
    model = make_model()
    batch = make_batch(model, (1, 1, 1), (2, 5, 3))
    whole = model(**batch).loss
    counted = (batch["labels"][:, 1:] != -100).sum()
    parts = []
    for row in range(3):
        part = {name: value[row : row + 1] for name, value in batch.items()}
        parts.append(model(**part, num_items_in_batch=counted).loss)
    torch.testing.assert_close(sum(parts), whole)


def test_sequences_of_a_text_keep_its_images_together():
    """With several images in a row, repeating each image by itself would mix them up."""
    model = make_model()
    batch = make_batch(model, (2, 0, 1), (3, 4, 5))
    del batch["labels"]
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    single = model.generate(**batch, **options)
    beams = model.generate(**batch, **options, num_beams=3, num_return_sequences=3)
    assert beams.shape[0] == 9
    torch.manual_seed(0)
    several = model.generate(**batch, **{**options, "do_sample": True, "top_k": 1}, num_return_sequences=2)
    assert torch.equal(several, single.repeat_interleave(2, dim=0))


def test_the_image_token_is_never_written():
    model = make_model()
    with torch.no_grad():
        model.get_output_embeddings().weight[IMAGE] *= 50
    batch = make_batch(model, (1,), (3,))
    del batch["labels"]
    for cache in (True, False):
        found = model.generate(**batch, max_new_tokens=30, min_new_tokens=30, use_cache=cache, pad_token_id=0)
        assert IMAGE not in found[0, batch["input_ids"].shape[1] :]


def test_tokens_and_images_that_do_not_match_are_counted():
    model = make_model()
    batch = make_batch(model, (1, 0, 2))
    length = model.config.image_seq_length
    with pytest.raises(ValueError, match=rf"2 images take {2 * length} image tokens .* got {3 * length}"):
        model(**{**batch, "pixel_values": batch["pixel_values"][:2]})


def test_images_of_another_size_are_refused_by_their_number_of_tokens():
    model = make_model("convnext")
    batch = make_batch(model, (1,), (3,))
    batch["pixel_values"] = torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"has 16 tokens .* \(64, 64\) pixels have 64"):
        model(**batch)


def test_decoders_with_a_state_and_models_that_are_none_are_refused():
    vision = VISION_CONFIGS["vit"]()
    for config, why in ((hf.MambaConfig(vocab_size=8), "state runs through"), (hf.ViTConfig(), "no causal")):
        if not hasattr(config, "vocab_size"):
            config.vocab_size = 8
        with pytest.raises(ValueError, match=f"{config.model_type}.*{why}"):
            VisionLanguageForConditionalGeneration(VisionLanguageConfig(vision_config=vision, text_config=config))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_token_id": 64}, "one of the decoder's 64 ids, got 64"),
        ({"image_seq_length": 0}, "image_seq_length must be 1 or more, got 0"),
    ],
)
def test_configurations_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make_model(**fields)


# The processor


def make_tokenizer(**kwargs):
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "eos_token": "[END]", **kwargs}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def make_processor(length=4, **kwargs):
    return VisionLanguageProcessor(make_image_processor(), make_tokenizer(**kwargs), image_seq_length=length)


def picture():
    return Image.new("RGB", (12, 9), "red")


def conversation(*turns, image=True):
    messages = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in zip(("user", "assistant") * 3, turns, strict=False)
    ]
    if image:
        messages[0]["content"].insert(0, {"type": "image", "image": picture()})
    return messages


def test_an_image_is_written_out_as_its_tokens():
    processor = make_processor(4)
    found = processor(images=[picture()], text=["<image> what is this"], return_tensors="pt")
    assert found["input_ids"].tolist()[0][:4] == [processor.image_token_id] * 4
    assert (found["input_ids"] == processor.image_token_id).sum() == 4 and found["pixel_values"].shape == (1, 3, 8, 8)


def test_texts_are_padded_on_the_left():
    found = make_processor()(text=["what is this", "cat"], padding=True, return_tensors="pt")
    assert found["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


def test_what_the_assistant_says_is_known_in_every_turn():
    processor = make_processor(4)
    messages = conversation("what is this", "a cat", "is this red", "red")
    found = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )
    mask = torch.as_tensor(found["assistant_masks"])[0].bool()
    said = processor.tokenizer.convert_ids_to_tokens(found["input_ids"][0][mask])
    assert said == ["a", "cat", "<|im_end|>", "red", "<|im_end|>"]
    assert (found["input_ids"] == processor.image_token_id).sum() == 4


@pytest.mark.parametrize(("text", "images"), [("<image> <image> a", 1), ("a", 1), ("<image> a", 0)])
def test_more_or_fewer_image_tokens_than_images_are_refused(text, images):
    with pytest.raises(ValueError, match="<image> tokens"):
        make_processor()(images=[picture()] * images or None, text=[text])


def test_a_processor_is_saved_with_its_tokens_and_loaded_again(tmp_path):
    processor = make_processor(5)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is VisionLanguageProcessor and loaded.image_seq_length == 5
    assert loaded.tokenizer.padding_side == "left" and loaded.chat_template == processor.chat_template
    assert len(loaded.tokenizer) == len(processor.tokenizer) == len(WORDS) + 3
    messages = conversation("what is this")
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    assert (
        loaded.apply_chat_template(messages, **options)["input_ids"]
        == (processor.apply_chat_template(messages, **options)["input_ids"])
    )


def test_a_tokenizer_keeps_its_own_template():
    template = "{% for m in messages %}{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}"
    processor = make_processor(chat_template=template)
    assert processor.chat_template == template and "<|im_end|>" not in processor.tokenizer.get_vocab()


@pytest.mark.parametrize(("length", "message"), [(0, "image_seq_length must be 1 or more, got 0")])
def test_a_processor_out_of_range_is_refused(length, message):
    with pytest.raises(ValueError, match=message):
        make_processor(length)
    with pytest.raises(ValueError, match="needs an image_processor and a tokenizer"):
        VisionLanguageProcessor(make_image_processor())


def make_with_processor(vision="vit"):
    """A model over images of 32 pixels, and its processor."""
    processor = make_processor(1)
    processor.image_processor.size = {"height": 32, "width": 32}
    text = hf.LlamaConfig(**{**SMALL, "vocab_size": len(processor.tokenizer)}, pad_token_id=0)
    torch.manual_seed(0)
    config = VisionLanguageConfig(
        vision_config=VISION_CONFIGS[vision](), text_config=text, image_token_id=processor.image_token_id
    )
    model = VisionLanguageForConditionalGeneration(config).eval()
    processor.image_seq_length = model.config.image_seq_length = model.count_image_tokens((32, 32))
    return model, processor


def test_the_pipeline_of_transformers_answers(tmp_path):
    for part in make_with_processor():
        part.save_pretrained(tmp_path)
    ask = pipeline("image-text-to-text", model=str(tmp_path))
    (found,) = ask(text=conversation("what is this"), max_new_tokens=5, return_full_text=False)
    assert isinstance(found["generated_text"], str)
    several = ask(text=[conversation("what is this"), conversation("a dog", image=False)], max_new_tokens=5)
    assert len(several) == 2
