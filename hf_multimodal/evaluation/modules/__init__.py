"""The metrics as local modules of `evaluate`: `evaluate.load(IMAGE_TEXT_CLASSIFICATION)` needs no network."""

from pathlib import Path

IMAGE_TEXT_CLASSIFICATION = str(Path(__file__).parent / "image_text_classification")
