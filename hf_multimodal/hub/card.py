"""The model card: its whole text, and the files that it is made of, from what a run left in its folder."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from hf_multimodal.hub import conversation_sections, generator_sections, sections
from hf_multimodal.hub.eval_results import write_eval_results
from hf_multimodal.hub.metadata import card_metadata
from hf_multimodal.hub.runs import GENERATORS, VISION_LANGUAGE, Run, keep_for_card, read_run
from hf_multimodal.hub.storage import naming_damage, replaced, write_text
from hf_multimodal.hub.tables import inline, plain

COLOURS = 128  # of a copied plot: a third of its bytes, and no eye sees it
IMAGES = ("history.png", "confusion.png", "missing_curve.png", "reconstructions.png", "samples.png", "answers.png")
# Of all other families those of classifiers and aligners.
SECTIONS = {**dict.fromkeys(GENERATORS, generator_sections), VISION_LANGUAGE: conversation_sections}


def model_card(run: Run) -> str:
    """A card: metadata in YAML, then what the model is, how to load it, what it learned from, how well, its limits.

    Every number is one of the run's; a part of which the run tells nothing is left out. Text that comes from
    elsewhere, such as class names, can break neither the YAML nor the Markdown.

    Args:
        run: From `read_run`.

    Returns:
        The card, its newline at the end included.
    """
    own: Any = SECTIONS.get(run.family, sections)
    title = inline(run.title or plain(run.name).rpartition("/")[2])
    parts = [f"---\n{card_metadata(run).to_yaml()}\n---", f"# {title}", own.summary(run)]
    for heading, text in (
        ("Use", own.usage(run)),
        ("Training", sections.training(run)),
        ("Evaluation", own.evaluation(run)),
        ("Limits", own.limits(run)),
    ):
        parts += [f"## {heading}", text] if text else []
    return "\n\n".join(parts) + "\n"


def write_card(folder: str | Path, output: str | Path | None = None, **added: Any) -> Path:
    """Write the card of a run, and in its own folder the evaluation results that the Hub reads.

    Args:
        folder: Folder of the run, with `metrics.json` and `config.json`, and `run.yaml` if it has one.
        output: The file. Default: `README.md` in the folder, where its images lie beside it. Images of any other
            are copied into a folder of its name.
        added: Arguments of `keep_for_card`: `curve`, `repo_id`, `title`, `limits`, `license`, ...; what was given for
            an earlier card stays.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If the folder holds no run, or that of the curve none.
        ValueError: If the file is no Markdown file, or as `CardArguments`.
    """
    path = Path(folder, "README.md") if output is None else Path(output)
    if path.suffix != ".md":
        raise ValueError(f"output must be a Markdown file, such as {path}.md, got {str(path)!r}.")
    if added:
        keep_for_card(folder, **added)
    beside = path.parent if output is None else path.with_suffix("")
    found = {name: source for name in IMAGES if (source := Path(folder, name)).is_file()}
    where = {name: quote((beside / name).relative_to(path.parent).as_posix()) for name in found}
    run = read_run(folder, where)
    with naming_damage(Path(folder, "metrics.json")):
        card = model_card(run)
        if output is None:
            write_eval_results(folder, run)
    for name, source in found.items():
        if source.resolve() != (beside / name).resolve():
            beside.mkdir(parents=True, exist_ok=True)
            with replaced(beside / name) as part:
                Image.open(source).convert("RGB").quantize(COLOURS).save(part, optimize=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, card)
    return path
