"""Predictions of a trained model, for a whole data set or one example."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict, Features, Image, Value
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel

from hf_multimodal.data.checks import check_splits
from hf_multimodal.data.collator import MultimodalCollator
from hf_multimodal.data.loading import load_data
from hf_multimodal.evaluation.metrics import outputs_from_logits
from hf_multimodal.evaluation.predictions import Predictions
from hf_multimodal.hub.pickles import refuse_pickled_model
from hf_multimodal.hub.storage import naming_damage, recover
from hf_multimodal.models.checked_model import CheckedModel
from hf_multimodal.models.configuration_vision_text import AlignerConfig, VisionTextConfig
from hf_multimodal.models.inner_models import check_sizes
from hf_multimodal.models.modeling_fusion import warn_of_missing
from hf_multimodal.models.modeling_vision_text import VisionTextPreTrainedModel, check_finite
from hf_multimodal.validation import check_folder


def load_model(
    folder: str | Path, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, Any]:
    """Load a trained model for predicting, from safetensors alone.

    Args:
        folder: Folder of a run, or a name on the Hub.
        revision: Branch, tag or hash of a commit on the Hub.
        trust_remote_code: Whether code that comes with the model may run.

    Returns:
        The model in eval mode, on the accelerator if there is one, and its processor.

    Raises:
        FileNotFoundError: If `folder` is a path at which there is nothing.
        OSError: If there are no safetensors.
        ValueError: If weights are missing, left over (of a model of this package), of other sizes than the
            configuration asks for, damaged or not finite, pickled ones lie beside a model of this package, the model
            needs code and `trust_remote_code` is False, or a revision of a folder is asked for.
    """
    check_folder("model", str(folder))
    if revision is not None and Path(folder).is_dir():
        raise ValueError(f"revision {revision!r} is for models on the Hub, and {str(folder)!r} is a folder.")
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    if Path(folder).is_dir():
        recover(folder)
    with naming_damage(folder):
        config = AutoConfig.from_pretrained(folder, **options)
        if isinstance(config, VisionTextConfig):  # those of others, CLIP's for one, often hold both
            refuse_pickled_model(folder, revision)
        loading = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = AutoModel.from_pretrained(folder, **loading, **options)
    check_sizes(folder, info)
    if not isinstance(model, VisionTextPreTrainedModel | CheckedModel):  # ours look at themselves
        lost = sorted(info["missing_keys"])
        if lost:
            kind = type(model).__name__
            raise ValueError(f"{folder} is no whole {kind}: it lacks {len(lost)} weights, such as {lost[0]}.")
        check_finite(folder, model)
    with naming_damage(folder):
        processor = AutoProcessor.from_pretrained(folder, **options)
    return model.eval().to(device), processor


def modality_of(config: Any) -> str:
    """Which modality a model reads: `both`, `image` or `text`."""
    if config.vision_config is not None and config.text_config is not None:
        return "both"
    return "text" if config.vision_config is None else "image"


def class_names_of(config: Any) -> list[str]:
    """Names of a model's classes in the order of its logits; none for regression."""
    if config.problem_type == "regression":
        return []
    return [config.id2label[index] for index in range(config.num_labels)]


@torch.inference_mode()
def forward_dataset(
    model: PreTrainedModel,
    processor: Any,
    dataset: Dataset,
    forward: Callable[..., Mapping[str, torch.Tensor]],
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    on_bad_image: str = "error",
    show_progress: bool = False,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Call a function on all batches of a data set, and join what it returns in the order of the data set.

    Texts of like length share a batch, so that little is spent on padding.

    Args:
        model: It is put into eval mode and stays on its device, to which each batch is moved.
        processor: The model's processor.
        dataset: Columns `image` and `text`, those that the processor reads.
        forward: Called with the inputs of a batch, such as `pixel_values`, by name; returns tensors (batch, ...) by
            name, each time the same names.
        batch_size: Examples a call.
        num_workers: Processes that decode and tokenize.
        on_bad_image: As for `MultimodalCollator`.
        show_progress: Whether to show a progress bar.

    Returns:
        The tensors (rows, ...) by name, on the CPU, and (rows, 2) which modalities are present, 1 = present, column 0
        image, column 1 text.

    Raises:
        ValueError: If the data set has no rows.
    """
    if len(dataset) == 0:
        raise ValueError("there are no rows to predict.")
    model.eval()
    texts = dataset["text"] if processor.tokenizer is not None else [""] * len(dataset)
    order = np.argsort([-len(text or "") for text in texts], kind="stable")
    loader = DataLoader(
        dataset.select_columns([name for name in ("image", "text", "id") if name in dataset.column_names]),
        batch_size=batch_size,
        sampler=order.tolist(),
        collate_fn=MultimodalCollator(processor, on_bad_image=on_bad_image, on_empty="keep"),
        num_workers=num_workers,
    )
    found: dict[str, list[torch.Tensor]] = {}
    masks = []
    for batch in tqdm(loader, desc="Predicting", disable=not show_progress):
        masks.append(batch["modality_mask"])
        for name, tensor in forward(**{name: tensor.to(model.device) for name, tensor in batch.items()}).items():
            found.setdefault(name, []).append(tensor.cpu())
    back = np.argsort(order)
    return {name: torch.cat(parts)[back] for name, parts in found.items()}, torch.cat(masks)[back]


def predict_dataset(
    model: PreTrainedModel,
    processor: Any,
    dataset: Dataset,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    on_bad_image: str = "error",
    show_progress: bool = False,
) -> Predictions:
    """Run a model over a data set.

    An example with neither image nor text gets a prediction too, and is flagged in `has_image` and `has_text`. A plain
    fused classifier that has to predict from one modality alone warns once.

    Args:
        model: A trained classifier; it is put into eval mode and stays on its device.
        processor: The processor that was saved with it.
        dataset: Columns `image`, `text`, `id`, and `label` where there are labels.
        batch_size: Examples a forward pass.
        num_workers: Processes that decode and tokenize.
        on_bad_image: As for `MultimodalCollator`.
        show_progress: Whether to show a progress bar.

    Returns:
        Probabilities, or values for regression, with labels and presence, in the order of the data set.

    Raises:
        ValueError: If the data set has no rows, the model no classes, or its logits are not finite.
    """
    if isinstance(model.config, AlignerConfig):
        raise ValueError(
            "an aligner has no classes to predict: ZeroShotClassifier takes class names, Retriever and "
            "`hf-multimodal retrieve` search."
        )

    def forward(**inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": model(**inputs).logits}

    options: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers, "on_bad_image": on_bad_image}
    found, present = forward_dataset(model, processor, dataset, forward, **options, show_progress=show_progress)
    if model.config.model_type == "multimodal_fusion" and modality_of(model.config) == "both":
        for column, name in enumerate(("image", "text")):
            if not present[:, column].all():
                warn_of_missing(name)
    return as_predictions(model, dataset, found["logits"], present)


def as_predictions(
    model: PreTrainedModel, dataset: Dataset, logits: torch.Tensor, present: torch.Tensor
) -> Predictions:
    """The predictions that a model's logits are.

    Args:
        model: The classifier.
        dataset: Columns `id`, and `label` where there are labels.
        logits: (rows, num_labels).
        present: (rows, 2), 1 = what the model was shown, column 0 image, column 1 text.

    Raises:
        ValueError: If logits are not finite; the message names the row.
    """
    problem_type, ids = model.config.problem_type, list(dataset["id"])
    has_image, has_text = present.numpy().T
    return Predictions.from_outputs(
        problem_type,
        ids,
        outputs_from_logits(problem_type, logits.float().numpy(), ids),
        class_names_of(model.config),
        labels=list(dataset["label"]) if "label" in dataset.column_names else None,
        has_image=has_image,
        has_text=has_text,
        thresholds=getattr(model.config, "thresholds", None),
    )


def predict_table(
    model: PreTrainedModel,
    processor: Any,
    data: str | Path,
    *,
    on_bad_sample: str = "missing",
    batch_size: int = 64,
    num_workers: int = 0,
    show_progress: bool = False,
    **options: Any,
) -> Predictions:
    """Run a model over all rows of a table, a folder or a Hub data set.

    Args:
        model: A trained classifier.
        processor: The processor that was saved with it.
        data: What `load_data` reads. Labels are not needed; where there are some, the predictions have metrics.
        on_bad_sample: `missing` predicts from what is left of a row that cannot be read, `drop` leaves it out,
            `error` refuses it.
        batch_size: Examples a forward pass.
        num_workers: Processes that decode and tokenize.
        show_progress: Whether to show a progress bar.
        **options: Further arguments of `load_data`, such as `image_column`.

    Returns:
        As `predict_dataset`, in the order of the table.

    Raises:
        BadSamplesError: Under `error`, on a row that cannot be read.
        ValueError: As `load_data` and `predict_dataset`.
    """
    named = {"label_names": class_names_of(model.config) or None, "problem_type": model.config.problem_type}
    loaded = load_data(data, **named, **options)
    source = next(iter(loaded.sources.values()))
    wanted = replace(loaded, splits=DatasetDict({"predict": loaded.all_rows()}), sources={"predict": source})
    checked, _ = check_splits(wanted, policy=on_bad_sample, modality=modality_of(model.config), prediction=True)
    return predict_dataset(
        model,
        processor,
        checked.splits["predict"],
        batch_size=batch_size,
        num_workers=num_workers,
        show_progress=show_progress,
    )


def one_example(image: str | Path | None, text: str | None) -> Dataset:
    """A data set of one row, for `predict_dataset`.

    Args:
        image: Path of the image, or None.
        text: The text, or None.

    Returns:
        One row with `image`, `text` and `id`.

    Raises:
        ValueError: If there is neither.
    """
    if image is None and not (text and text.strip()):
        raise ValueError("an example needs an image, a text, or both.")
    row = {"image": [None if image is None else {"bytes": None, "path": str(image)}], "text": [text], "id": ["0"]}
    return Dataset.from_dict(
        row, features=Features({"image": Image(decode=False), "text": Value("string"), "id": Value("string")})
    )
