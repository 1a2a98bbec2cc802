"""How likely a text-to-image model finds the images of captions."""

import math
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm


def measure_likelihood(
    model: Any,
    collator: Callable,
    rows: Dataset,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    show_progress: bool = False,
) -> dict[str, Any]:
    """The negative log-likelihood of the images' tokens, given their captions.

    Likelihoods over the tokens of different image tokenizers cannot be compared.

    Args:
        model: A `TextToImageModel`; it is put into eval mode.
        collator: A `CaptionCollator`.
        rows: Rows with an image and a text.
        batch_size: Images a forward pass.
        num_workers: Processes that decode and tokenize.
        show_progress: Whether to show a progress bar.

    Returns:
        `nll_per_token` in nats, `uniform_nll_per_token`, that of guessing, and `images`.

    Raises:
        ValueError: If there are no rows.
    """
    if not len(rows):
        raise ValueError("there are no images whose likelihood could be measured.")
    loader: Any = DataLoader(
        rows,  # type: ignore[arg-type]
        batch_size=batch_size,
        collate_fn=collator,
        num_workers=num_workers,
    )
    total = 0.0
    model.eval()
    with torch.inference_mode():
        for batch in tqdm(loader, desc="Measuring", disable=not show_progress):
            batch = {name: value.to(model.device) for name, value in batch.items()}
            total += model(**batch).loss.item() * len(batch["input_ids"])
    return {
        "nll_per_token": total / len(rows),
        "uniform_nll_per_token": math.log(model.config.image_tokenizer_config.vocab_size),
        "images": len(rows),
    }
