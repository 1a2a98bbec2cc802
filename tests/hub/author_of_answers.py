"""The author of a vision-language model: leaves it in a folder, with a run's numbers and its card, and pushes that.

Run as a process of its own, `python author_of_answers.py folder repository`, with HF_ENDPOINT and HF_TOKEN set. It
prints the revision.
"""

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from test_vision_language import make_with_processor

from hf_multimodal.hub.card import write_card
from hf_multimodal.hub.upload import push_folder

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    model, processor = make_with_processor()
    for parameter in model.text_model.parameters():  # no two tokens equally likely
        parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
    for part in (model, processor):
        part.save_pretrained(folder)
    sample = {"question": "what is this", "answer": "a cat", "reference": "a dog"}
    scores = {"exact_match": 0.5, "token_f1": 0.75, "answers": 2, "baseline_exact_match": 0.25}
    (folder / "metrics.json").write_text(json.dumps({"test": scores, "samples": [sample]}))
    for name in ("predictions.csv", "run.yaml"):
        (folder / name).write_text("")
    Image.new("RGB", (8, 8)).save(folder / "answers.png")
    write_card(folder)
    print(push_folder(folder, sys.argv[2]).oid)
