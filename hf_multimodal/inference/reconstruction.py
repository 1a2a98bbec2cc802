"""How well an image tokenizer gives images back, and how many of its codes it uses."""

from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_multimodal.data.image_collators import ImageCollator
from hf_multimodal.models.processing_text_to_image import unit_pixels


def measure_reconstruction(
    model: Any,
    processor: Any,
    rows: Dataset,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    show_progress: bool = False,
) -> dict[str, Any]:
    """Reconstruct all images.

    Noise cannot be compressed, so that the signal-to-noise ratio of noisy images has a ceiling; and how evenly codes
    are used says nothing of quality.

    Args:
        model: An `ImageTokenizerModel`; it is put into eval mode.
        processor: Its image processor.
        rows: Rows with `image`.
        batch_size: Images a forward pass.
        num_workers: Processes that decode.
        show_progress: Whether to show a progress bar.

    Returns:
        `psnr`, the peak signal-to-noise ratio in dB, values between 0 and 1, mean over the images;
        `reconstruction_loss`, the mean squared error of `pixel_values`; `codes_in_use` of `codes`; `perplexity` of the
        codes; and `images`.

    Raises:
        ValueError: If there are no images.
        BadImageError: On an image that cannot be read.
    """
    if not len(rows):
        raise ValueError("there are no images to reconstruct.")
    counts = torch.zeros(model.config.vocab_size, dtype=torch.long)
    decibels, errors = [], []
    loader = DataLoader(
        rows,  # type: ignore[arg-type]
        batch_size=batch_size,
        collate_fn=ImageCollator(processor),
        num_workers=num_workers,
    )
    model.eval()
    with torch.inference_mode():
        for batch in tqdm(loader, desc="Reconstructing", disable=not show_progress):
            pixels = batch["pixel_values"]
            output = model(pixels.to(model.device))
            counts += torch.bincount(output.image_token_ids.flatten().cpu(), minlength=len(counts))
            difference = (output.reconstruction.float().cpu() - pixels).flatten(1)
            errors += difference.square().mean(dim=1).tolist()
            squared = (unit_pixels(output.reconstruction, processor) - unit_pixels(pixels, processor)).square()
            decibels += (-10 * squared.flatten(1).mean(dim=1).clamp(min=1e-10).log10()).tolist()
    shares = counts / counts.sum()
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum()
    return {
        "psnr": sum(decibels) / len(decibels),
        "reconstruction_loss": sum(errors) / len(errors),
        "codes_in_use": int((counts > 0).sum()),
        "codes": len(counts),
        "perplexity": float(entropy.exp()),
        "images": len(decibels),
    }
