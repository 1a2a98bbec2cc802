"""Conversations in every form and file that data sets have, read by `load_data`, checked as all rows are."""

import json

import pytest
from datasets import Dataset, DatasetDict, Image, List
from PIL import Image as Picture

from hf_multimodal.data.checks import BadSamplesError, check_splits
from hf_multimodal.data.conversations import (
    read_conversation,
    with_captions_as_answers,
    without_lost_images,
)
from hf_multimodal.data.loading import load_data
from hf_multimodal.data.splits import complete_splits
from hf_multimodal.synthetic.questions import make_questions

ASKED, SAID = {"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A cat."}
LLAVA = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(4):
        Picture.new("RGB", (8, 8), (60 * number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    return tmp_path


def write(path, rows):
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def load(path, **options):
    return load_data(path, conversations=True, **options)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_llava_files_are_read_with_rows_without_an_image(folder, suffix):
    rows = [{"id": f"a{i}", "image": f"images/{i}.png", "conversations": LLAVA} for i in range(2)]
    rows.append({"id": 7, "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]})
    data = load(write(folder / f"chat{suffix}", rows))
    found = list(data.splits["train"])
    assert data.columns["text"] == "conversations" and [row["id"] for row in found] == ["a0", "a1", "7"]
    assert found[0]["messages"] == [{"role": "user", "content": "<image>\nWhat?"}, SAID]
    assert found[0]["image"]["path"].endswith("0.png") and found[2]["image"] is None
    assert found[2]["text"] == "Hi\nHello." and all(row["faults"] == [] for row in found)


def test_a_json_file_is_a_list_of_objects(folder):
    with pytest.raises(ValueError, match=r"chat.json: a list of JSON objects is expected, a row each, got '\{"):
        load(write(folder / "chat.json", {"image": "a.png"}))
    with pytest.raises(ValueError, match="chat.json, row 1: a JSON object is expected, got '3'"):
        load(write(folder / "chat.json", [{"image": "a.png"}, 3]))
    (folder / "chat.json").write_text("[{")
    with pytest.raises(ValueError, match="chat.json: not JSON"):
        load(folder / "chat.json")


def test_json_tables_serve_classifiers_too(folder):
    path = write(folder / "a.json", [{"image": f"images/{i}.png", "label": "ab"[i % 2]} for i in range(4)])
    assert load_data(path).id2label == {0: "a", 1: "b"}


def test_trl_messages_with_a_list_of_one_image_are_read(folder):
    picture = {"bytes": (folder / "images" / "0.png").read_bytes(), "path": None}
    parts = [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]
    messages = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
    ]
    rows = Dataset.from_dict({"images": [[picture]] * 2, "messages": [messages] * 2}).cast_column(
        "images", List(Image())
    )
    DatasetDict({"train": rows, "test": rows}).save_to_disk(str(folder / "saved"))
    data = load(folder / "saved", image_root=folder)
    assert data.splits["test"][1]["messages"] == [ASKED, SAID]
    assert data.splits["test"][1]["image"]["bytes"] == picture["bytes"]


def test_questions_and_answers_are_conversations_of_one_turn(folder):
    (folder / "vqa.csv").write_text(
        "image,question,answer,kind\nimages/0.png,What?,A cat.,shape\nimages/1.png,Who?,,colour\n"
    )
    rows = load(folder / "vqa.csv", group_column="kind").splits["train"]
    assert rows[0]["messages"] == [ASKED, SAID] and rows[0]["group"] == "shape"
    assert rows[1]["messages"] is None and "turn 2, of 'assistant', is empty" in rows[1]["faults"][0]["reason"]


def test_questions_under_other_names_need_both_columns(folder):
    (folder / "vqa.csv").write_text("image,q,a\nimages/0.png,What?,A cat.\n")
    with pytest.raises(
        ValueError, match=r"no conversations, which stand in `messages`.*columns are \['image', 'q', 'a'\]"
    ):
        load(folder / "vqa.csv")
    rows = load(folder / "vqa.csv", text_column="q").splits["train"]
    assert "a question needs an answer (answer_column)" in rows[0]["faults"][0]["reason"]
    assert load(folder / "vqa.csv", text_column="q", answer_column="a").splits["train"][0]["messages"] == [ASKED, SAID]


def test_conversations_in_the_cells_of_a_csv_are_json(folder):
    cell = json.dumps(LLAVA).replace('"', '""')
    (folder / "chat.csv").write_text(f'image,conversations\nimages/0.png,"{cell}"\nimages/1.png,"[{{"\n')
    rows = load(folder / "chat.csv").splits["train"]
    assert rows[0]["messages"][1] == SAID and "not JSON" in rows[1]["faults"][0]["reason"]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([{"from": "human", "value": "<image><image>?"}, LLAVA[1]], "name 2 images by <image>, and the row has 1"),
        ([LLAVA[1], LLAVA[0]], "a conversation begins with the user"),
        ([LLAVA[0], {"from": "gpt", "value": " "}], "turn 2, of 'gpt', is empty"),
        ([LLAVA[0], {"from": "robot", "value": "Beep"}], "turn 2 is of 'robot'"),
        ([LLAVA[0], {"value": "A cat."}], "turn 2 has neither `role` and `content` nor `from` and `value`"),
        (["What?", "A cat."], "turn 1 has neither"),
        (7, "a conversation|turn|question"),
    ],
)
def test_a_conversation_that_cannot_be_read_is_a_bad_sample(folder, turns, reason):
    rows = [{"image": f"images/{i}.png", "conversations": LLAVA} for i in range(3)]
    rows.append({"image": "images/3.png", "conversations": turns})
    data = load(write(folder / "chat.json", rows))
    with pytest.raises(BadSamplesError, match=f"row 3 .*column 'conversations'.*({reason})"):
        check_splits(data, policy="error", prediction=True)
    checked, samples = check_splits(data, policy="drop", prediction=True)
    assert len(checked.splits["train"]) == 3 and [sample.action for sample in samples] == ["dropped"]


def test_an_image_missing_on_disk_follows_the_policy(folder):
    rows = [{"image": f"images/{i}.png", "conversations": LLAVA} for i in (0, 99)]
    data = load(write(folder / "chat.json", rows))
    with pytest.raises(BadSamplesError, match="99.png' is missing: there is no such file"):
        check_splits(data, policy="error", prediction=True)
    checked, _ = check_splits(data, policy="missing", prediction=True)
    left = without_lost_images(checked.splits["train"])
    assert left["messages"][1][0]["content"] == "\nWhat?" and left["messages"][0][0]["content"] == "<image>\nWhat?"


def test_a_turn_that_was_the_lost_image_alone_leaves_with_its_row(folder):
    alone = [{"from": "human", "value": "<image>"}, LLAVA[1]]
    rows = [{"image": f"images/{i}.png", "conversations": alone} for i in (0, 99)]
    checked, _ = check_splits(load(write(folder / "chat.json", rows)), policy="missing", prediction=True)
    assert without_lost_images(checked.splits["train"])["id"][:] == ["0"]


def test_splits_are_made_and_equal_conversations_kept_on_one_side(folder):
    rows = [{"image": f"images/{i % 4}.png", "conversations": LLAVA} for i in range(20)]
    data = load(write(folder / "chat.json", rows))
    splits = complete_splits(data.splits)
    assert {str(name): len(rows) for name, rows in splits.items()} == {"train": 14, "validation": 2, "test": 4}


def test_controlled_questions_come_with_their_kinds():
    data = load("controlled:questions", train_size=3, validation_size=2, test_size=2)
    row = data.splits["test"][1]
    assert row["messages"] == make_questions(2, split="test")[1]["messages"] and row["kinds"]
    assert row["text"].startswith(row["messages"][0]["content"]) and data.generated
    four = load("controlled:questions_four_shapes", train_size=40, splits=["train"])
    assert max(four.splits["train"]["shapes"]) == 4
    held_out = load("controlled:questions_held_out", train_size=40, test_size=40)
    assert not any(held_out.splits["train"]["held_out"]) and any(held_out.splits["test"]["held_out"])


def test_controlled_questions_are_no_data_of_classifiers():
    with pytest.raises(ValueError, match="'questions' is one of conversations: `train-vision-language`"):
        load_data("controlled:questions")
    with pytest.raises(ValueError, match="must be one of .*, got 'question'. Did you mean 'questions'"):
        load("controlled:question")


def test_read_conversation_gives_all_that_is_said():
    text, messages = read_conversation([{"role": "system", "content": "Be brief."}, ASKED, SAID], None, 1)
    assert text == "Be brief.\nWhat?\nA cat." and [turn["role"] for turn in messages] == [
        "system",
        "user",
        "assistant",
    ]


def test_captions_are_answers_to_a_prompt():
    rows = with_captions_as_answers(Dataset.from_dict({"text": ["A dog runs."]}), "Describe it.")
    assert rows["messages"][0] == [
        {"role": "user", "content": "<image>Describe it."},
        {"role": "assistant", "content": "A dog runs."},
    ]
