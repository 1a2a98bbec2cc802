"""Conversations in every form that data sets have, and the labels that a collator makes of them."""

import copy

import datasets as hf_datasets
import pytest
import torch
from PIL import Image
from test_vision_language import conversation, make_processor, make_with_processor
from tokenizers import processors

from hf_multimodal import ConversationCollator, MultimodalTrainer, MultimodalTrainingArguments
from hf_multimodal.data.conversations import messages_of
from hf_multimodal.data.images import BadImageError
from hf_multimodal.synthetic.questions import make_questions

FORMS = {
    "messages": [{"role": "user", "content": "what"}, {"role": "assistant", "content": "cat"}],
    "conversations": [{"from": "human", "value": "what"}, {"from": "gpt", "value": "cat"}],
}


def picture(colour="red"):
    return Image.new("RGB", (9, 7), colour)


def spoken(messages):
    return [(message["role"], [part.get("text", "IMAGE") for part in message["content"]]) for message in messages]


@pytest.mark.parametrize("form", ["messages", "conversations", "question"])
def test_every_form_gives_the_same_messages(form):
    row = {"question": "what", "answer": "cat"} if form == "question" else {form: FORMS[form]}
    assert spoken(messages_of(row, 0)) == [("user", ["what"]), ("assistant", ["cat"])]
    assert spoken(messages_of(row, 1)) == [("user", ["IMAGE", "what"]), ("assistant", ["cat"])]


def test_images_stand_where_they_are_named():
    row = {"question": "in <image> and <image>\nwhat", "answer": "cat"}
    assert spoken(messages_of(row, 2))[0] == ("user", ["in ", "IMAGE", " and ", "IMAGE", "\nwhat"])


def test_parts_of_chat_templates_are_read():
    messages = conversation("what", "cat")
    assert spoken(messages_of({"messages": messages}, 1)) == [("user", ["IMAGE", "what"]), ("assistant", ["cat"])]


@pytest.mark.parametrize(
    ("turns", "images", "message"),
    [
        ([("assistant", "hello"), ("user", "what")], 0, r"row 7: a conversation begins with the user, .*'assistant'"),
        ([("user", "what"), ("assistant", " ")], 0, "row 7: turn 2, of 'assistant', is empty"),
        ([("user", "what"), ("assistant", None)], 0, "row 7: turn 2, of 'assistant', is empty"),
        ([("user", "what"), ("robot", "cat")], 0, "row 7: turn 2 is of 'robot', which is none of"),
        ([("user", "what")], 0, "row 7: the assistant says nothing"),
        ([("user", "<image> what <image>"), ("assistant", "cat")], 1, "name 2 images by <image>, and the row has 1"),
        ([("user", "<image> what"), ("assistant", "cat")], 2, "name 1 images by <image>, and the row has 2"),
        ([("user", "<image> what"), ("assistant", "cat")], 0, "name 1 images by <image>, and the row has 0"),
    ],
)
def test_what_is_no_conversation_is_refused(turns, images, message):
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    with pytest.raises(ValueError, match=message):
        messages_of(row, images, 7)


def test_a_row_of_other_columns_is_told_what_is_read():
    with pytest.raises(ValueError, match=r"stands in `messages`.*got the columns \['caption'\]"):
        messages_of({"caption": "a cat"}, 0)


def rows_of():
    return [
        {"image": picture(), "messages": FORMS["messages"], "id": "one"},
        {"image": None, "question": "is this a red dog", "answer": "a cat"},
        {"image": [picture(), picture("blue")], "question": "<image> <image> what", "answer": "dog"},
    ]


def test_labels_stand_on_what_the_assistant_says_and_its_end():
    processor = make_processor(4)
    batch = ConversationCollator(processor)(rows_of())
    said = [processor.tokenizer.convert_ids_to_tokens(row[row != -100]) for row in batch["labels"]]
    assert said == [["cat", "<|im_end|>"], ["a", "cat", "<|im_end|>"], ["dog", "<|im_end|>"]]
    learned = batch["labels"] != -100
    assert torch.equal(batch["labels"][learned], batch["input_ids"][learned])
    counts = (batch["input_ids"] == processor.image_token_id).sum(dim=1)
    assert counts.tolist() == [4, 0, 8] and batch["pixel_values"].shape == (3, 3, 8, 8)
    assert batch["attention_mask"][:, -1].all() and (batch["attention_mask"].sum(dim=1) == 0).sum() == 0
    assert not batch["attention_mask"][batch["input_ids"] == processor.tokenizer.pad_token_id].any()


def test_a_batch_without_images_has_no_pixels():
    assert "pixel_values" not in ConversationCollator(make_processor(4))(rows_of()[1:2])


def test_every_turn_of_a_conversation_is_learned():
    processor = make_processor(4)
    texts = zip(("user", "assistant") * 2, ("what", "cat", "is", "dog"), strict=True)
    turns = [{"role": role, "content": text} for role, text in texts]
    labels = ConversationCollator(processor)([{"messages": turns}])["labels"][0]
    said = processor.tokenizer.convert_ids_to_tokens(labels[labels != -100])
    assert said == ["cat", "<|im_end|>", "dog", "<|im_end|>"]


def test_a_cut_reaches_neither_images_nor_all_labels():
    processor = make_processor(4)
    row = rows_of()[0]
    length = ConversationCollator(processor)([row])["input_ids"].shape[1]
    cut = ConversationCollator(processor, max_length=length - 1)([row])
    assert cut["input_ids"].shape[1] == length - 1 and (cut["labels"] != -100).sum() >= 1
    for shorter in (3, length - 2):
        with pytest.raises(ValueError, match=rf"row 'one' has {length} tokens, and cut to {shorter}"):
            ConversationCollator(processor, max_length=shorter)([row])


def test_rows_are_cut_where_the_tokenizer_says_unless_told():
    processor = make_processor(4)
    row = rows_of()[0]
    length = ConversationCollator(processor)([row])["input_ids"].shape[1]
    processor.tokenizer.model_max_length = length - 1
    assert ConversationCollator(processor)([row])["input_ids"].shape[1] == length - 1
    with pytest.raises(ValueError, match=rf"max_length must be at most {length - 1}, which the text model reads"):
        ConversationCollator(processor, max_length=length)


UNREAD = hf_datasets.Image(decode=False)


def make_dataset(several):
    """Conversations with one image a row, or with several; what is no image is never opened."""
    broken = {"bytes": b"no image"}
    image = hf_datasets.Image()
    rows = [
        {"image": [broken] if several else broken, "messages": FORMS["messages"]},
        {"image": None, "messages": [*FORMS["messages"], {"role": "user", "content": "is this a red dog"}]},
        {"image": [broken] * 3 if several else broken, "messages": FORMS["messages"][::-1] + FORMS["messages"]},
    ]
    rows[2]["messages"] = [{"role": "user", "content": "<image> a cat" * (3 if several else 1)}, *rows[2]["messages"]]
    message = {"role": hf_datasets.Value("string"), "content": hf_datasets.Value("string")}
    features = {"image": hf_datasets.List(image) if several else image, "messages": hf_datasets.List(message)}
    return hf_datasets.Dataset.from_list(rows, features=hf_datasets.Features(features)).select([2, 0, 1])


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("begin", [None, "[END]"])
def test_lengths_are_those_of_the_batch_and_no_image_is_opened(several, begin):
    processor = make_processor(4)
    if begin:  # as the tokenizer of Llama puts one before every text
        number = processor.tokenizer.convert_tokens_to_ids(begin)
        special = [(begin, number)]
        processor.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=special
        )
    rows = make_dataset(several)
    whole, needed = ConversationCollator(processor).lengths(rows)
    plain = rows.cast_column("image", hf_datasets.List(UNREAD) if several else UNREAD)
    for row, length, least in zip(plain, whole, needed, strict=True):
        if row["image"] is not None:
            row["image"] = [picture()] * len(row["image"]) if several else picture()
        assert ConversationCollator(processor, max_length=10_000)([row])["input_ids"].shape[1] == length
        cut = ConversationCollator(processor, max_length=int(least))([row])
        assert cut["input_ids"].shape[1] == least < length
        with pytest.raises(ValueError, match=f"cut to {least - 1}"):
            ConversationCollator(processor, max_length=int(least) - 1)([row])


def test_lengths_of_rows_without_images_and_of_none():
    collator = ConversationCollator(make_processor(4))
    rows = hf_datasets.Dataset.from_dict({"question": ["what", "is this"], "answer": ["cat", "a dog"]})
    assert [part.tolist() for part in collator.lengths(rows)] == [[8, 10], [7, 8]]
    assert [part.tolist() for part in collator.lengths(rows.select([]))] == [[], []]


def test_an_unreadable_image_is_an_error_or_leaves_the_conversation():
    processor = make_processor(4)
    row = {"id": "seven", "image": {"bytes": b"no image"}, "question": "<image> what", "answer": "cat"}
    with pytest.raises(BadImageError, match=r"row seven, column image"):
        ConversationCollator(processor)([row])
    collator = ConversationCollator(processor, on_bad_image="missing")
    for one in (collator, collator.for_evaluation()):
        with pytest.warns(UserWarning, match="row seven, column image"):
            batch = one([row])
        assert torch.equal(batch["input_ids"], one([{"question": " what", "answer": "cat"}])["input_ids"])
        assert "pixel_values" not in batch
    row["image"] = [row["image"], picture("blue")]
    row["question"] = "<image> and <image> what"
    with pytest.warns(UserWarning, match="row seven"):
        batch = collator([row])
    expected = collator([{"image": picture("blue"), "question": " and <image> what", "answer": "cat"}])
    assert all(torch.equal(batch[name], value) for name, value in expected.items())


def test_a_turn_that_was_an_unreadable_image_alone_is_refused():
    turns = [("user", "<image>"), ("assistant", "cat"), ("user", "what"), ("assistant", "a dog")]
    messages = [{"role": role, "content": content} for role, content in turns]
    collator = ConversationCollator(make_processor(4), on_bad_image="missing")
    with (
        pytest.raises(ValueError, match="row 7: a turn is an image alone, which cannot be read: leave the row out"),
        pytest.warns(UserWarning),
    ):
        collator([{"index": 7, "image": {"bytes": b"no image"}, "messages": messages}])


def test_a_template_without_marks_is_refused():
    processor = make_processor(4)
    processor.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ValueError, match="has no {% generation %}"):
        ConversationCollator(processor)


def test_a_vision_language_model_learns_questions_by_our_trainer(tmp_path):
    """A smoke test: the loss falls, both models learn, and the folder answers."""
    model, processor = make_with_processor()
    before = copy.deepcopy(model.state_dict())
    rows = make_questions(16)
    args = MultimodalTrainingArguments(
        str(tmp_path), max_steps=6, per_device_train_batch_size=8, learning_rate=1e-2, logging_steps=1, use_cpu=True
    )
    trainer = MultimodalTrainer(model, args, ConversationCollator(processor), train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    after = model.state_dict()
    for part in ("vision_model", "projector", "text_model"):
        assert any(not torch.equal(after[name], value) for name, value in before.items() if name.startswith(part))
