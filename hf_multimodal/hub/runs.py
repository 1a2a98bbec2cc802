"""A run as its card sees it: what its folder tells, as plain dicts, and what its author adds."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hf_multimodal.hub.storage import naming_damage, replaced, write_text

# What a card may repeat of a run's arguments. No path, name of a user or token is among them, whatever run.yaml holds.
HYPERPARAMETERS = (
    "task",
    "prompt",
    "from_scratch",
    "stage",
    "projector_epochs",
    "projector_learning_rate",
    "learning_rate",
    "head_learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "num_train_epochs",
    "optim",
    "weight_decay",
    "max_grad_norm",
    "bf16",
    "fp16",
    "hidden_size",
    "dropout",
    "vision_layers",
    "image_pooling",
    "text_pooling",
    "freeze_vision",
    "freeze_vision_layers",
    "freeze_text_layers",
    "lora_rank",
    "label_smoothing",
    "class_weights",
    "oversample",
    "threshold",
    "ema_decay",
    "early_stopping_patience",
    "metric_for_best_model",
    "modality_dropout",
    "unimodal_loss_weight",
    "no_missing_embeddings",
    "no_stack",
    "projection",
    "projection_dim",
    "loss",
    "margin",
    "triplet_mining",
    "captions_per_image",
    "cache_chunk_size",
    "max_length",
    "augment",
    "whole_images",
    "image_value_range",
    "missing",
    "eval_missing",
    "complete_only",
    "fit_on_validation",
    "image_size",
    "num_downsamplings",
    "num_residual_blocks",
    "quantizer",
    "levels",
    "codebook_size",
    "codebook_dim",
    "codebook_decay",
    "commitment_weight",
    "decoder",
    "num_hidden_layers",
    "num_attention_heads",
    "prompt_length",
    "text_dropout",
)
GENERATORS = ("multimodal_image_tokenizer", "multimodal_text_to_image")
VISION_LANGUAGE = "multimodal_vision_language"
# What the metrics.json and run.yaml of earlier runs call by another name.
EARLIER_NAMES = {
    "weight_average": "ema_decay",
    "redraw": "modality_dropout",
    "whole_pictures": "whole_images",
    "train_pictures": "train_images",
}


def hub_name(name: str | None) -> str | None:
    """A model's name on the Hub, or None for a folder of this machine and for whatever no repository can be called.

    Args:
        name: What `from_pretrained` was given.

    Example:

    >>> hub_name("facebook/deit-tiny-patch16-224"), hub_name("/home/me/deit"), hub_name("torchvision:resnet18")
    ('facebook/deit-tiny-patch16-224', None, None)
    """
    return None if name is None or not _is_repo_id(name) or Path(name).exists() else name


def _is_repo_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


@dataclass
class CardArguments:
    """What a card says that no run can know."""

    license: str | None = field(
        default=None,
        metadata={"help": "Of the weights, as the Hub names it (apache-2.0), for the card. Default: unknown."},
    )
    language: list[str] = field(
        default_factory=list, metadata={"help": "Codes of the texts' languages (en), for the card."}
    )
    base_models: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Hub names of the models that were started from, for the card of a run that was given folders."
        },
    )
    dataset_name: str | None = field(
        default=None, metadata={"help": "What the card calls the data; by default no local file or folder is named."}
    )

    def __post_init__(self) -> None:
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", self.license):
            raise ValueError(f"license must be the Hub's name of one, such as apache-2.0, got {self.license!r}.")
        for code in self.language:
            if not re.fullmatch(r"[a-z]{2,3}|code|multilingual", code):
                raise ValueError(f"language must be codes of two or three letters, such as en, got {code!r}.")
        for name in self.base_models:
            try:
                validate_repo_id(name)
            except HFValidationError as error:
                raise ValueError(f"base_models must be names on the Hub, got {name!r}: {error}") from None


@dataclass(frozen=True)
class Run:
    """A run as a card sees it.

    Args:
        name: What `from_pretrained` takes: the repository's name, or the folder's.
        config: Content of `config.json`.
        metrics: Content of `metrics.json`; that of an older run may lack anything.
        arguments: Content of `run.yaml`.
        card: What the author adds.
        images: Where those that there are lie, as the card sees it, by the name of their file.
        title: Heading; None takes the name.
        limits: Further limits, as Markdown.
    """

    name: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    arguments: Mapping[str, Any]
    card: CardArguments
    images: Mapping[str, str]
    title: str | None = None
    limits: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """Its model type."""
        return str(self.config.get("model_type"))

    @property
    def is_aligner(self) -> bool:
        """Whether it compares images and texts."""
        return self.family == "multimodal_aligner"

    @property
    def is_classifier(self) -> bool:
        """Whether it has classes, or predicts a number."""
        return self.family not in ("multimodal_aligner", *GENERATORS, VISION_LANGUAGE)

    @property
    def modality(self) -> str:
        """`both`, `image` or `text`."""
        sides = [name for name, part in (("image", "vision"), ("text", "text")) if self.config.get(f"{part}_config")]
        return sides[0] if len(sides) == 1 else "both"

    @property
    def problem_type(self) -> str:
        """As transformers names it."""
        return self.config.get("problem_type") or "single_label_classification"

    @property
    def thresholds(self) -> list[float] | None:
        """From which probability on each label holds, in the order of the logits; None is .5 for all."""
        return self.config.get("thresholds") if self.problem_type == "multi_label_classification" else None

    @property
    def class_names(self) -> list[str]:
        """In the order of the logits; none for regression and an aligner."""
        if not self.is_classifier or self.problem_type == "regression":
            return []
        return [name for _, name in sorted(self.config.get("id2label", {}).items(), key=lambda item: int(item[0]))]

    @property
    def split(self) -> str | None:
        """The split whose metrics are reported; None where nothing was measured."""
        return next((name for name in ("test", "validation") if name in self.metrics), None)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the run told of its training."""
        return self.metrics.get("run", {})

    @property
    def data(self) -> Mapping[str, Any]:
        """What the run told of its data; empty for an older run."""
        return self.facts.get("data", {})

    @property
    def dataset_id(self) -> str | None:
        """Name of the data on the Hub; None for local files and for generated data."""
        name = str(self.data.get("name"))
        return name if self.data.get("kind") == "Hub" and _is_repo_id(name) else None

    @cached_property
    def hyperparameters(self) -> dict[str, Any]:
        """All that the run told, of an older run those that differed from their defaults; none that is off."""
        known = dict(self.facts.get("hyperparameters") or self.arguments)
        if self.arguments.get("max_steps", -1) > 0:
            known.pop("num_train_epochs", None)  # steps were counted in their place
        if known.get("task") == "conversation":
            known.pop("prompt", None)  # which captions alone have
        if known.get("stage") == "decoder":
            known = {name: value for name, value in known.items() if not name.startswith("projector_")}
        return {name: known[name] for name in HYPERPARAMETERS if known.get(name) not in (None, False)}

    @property
    def base_models(self) -> list[str]:
        """Hub names of what was started from; a name in `config.json` may be a folder's, so the run has to tell."""
        return self.card.base_models or self.facts.get("base_models", [])


def keep_for_card(
    folder: str | Path,
    *,
    curve: str | Path | None = None,
    repo_id: str | None = None,
    title: str | None = None,
    limits: Sequence[str] = (),
    **card: Any,
) -> None:
    """Keep in a run's folder what its author adds for the card: each later card says it too.

    Args:
        folder: Folder of the run.
        curve: Folder in which `hf-multimodal evaluate --missing_curve` wrote; its points and its plot are taken over.
        repo_id: The repository that the card's snippet loads.
        title: Heading of the card.
        limits: Further limits, a sentence each, in Markdown.
        card: Fields of `CardArguments`.

    Raises:
        FileNotFoundError: If the folder holds no run, or the other no curve.
        ValueError: If the Hub would refuse a license, a language or a base model.
    """
    metrics = _metrics(folder)
    CardArguments(**card)
    given = {"repo_id": repo_id, "title": title, "limits": list(limits), **card}
    metrics["card"] = {**metrics.get("card", {}), **{name: value for name, value in given.items() if value}}
    if curve is not None:
        file = Path(curve, "metrics.json")
        measured = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if "missing_curve" not in measured:
            raise FileNotFoundError(
                f"{file} holds no missing_curve: `hf-multimodal evaluate --missing_curve` writes it."
            )
        metrics["missing_curve"] = measured["missing_curve"]
        if not Path(folder).samefile(curve):
            with replaced(Path(folder, "missing_curve.png")) as part:
                shutil.copyfile(Path(curve, "missing_curve.png"), part)
    text = json.dumps(metrics, sort_keys=True, indent=2)  # in ASCII, whatever the author's text holds
    write_text(Path(folder, "metrics.json"), text + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: If it holds none; the message names the file.
    """
    with naming_damage(path):
        found = json.loads(path.read_text(encoding="utf-8"))
        return dict(found.items())


def read_arguments(path: Path) -> dict[str, Any]:
    """The arguments in a `run.yaml`; empty where there is none.

    Raises:
        ValueError: If it holds something else; the message names the file.
    """
    if not path.is_file():
        return {}
    with naming_damage(path):
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return dict(found.items())


def _metrics(folder: str | Path) -> dict[str, Any]:
    for needed in ("config.json", "metrics.json"):
        if not Path(folder, needed).is_file():
            raise FileNotFoundError(f"{folder} is no folder of a run: it has no {needed}.")
    return read_json(Path(folder, "metrics.json"))


def with_label_accuracy(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What an older multi-label run called `accuracy`, which is that of each label, under the name of today.

    Args:
        metrics: Content of the `metrics.json` of a multi-label run, whatever its age.
    """

    def renamed(scores: Mapping[str, Any]) -> dict[str, Any]:
        names = {"accuracy": "label_accuracy", "majority_accuracy": "majority_label_accuracy"}
        return {names.get(name, name): value for name, value in scores.items()}

    found = dict(metrics)
    for name in ("test", "validation", "difference"):
        if name in found:
            found[name] = renamed(found[name])
    for name in ("intervals", "baselines"):
        found[name] = {which: renamed(entry) for which, entry in (found.get(name) or {}).items()}
    for entry in found["baselines"].values():
        entry["difference"] = renamed(entry["difference"])
    found["missing_curve"] = [renamed(point) for point in found.get("missing_curve") or []]
    return {name: entry for name, entry in found.items() if name in metrics}


def with_present_names(told: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier run told, under the names of today.

    Args:
        told: Arguments, or the entry `run` of a `metrics.json`.

    Example:

    >>> with_present_names({"train_pictures": 8, "hyperparameters": {"weight_average": 0.99, "seed": 1}})
    {'train_images': 8, 'hyperparameters': {'ema_decay': 0.99, 'seed': 1}}
    """
    found = {EARLIER_NAMES.get(name, name): value for name, value in told.items()}
    if found.get("hyperparameters"):
        found["hyperparameters"] = with_present_names(found["hyperparameters"])
    return found


def read_run(folder: str | Path, images: Mapping[str, str]) -> Run:
    """Read what a card needs from a run's folder.

    Args:
        folder: Folder of the run.
        images: Where the images lie, as the card sees it, by the name of their file.

    Raises:
        FileNotFoundError: If the folder holds no run.
    """
    path, metrics = Path(folder), _metrics(folder)
    config = read_json(path / "config.json")
    if config.get("problem_type") == "multi_label_classification":
        metrics = with_label_accuracy(metrics)
    metrics["run"] = with_present_names(metrics.get("run") or {})
    arguments = with_present_names(read_arguments(path / "run.yaml"))
    added = metrics.get("card", {})
    known = {
        entry.name: source[entry.name]
        for source in (arguments, added)
        for entry in fields(CardArguments)
        if entry.name in source
    }
    return Run(
        name=added.get("repo_id") or metrics.get("run", {}).get("repo_id") or path.resolve().name,
        config=config,
        metrics=metrics,
        arguments=arguments,
        card=CardArguments(**known),
        images=images,
        title=added.get("title"),
        limits=tuple(added.get("limits", ())),
    )
