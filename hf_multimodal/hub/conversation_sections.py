"""The sections of the cards of vision-language models, in Markdown."""

import json
from collections.abc import Mapping
from typing import Any

from hf_multimodal.hub.runs import Run
from hf_multimodal.hub.sections import (
    MOST_CLASSES,
    base_links,
    inner_model,
    joined,
    loading_notes,
    one_source,
    parameter_counts,
)
from hf_multimodal.hub.tables import inline, markdown_table, plain

ASKING = """from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained({name}, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained({name}, trust_remote_code=True)
image = Image.open("photo.jpg").convert("RGB")
question = {question}
content = [{{"type": "image", "image": image}}, {{"type": "text", "text": question}}]
messages = [{{"role": "user", "content": content}}]
inputs = processor.apply_chat_template(
    messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
)
sequences = model.generate(**inputs, max_new_tokens=50)
written = sequences[0, inputs["input_ids"].shape[1] :]  # what stands behind the prompt
print(processor.decode(written, skip_special_tokens=True))"""
PIPELINE = """from transformers import pipeline

ask = pipeline("image-text-to-text", model={name}, trust_remote_code=True)
print(ask(text=messages, max_new_tokens=50, return_full_text=False)[0]["generated_text"])"""
QUESTION = "What is in this image?"
LONGEST_QUESTION = 100
MOST_SAMPLES = 8
ANSWER_SCORES = {"exact_match": "exact match", "baseline_exact_match": "blind baseline", "token_f1": "token F1"}
CAPTION_SCORES = {"bleu_4": "BLEU-4 (0 to 1)", "cider": "CIDEr (0 to 10)"}


def _captions(run: Run) -> bool:
    return run.facts.get("task") == "caption"


def _scores(run: Run) -> Mapping[str, Any]:
    return run.metrics.get(run.split or "", {})


def summary(run: Run) -> str:
    """What it is: what goes in, what comes out, of which models it is made."""
    written = "captions of images" if _captions(run) else "answers to questions about images"
    tokens = run.config.get("image_seq_length")
    sentences = [
        f"A vision-language model (LLaVA) that writes {written}.",
        f"A projector puts {f'{tokens:,} tokens' if tokens else 'the tokens'} of each image, from a vision model "
        f"({inner_model(run.config['vision_config'])}), among the words that a decoder "
        f"({inner_model(run.config['text_config'])}) reads.",
    ]
    if run.base_models:
        sentences.append(f"Started from {' and '.join(base_links(run))}.")
    if "parameters" in run.facts:
        sentences.append(parameter_counts(run))
    return " ".join(sentences)


def usage(run: Run) -> str:
    """How to ask it."""
    name, question = json.dumps(run.name, ensure_ascii=False), _literal(_first_question(run))
    return (
        f"```python\n{ASKING.format(name=name, question=question)}\n```\n\n{loading_notes(run)}\n\n"
        f"A pipeline does the same, with those `messages`:\n\n```python\n{PIPELINE.format(name=name)}\n```"
    )


def _first_question(run: Run) -> str:
    """The prompt that it learned, or of the questions that it was asked the first: a small model knows no others."""
    if _captions(run):
        return run.facts.get("prompt") or QUESTION
    asked = (run.metrics.get("samples") or [{}])[0].get("question") or QUESTION
    return asked if len(asked) <= LONGEST_QUESTION and "<" not in asked else QUESTION  # nor <image>, nor other marks


def _literal(text: str) -> str:
    """Text from elsewhere as a string of Python that ends neither its line nor its block of code."""
    found = json.dumps(text, ensure_ascii=False) if text == plain(text) else ascii(text)
    return found.replace("`", "\\x60")


def evaluation(run: Run) -> str:
    """How well it answers, beside what needs no image."""
    return joined([_answers(run), _caption_scores(run), *_samples(run)])


def _answers(run: Run) -> str:
    found = _scores(run)
    if "exact_match" not in found:
        return ""
    kinds = found.get("by_kind") or {}
    entries = [(inline(kind), entry) for kind, entry in kinds.items()] if len(kinds) <= MOST_CLASSES else []
    names = [name for name in ANSWER_SCORES if found.get(name) is not None]
    rows = [
        [kind, entry.get("answers", ""), *(entry.get(name, "") for name in names)]
        for kind, entry in [*entries, ("all", found)]
    ]
    said = f"{found['answers']:,} answers of the {run.split} split; case, punctuation and articles do not count."
    if "baseline_exact_match" in names:
        said += (
            " The blind baseline sees no image: it gives the answer that a question most often had in training, and "
            "this is its exact match."
        )
    columns = ["questions", "answers", *(ANSWER_SCORES[name] for name in names)]
    return f"{said}\n\n{markdown_table(rows, columns)}"


def _caption_scores(run: Run) -> str:
    found = _scores(run)
    names = [name for name in CAPTION_SCORES if found.get(name) is not None]
    if not names:
        return ""
    trivial = [found.get(f"most_frequent_{name}") for name in names]
    rows = [
        [CAPTION_SCORES[name], found[name], "" if value is None else value]
        for name, value in zip(names, trivial, strict=True)
    ]
    columns = ["metric", "value", "always the most frequent caption"]
    if all(value is None for value in trivial):
        rows, columns = [row[:2] for row in rows], columns[:2]
    table = markdown_table(rows, columns)
    return f"{found['images']:,} images of the {run.split} split.\n\n{table}" if "images" in found else table


def _samples(run: Run) -> list[str]:
    """The first answers, and the images that they are about."""
    samples = (run.metrics.get("samples") or [])[:MOST_SAMPLES]
    parts = []
    if samples:
        asked = () if _captions(run) else ("question",)  # captions are all answers to one prompt
        rows = [
            [number, *(inline(sample.get(name, "")) for name in (*asked, "answer", "reference"))]
            for number, sample in enumerate(samples, 1)
        ]
        parts.append("The first rows of the test split; none was chosen.")
        parts.append(markdown_table(rows, ["row", *asked, "answer of this model", "reference"]))
    if "answers.png" in run.images:
        parts.append(f"![The images of these rows, in order]({run.images['answers.png']})")
    return parts


def limits(run: Run) -> str:
    """What it is not good for, as far as the run knows, and what its author adds."""
    found = _scores(run)
    said = [one_source(run)]
    if _captions(run):
        said.append("It learned captions alone, as the answer to one prompt: it was never asked anything else.")
        if found.get("cider") is not None:
            said.append("CIDEr weighs words by the references of these images: another split is another scale.")
    said.append(
        "Nothing checks what it writes: wrong answers read like right ones, and what an image does not show is "
        "answered too."
    )
    blind = found.get("baseline_exact_match")
    if blind is not None:
        said.append(f"The questions alone give {blind:.4f} exact match: what is seen is only what lies above that.")
        kinds = found.get("by_kind") or {}
        lost = [
            inline(name)
            for name, entry in kinds.items()
            if entry["exact_match"] <= entry.get("baseline_exact_match", float("-inf"))
        ]
        if lost and len(kinds) <= MOST_CLASSES:
            said.append(f"No better than the blind baseline at: {', '.join(lost)}.")
    unstated = "No licence was stated for the weights; those" if run.card.license is None else "The licences"
    links = f" ({', '.join(base_links(run))})" if run.base_models else ""
    said.append(f"{unstated} of the models that it was made from{links} and of the data hold in any case.")
    return "\n".join(f"- {' '.join(sentence.split())}" for sentence in (*said, *run.limits))
