"""A person without the package: loads what is named in a JSON file, predicts, saves it again, and may train a step.

Run as a process of its own, `python stranger.py jobs.json`; each job names its `source` (a folder, or a repository and
its `revision`), `auto_class`, the `output` to keep, a `batch` and the files to write.
"""

import copy
import json
import sys

import hide_package  # noqa: F401  before all others
import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor, Trainer, TrainingArguments


def predict(job):
    """Both ways to the model, its configuration and its processor."""
    options = {"revision": job.get("revision", "main"), "trust_remote_code": True}
    model = AutoModel.from_pretrained(job["source"], **options)
    also = getattr(transformers, job["auto_class"]).from_pretrained(job["source"], **options)
    batch = torch.load(job["batch"])
    with torch.no_grad():  # copies: tensors mapped from a file may lie unaligned, and other kernels round otherwise
        logits = [copy.deepcopy(one).eval()(**batch)[job["output"]] for one in (model, also)]
    torch.save(logits, job["logits"])
    model.save_pretrained(job["again"])
    processor = AutoProcessor.from_pretrained(job["source"], **options)
    pil_images = [Image.new("RGB", (10, 6), (200, 10, 10)), None]
    inputs = processor(images=pil_images, text=["a red dog", None], return_tensors="pt")
    config = AutoConfig.from_pretrained(job["source"], **options)
    said = {"config": type(config).__name__, "mask": inputs["modality_mask"].tolist()}
    said["ids"] = inputs["input_ids"].tolist()
    return model, batch, said


def fine_tune(model, batch, folder):
    """One step with the plain Trainer: its loss, and how many tensors moved."""
    rows = len(batch["input_ids"])
    examples = [{name: value[row] for name, value in batch.items()} for row in range(rows)]
    wanted = {"return_loss": True} if hasattr(model, "logit_scale") else {"labels": torch.zeros(rows).long()}

    def collate(chosen):
        return {**{name: torch.stack([one[name] for one in chosen]) for name in chosen[0]}, **wanted}

    before = {name: value.clone() for name, value in model.named_parameters()}
    args = TrainingArguments(
        folder,
        max_steps=1,
        per_device_train_batch_size=rows,
        learning_rate=0.01,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
    )
    loss = Trainer(model, args, collate, examples).train().training_loss
    return loss, sum(not torch.equal(value, before[name]) for name, value in model.named_parameters())


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    answers = []
    for job in jobs:
        model, batch, said = predict(job)
        if "trained" in job:
            said["loss"], said["moved"] = fine_tune(model, batch, job["trained"])
        answers.append(said)
    assert "hf_multimodal" not in sys.modules
    print(json.dumps(answers))
