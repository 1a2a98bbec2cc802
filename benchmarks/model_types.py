"""python benchmarks/model_types.py --write

Try every vision and text model type of the installed transformers from a tiny configuration: whether this package
takes it, and whether its features are then those of the example alone. The table is `docs/model_types.md`. Types
given as arguments are tried alone: `python benchmarks/model_types.py bert vit`.
"""

import argparse
import inspect
from collections.abc import Iterable, Iterator, Sequence
from logging import CRITICAL
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tiny_configs import VOCABULARY, tiny_config
from torch import nn
from transformers import CONFIG_MAPPING, BertConfig, PreTrainedConfig, PreTrainedModel, ViTConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.utils import logging

from hf_multimodal import FusionConfig, FusionForImageTextClassification
from hf_multimodal.evaluation.report import update_region
from hf_multimodal.hub.tables import markdown_table
from hf_multimodal.models.inner_models import MODEL_CLASSES, UNFIT, image_size_of, model_class_of, unfitness

REGION = "model-types"
DOCUMENT = Path(__file__).parents[1] / "docs" / "model_types.md"
SIDES = ("vision_config", "text_config")
LENGTHS = torch.tensor([24, 7, 3, 16])
PADDED = 40
COLUMNS = ["model type", "result"]
MOST_PARAMETERS = 3_000_000
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


class Verdict(NamedTuple):
    """What came of a model type.

    Args:
        model_type: As in its configuration.
        side: `vision`, `text`, or an empty string for what is neither.
        result: `works`, `refused`, `not applicable`, `not tried` or `fails`.
        reason: Why it does not work.
    """

    model_type: str
    side: str
    result: str
    reason: str = ""


def model_types() -> list[str]:
    """All that `AutoModel` knows or this package adds to it from transformers."""
    added = [name for name, found in MODEL_CLASSES.items() if isinstance(found, str)]
    return sorted({*MODEL_MAPPING_NAMES, *added})


def side_of(model_class: type[PreTrainedModel]) -> str:
    """`vision`, `text`, or an empty string."""
    parameters = inspect.signature(model_class.forward).parameters
    if ("pixel_values" in parameters) == ("input_ids" in parameters):
        return ""
    return "vision" if "pixel_values" in parameters else "text"


def make_model(config: PreTrainedConfig, side: str) -> FusionForImageTextClassification:
    """A classifier that reads pooled features and tokens of both sides, of which one is under trial.

    Random numbers are added to its weights: as they are drawn, what leaks into a feature would be too small to see.
    BatchNorm takes the statistics of one batch, without which deep features vanish; float64, since it then divides by
    little.
    """
    torch.manual_seed(0)
    sides = {"vision_config": ViTConfig(image_size=32, patch_size=16, **SMALL), "text_config": BertConfig(**SMALL)}
    sides[f"{side}_config"] = config
    model = FusionForImageTextClassification(
        FusionConfig(**sides, hidden_size=16, num_labels=3, fusion="cross_attention")
    )
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in filter(torch.numel, model.parameters()):
            scale = 0.1 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
            parameter.add_(scale * torch.randn(parameter.shape, generator=draw))
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        if norms:
            model.double().train()(**make_batch(config, side))
    return model


def make_batch(config: PreTrainedConfig, side: str) -> dict[str, torch.Tensor]:
    """Four examples; the texts differ in length, end in the token of the end, and padding follows it."""
    draw = torch.Generator().manual_seed(2)
    length = int(LENGTHS.max())
    mask = (torch.arange(length) < LENGTHS[:, None]).long()
    ids = torch.randint(5, VOCABULARY, mask.shape, generator=draw)
    ids[torch.arange(4), LENGTHS - 1] = 3
    height, width = image_size_of(config) if side == "vision" and hasattr(config, "image_size") else (32, 32)
    pixel_values = torch.randn(4, 3, height, width, generator=draw)
    return {"pixel_values": pixel_values, "input_ids": ids * mask, "attention_mask": mask}


def faults(model: FusionForImageTextClassification, side: str) -> Iterator[str]:
    """What is wrong with the features of the side under trial, and with its gradients."""
    batch = make_batch(getattr(model.config, f"{side}_config"), side)
    column = 0 if side == "vision" else 1

    def features(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            found = model.encode(**batch)
        tokens = (found.image_tokens, found.text_tokens)[column]
        return found.embeds[:, column], tokens

    def differ(one: torch.Tensor, other: torch.Tensor, most: float = 1e-4) -> bool:
        return one.shape != other.shape or not bool(((one - other).abs() <= most).all())

    model.eval()
    embeds, tokens = features(batch)
    again, tokens_again = features(batch)
    if not embeds.isfinite().all():
        yield "the feature is not finite"
    if differ(embeds, again, 0) or differ(tokens, tokens_again, 0):
        yield "two passes differ"
    order = torch.tensor([2, 0, 3, 1])
    permuted, tokens_permuted = features({name: value[order] for name, value in batch.items()})
    if differ(embeds[order], permuted) or differ(tokens[order], tokens_permuted):
        yield "the order of the batch matters"
    for row, length in enumerate(LENGTHS):
        alone = {name: value[row : row + 1, : length if value.ndim == 2 else None] for name, value in batch.items()}
        if differ(embeds[row : row + 1], features(alone)[0]):
            yield f"row {row} alone differs from itself in the batch"
    texts = ("input_ids", "attention_mask")
    longer = {name: nn.functional.pad(batch[name], (0, PADDED - int(LENGTHS.max()))) for name in texts}
    if differ(embeds, features({**batch, **longer})[0]):
        yield "more padding changes the feature"
    if not differ(embeds[:1].expand(3, -1), embeds[1:]):
        yield "all examples have one feature"
    model.train()
    model(**batch, labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    learning = [(name, parameter.grad) for name, parameter in model.named_parameters() if parameter.requires_grad]
    idle = [name for name, gradient in learning if gradient is None]
    if idle:
        yield f"{len(idle)} parameters get no gradient: {', '.join(idle[:8])}"
    if not all(gradient.isfinite().all() for _, gradient in learning if gradient is not None):
        yield "a gradient is not finite"


def judge(model_type: str) -> Verdict:
    """Build a model type and try it."""
    try:
        config_class = CONFIG_MAPPING[model_type]
        found = model_class_of(config_class.__new__(config_class))
        side = side_of(found)
    except ImportError as error:
        return Verdict(model_type, "", "not tried", first_line(error))
    except ValueError:  # its message may name folders of this machine
        return Verdict(model_type, "", "not applicable", "transformers finds no class for it")
    if model_type in UNFIT:
        return Verdict(model_type, side, "refused", UNFIT[model_type])
    try:
        config = tiny_config(model_type)
    except Exception as error:  # whatever a configuration refuses
        return Verdict(model_type, side, "not tried" if side else "not applicable", first_line(error))
    reasons = [unfitness(found, config, one) for one in ([f"{side}_config"] if side else SIDES)]
    if all(reasons):
        return Verdict(model_type, side, "refused" if side else "not applicable", str(reasons[-1]))
    try:
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in found(config).parameters())
        if size > MOST_PARAMETERS:
            return Verdict(model_type, side, "not tried", f"its smallest configuration has {size} parameters")
        model = make_model(config, side)
        wrong = list(faults(model, side))
    except ImportError as error:
        return Verdict(model_type, side, "not tried", first_line(error))
    except Exception as error:  # whatever a model raises on ordinary inputs
        return Verdict(model_type, side, "fails", first_line(error))
    return Verdict(model_type, side, "fails" if wrong else "works", "; ".join(wrong))


def first_line(error: Exception) -> str:
    """The first line of an error that says something, to its first full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__


def table(verdicts: Sequence[Verdict]) -> str:
    """What came of all model types, in Markdown."""
    parts = []
    for side, title in (("vision", "Vision models"), ("text", "Text models")):
        works = [verdict.model_type for verdict in verdicts if verdict[1:3] == (side, "works")]
        rest = [verdict for verdict in verdicts if verdict.side == side and verdict.result != "works"]
        rows = [[f"`{name}`", "works"] for name in works]
        rows += [[f"`{verdict.model_type}`", f"{verdict.result}: {verdict.reason}"] for verdict in rest]
        head = f"## {title}\n\n{len(works)} work, {len(rest)} do not."
        parts.append(f"{head}\n\n{markdown_table(rows, COLUMNS)}")
    others = [[f"`{name}`", f"{result}: {reason}"] for name, side, result, reason in verdicts if not side]
    text = "\n\n".join([*parts, f"## Neither\n\n{markdown_table(others, COLUMNS)}"])
    return text.replace("][", "]\\[")  # else Markdown takes it for a link


def try_all(names: Iterable[str]) -> Iterator[Verdict]:
    """One model type after the other; never two models in memory."""
    logging.set_verbosity(CRITICAL)
    for name in names:
        yield judge(name)


def main() -> None:
    """Try, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", help="model types; all of them where none is given")
    parser.add_argument("--write", action="store_true", help=f"write the table of all to docs/{DOCUMENT.name}")
    args: Any = parser.parse_args()
    if args.write and args.types:
        parser.error("--write is for all model types: name none.")
    torch.set_num_threads(1)
    verdicts = []
    for verdict in try_all(args.types or model_types()):
        print(*verdict, sep=" | ", flush=True)
        verdicts.append(verdict)
    if args.write:
        update_region(DOCUMENT, REGION, table(verdicts))


if __name__ == "__main__":
    main()
