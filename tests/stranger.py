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
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    Trainer,
    TrainingArguments,
    pipeline,
)


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


def reconstruct(job):
    """The tokens of images, and the images of those tokens, by an image tokenizer."""
    model = AutoModel.from_pretrained(job["source"], trust_remote_code=True).eval()
    image_processor = AutoImageProcessor.from_pretrained(job["source"])
    pixels = image_processor([Image.effect_mandelbrot((9, 5), (-3, -2.5, 2, 2.5), 9).convert("RGB")])["pixel_values"]
    ids = model.encode(torch.as_tensor(pixels[0])[None])
    with torch.no_grad():
        torch.save((pixels, ids, model.decode(ids)), job["results"])
    model.save_pretrained(job["again"])
    return {"config": type(model.config).__name__, "module": type(model).__module__.partition(".")[0]}


def generate(job):
    """The tokens and images that a text-to-image model gives, by both classes and by the pipeline."""
    processor = AutoProcessor.from_pretrained(job["source"], trust_remote_code=True)
    texts = ["a red dog", None, "cat"]
    inputs = processor(text=texts, return_tensors="pt")
    found = []
    for auto_class in (AutoModel, AutoModelForMultimodalLM):
        model = auto_class.from_pretrained(job["source"], trust_remote_code=True).eval()
        found.append(model.generate(**inputs, guidance_scale=2.0))
    pipe = pipeline("any-to-any", model=job["source"], trust_remote_code=True)
    options = {"guidance_scale": 2.0}
    records = pipe(text=["a red dog", "", "cat"], generation_mode="image", generate_kwargs=options)
    images = model.generate_images(processor, texts, do_sample=False, **options)
    torch.save((inputs["input_ids"], found, model.decode_image_tokens(found[0])), job["results"])
    model.save_pretrained(job["again"])
    return {
        "config": type(model.config).__name__,
        "module": type(model).__module__.partition(".")[0],
        "processor": type(pipe.processor).__name__,
        "same": [record["generated_image"] == image for record, image in zip(records, images, strict=True)],
    }


def answer(job):
    """What a vision-language model writes behind a question, by both classes and by the pipeline."""
    processor = AutoProcessor.from_pretrained(job["source"], trust_remote_code=True)
    content = [{"type": "image", "image": Image.new("RGB", (9, 7), "red")}, {"type": "text", "text": "what is this"}]
    messages = [{"role": "user", "content": content}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template(messages, **options)
    found = []
    for auto_class in (AutoModel, AutoModelForImageTextToText):
        model = auto_class.from_pretrained(job["source"], trust_remote_code=True).eval()
        found.append(model.generate(**inputs, max_new_tokens=6))
    torch.save((dict(inputs), found), job["results"])
    model.save_pretrained(job["again"])
    pipe = pipeline("image-text-to-text", model=job["source"], trust_remote_code=True)
    (record,) = pipe(text=messages, max_new_tokens=6, return_full_text=False)
    module = type(model).__module__.partition(".")[0]
    return {"config": type(model.config).__name__, "module": module, "pipeline": record["generated_text"]}


TASKS = {"reconstruct": reconstruct, "generate": generate, "answer": answer}

if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    answers = []
    for job in jobs:
        if "results" in job:
            answers.append(TASKS[job["task"]](job))
            continue
        model, batch, said = predict(job)
        if "trained" in job:
            said["loss"], said["moved"] = fine_tune(model, batch, job["trained"])
        answers.append(said)
    assert "hf_multimodal" not in sys.modules
    print(json.dumps(answers))
