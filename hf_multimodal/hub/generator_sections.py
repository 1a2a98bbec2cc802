"""The sections of the cards of image tokenizers and text-to-image models, in Markdown."""

import json
import math
from collections.abc import Mapping
from typing import Any

from hf_multimodal.hub.runs import Run
from hf_multimodal.hub.sections import joined, loading_notes, one_source, parameter_counts
from hf_multimodal.hub.tables import inline, markdown_table

TOKENIZING = """import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

model = AutoModel.from_pretrained({name}, trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained({name})
pixel_values = processor(Image.open("photo.jpg").convert("RGB"), return_tensors="pt").pixel_values
with torch.no_grad():
    ids = model.encode(pixel_values)  # (1, rows, columns)
    reconstruction = model.decode(ids)  # (1, 3, height, width), in the scale of pixel_values"""
DRAWING = """from transformers import AutoModelForMultimodalLM, AutoProcessor

model = AutoModelForMultimodalLM.from_pretrained({name}, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained({name}, trust_remote_code=True)
images = model.generate_images(
    processor, [{text}], num_images_per_prompt=4, guidance_scale=3.0, seed=0
)
images[0].save("image.png")"""
SCORES = {
    "psnr": "PSNR in dB, values between 0 and 1",
    "codes_in_use": "codes in use",
    "codes": "codes that there are",
    "perplexity": "perplexity of the codes",
    "nll_per_token": "NLL a token, in nats",
    "uniform_nll_per_token": "the same of guessing",
}


def _is_tokenizer(run: Run) -> bool:
    return run.family == "multimodal_image_tokenizer"


def _tokenizer_config(run: Run) -> Mapping[str, Any]:
    return run.config if _is_tokenizer(run) else run.config["image_tokenizer_config"]


def summary(run: Run) -> str:
    """What it is: what goes in, what comes out, and how large it is."""
    config = _tokenizer_config(run)
    side = config["image_size"] // 2 ** config["num_downsamplings"]
    tokens = f"{side} × {side} tokens"
    size = f"{config['image_size']} × {config['image_size']} pixels"
    codes = math.prod(config["levels"]) if config["quantizer"] == "fsq" else config["codebook_size"]
    if _is_tokenizer(run):
        what = (
            f"An image tokenizer (VQ-VAE): an image of {size} to {tokens} of {codes:,} codes, and back. Quantizer: "
            f"{inline(config['quantizer'])}."
        )
    else:
        text = run.config["text_config"]
        what = (
            f"A text-to-image model (DALL-E): a decoder ({inline(text['model_type'])}) writes {tokens} of {codes:,} "
            f"codes after a text of at most {run.config['prompt_length']} tokens, and its image tokenizer makes them "
            f"an image of {size}."
        )
    if "parameters" in run.facts:
        what += f" {parameter_counts(run)}"
    return what


def usage(run: Run) -> str:
    """How to load it."""
    name = json.dumps(run.name, ensure_ascii=False)
    text = json.dumps("a red circle in the top left", ensure_ascii=False)
    snippet = TOKENIZING.format(name=name) if _is_tokenizer(run) else DRAWING.format(name=name, text=text)
    loaded = f'pipeline("any-to-any", model={name}, trust_remote_code=True)'
    drawing = (
        f'\n\n`{loaded}(text=["..."], generation_mode="image")` does the same, with `generate_kwargs` such as '
        "`guidance_scale`."
    )
    return f"```python\n{snippet}\n```\n\n{loading_notes(run)}" + ("" if _is_tokenizer(run) else drawing)


def evaluation(run: Run) -> str:
    """How well it does, beside what needs no model."""
    parts = []
    if run.split is not None:
        found = run.metrics[run.split]
        rows = [[words, found[name]] for name, words in SCORES.items() if name in found]
        parts.append(f"{found['images']:,} images of the {run.split} split.\n\n{markdown_table(rows, ['', 'value'])}")
    if "reconstructions.png" in run.images:
        parts.append(f"![Images above, what their tokens give back below]({run.images['reconstructions.png']})")
        parts.append("Noise cannot be compressed, so that the PSNR of noisy images has a ceiling.")
    if "samples.png" in run.images:
        parts.append(f"![Captions of the test split, and images drawn for them]({run.images['samples.png']})")
        parts.append("The first captions of the test split, drawn once with guidance 3 and top-k 50; none was chosen.")
    return joined(parts)


def limits(run: Run) -> str:
    """What it is not good for, as far as the run knows, and what its author adds."""
    said = [one_source(run)]
    if run.data.get("kind") != "controlled" and not _is_tokenizer(run):
        said.append(
            "Natural images are not learned from some thousand of them: colours and layouts come out, objects do not."
        )
    if not _is_tokenizer(run):
        said.append("Likelihoods over the tokens of different image tokenizers cannot be compared.")
    return "\n".join(f"- {sentence}" for sentence in [*said, *run.limits])
