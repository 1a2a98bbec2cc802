"""The author of models of every family: pushes each in another way, and pulls them back with the package imported.

Run as a process of its own, `python author.py folder`, with HF_ENDPOINT and HF_TOKEN set. `TOKEN` and `WRONG_TOKEN`
are two more tokens, the first as good as HF_TOKEN. Leaves `answers.json`, and a batch and logits of each model.
"""

import copy
import json
import os
import re
import sys
from pathlib import Path

import torch
from conftest import make_batch
from datasets import Dataset
from huggingface_hub import HfApi
from PIL import Image
from test_fusion_model import make_model
from test_generators import DECODER, TOKENIZER
from test_processor import make_image_processor, make_tokenizer
from test_scripts import script, write_table
from test_train_aligner import FAST, make_rows
from transformers import AutoConfig, AutoModel, AutoProcessor, Trainer, TrainingArguments

from hf_multimodal import (
    MultimodalCollator,
    MultimodalProcessor,
    MultimodalTrainingArguments,
    RobustFusionForImageTextClassification,
)
from hf_multimodal.hub.upload import push_folder
from hf_multimodal.inference.prediction import load_model
from hf_multimodal.training.trainer import MultimodalTrainer

FOLDER, API = Path(sys.argv[1]), HfApi()
CARD = """our own card ![curve](curve.png)
model = AutoModel.from_pretrained("runs/own", trust_remote_code=True).eval()
other = AutoModel.from_pretrained("base", trust_remote_code=True)"""
OUTPUTS = {"fusion": "logits", "robust": "logits", "aligner": "logits_per_image"}


def error_of(function, *args, **kwargs):
    """What a call that must fail says."""
    try:
        function(*args, **kwargs)
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError(f"{function} did not fail")


def push_fusion():
    """By `push_to_hub` of model and processor; then the model again, with other weights."""
    model = make_model("vit", "bert")
    model.push_to_hub("me/fusion")
    older = MultimodalProcessor(make_image_processor(), make_tokenizer()).push_to_hub("me/fusion").oid
    with torch.no_grad():
        model.classifier.bias += 1
    return older, model.push_to_hub("me/fusion").oid


def push_robust():
    """By the plain `Trainer`, which pushes each checkpoint too."""
    batch = {**make_batch(), "labels": torch.tensor([0, 1, 2, 0])}
    args = TrainingArguments(
        str(FOLDER / "robust"),
        push_to_hub=True,
        hub_model_id="me/robust",
        max_steps=2,
        save_steps=1,
        use_cpu=True,
        report_to="none",
        remove_unused_columns=False,
    )
    processor = MultimodalProcessor(make_image_processor(), make_tokenizer())
    examples = [{name: value[row] for name, value in batch.items()} for row in range(4)]
    model = make_model("torchvision:resnet18", "recurrent_text:gru", RobustFusionForImageTextClassification)
    trainer = Trainer(model, args, train_dataset=examples, processing_class=processor)
    trainer.train()
    return trainer.push_to_hub().oid


def push_own():
    """By `MultimodalTrainer`, a checkpoint and then the end; a card stands in the folder. A branch gets the same."""
    processor = MultimodalProcessor(make_image_processor(), make_tokenizer())
    args = MultimodalTrainingArguments(
        str(FOLDER / "own"),
        push_to_hub=True,
        hub_model_id="me/own",
        hub_token=os.environ["TOKEN"],
        hub_always_push=True,
        max_steps=2,
        save_steps=1,
        save_total_limit=1,
        use_cpu=True,
        report_to="none",
        remove_unused_columns=False,
    )
    rows = [{"image": Image.new("RGB", (8, 8), colour), "text": "a dog", "label": 1} for colour in ("red", "blue")]
    model = make_model("torchvision:resnet18", "recurrent_text:gru")
    collator = MultimodalCollator(processor)
    trainer = MultimodalTrainer(model, args, data_collator=collator, train_dataset=Dataset.from_list(rows))
    (FOLDER / "own").mkdir(exist_ok=True)
    (FOLDER / "own" / "README.md").write_text(CARD)
    (FOLDER / "own" / "curve.png").write_bytes(b"a curve")
    trainer.train()
    trainer.push_to_hub()
    draft = push_folder(FOLDER / "own", "me/own", revision="draft", commit_message="A draft")
    pulled = AutoModel.from_pretrained("me/own", revision=draft.oid).state_dict()
    return all(torch.equal(value, pulled[name]) for name, value in model.state_dict().items())


def push_aligner():
    """By the training script, and its folder once more, to a private repository, by the script that only pushes."""
    table = write_table(FOLDER / "captions.csv", make_rows(FOLDER))
    flags = ["--push_to_hub", "--hub_model_id", "me/aligner", "--hub_token", os.environ["TOKEN"]]
    script("train_aligner")(["--data", str(table), "--output_dir", str(FOLDER / "aligner"), *FAST, *flags])
    private = ["--repo_id", "me/private", "--private", "--hub_token", os.environ["TOKEN"]]
    pushed = script("push_to_hub")(["--model", str(FOLDER / "aligner"), *private])
    return API.model_info("me/aligner").sha, pushed["revision"]


def push_generators():
    """By their training commands, the second with the image tokenizer that the first has pushed."""
    push = ["--push_to_hub", "--hub_token", os.environ["TOKEN"], "--hub_model_id"]
    tokenizer, decoder = "me/image_tokenizer", "me/text_to_image"
    script("train_image_tokenizer")([*TOKENIZER, "--output_dir", str(FOLDER / "image_tokenizer"), *push, tokenizer])
    flags = ["--image_tokenizer", tokenizer, "--output_dir", str(FOLDER / "text_to_image")]
    script("train_text_to_image")([*DECODER, *flags, *push, decoder])
    return {name: API.model_info(f"me/{name}").sha for name in ("image_tokenizer", "text_to_image")}


def push_in_shards():
    """The weights of a larger model, in shards, over those in one file; what is pulled are the new ones."""
    processor = MultimodalProcessor(make_image_processor(), make_tokenizer())
    model = make_model("torchvision:resnet18", "recurrent_text:gru")
    for value, size in ((1.0, "1GB"), (2.0, "10MB")):
        torch.nn.init.constant_(model.classifier.bias, value)
        folder = FOLDER / f"shards-{value}"
        model.save_pretrained(folder, max_shard_size=size)
        processor.save_pretrained(folder)
        push_folder(folder, "me/shards")
    return AutoModel.from_pretrained("me/shards").classifier.bias.unique().tolist()


def run_page():
    """The Python blocks of docs/sharing.md, with a folder and a hash that there are."""
    page = Path(__file__).parents[1] / "docs" / "sharing.md"
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        block = block.replace('"0123456789abcdef0123456789abcdef01234567"', "commit.oid").replace(
            '"runs/mine"', repr(str(FOLDER / "own"))
        )
        exec(block, names)
    return list(names["model"](**names["inputs"]).logits.shape)


def pull(name, revision):
    """With the package imported no code of the repository is trusted."""
    config = AutoConfig.from_pretrained(f"me/{name}", revision=revision)
    model = AutoModel.from_pretrained(f"me/{name}", revision=revision, trust_remote_code=False)
    processor = AutoProcessor.from_pretrained(f"me/{name}", revision=revision)
    batch = make_batch()
    if name == "aligner":
        pil_images = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
        batch = dict(processor(images=pil_images, text=["a red thing", "one", "a blue"], return_tensors="pt"))
    with torch.no_grad():
        logits = copy.deepcopy(model).eval()(**batch)[OUTPUTS[name]]
    torch.save(batch, FOLDER / f"{name}.batch.pt")
    torch.save(logits, FOLDER / f"{name}.expected.pt")
    ids = processor(text=["a red dog", None])["input_ids"]
    return model, {
        "revision": revision,
        "config": type(config).__name__,
        "model": type(model).__name__,
        "output": OUTPUTS[name],
        "auto_class": model.auto_classes[1],
        "ids": ids,
    }


def refusals(private, older):
    """What is said to wrong tokens, and of a pickle that somebody put beside the weights."""
    wrong = os.environ["WRONG_TOKEN"]
    found = {
        "pull": error_of(AutoModel.from_pretrained, "me/private", token=wrong),
        "push": error_of(push_folder, FOLDER / "aligner", "me/private", token=wrong),
        "private": error_of(push_folder, FOLDER / "aligner", "me/aligner", private=True),
        "create": error_of(push_folder, FOLDER / "aligner", "me/new", token=wrong),
    }
    with_token, _ = load_model("me/private", revision=private)
    found["with the right token"] = type(with_token).__name__
    API.upload_file(path_or_fileobj=b"a pickle", path_in_repo="pytorch_model.bin", repo_id="me/fusion")
    found["load"] = error_of(load_model, "me/fusion")
    found["push beside"] = error_of(push_folder, FOLDER / "aligner", "me/fusion")
    found["before the pickle"] = type(load_model("me/fusion", revision=older)[0]).__name__
    return found


if __name__ == "__main__":
    (older, newer), robust, (aligner, private) = push_fusion(), push_robust(), push_aligner()
    models, answers = {}, {}
    for name, revision in (("fusion", older), ("robust", robust), ("aligner", aligner)):
        models[name], answers[name] = pull(name, revision)
    now = AutoModel.from_pretrained("me/fusion", revision=newer)
    moved = now.classifier.bias - models["fusion"].classifier.bias
    answers["newer"] = {"main": API.model_info("me/fusion").sha == newer, "moved": moved.unique().tolist()}
    answers["own"] = push_own()
    answers["generators"] = push_generators()
    answers["shards"] = push_in_shards()
    answers["page"] = run_page()
    answers["refusals"] = refusals(private, older)
    (FOLDER / "answers.json").write_text(json.dumps(answers))
