"""hf-multimodal generate --model runs/text_to_image --text "a red circle" --n 8 --output sheet.png

Images for texts, on one sheet, and as files of their own where asked.
"""

from pathlib import Path
from typing import Any

from hf_multimodal.cli.command_line import CommandLine
from hf_multimodal.cli.commands import COMMANDS
from hf_multimodal.evaluation.image_sheet import image_sheet
from hf_multimodal.hub.storage import make_folder
from hf_multimodal.inference.prediction import load_model
from hf_multimodal.inference.reranking import rank_images
from hf_multimodal.models import TextToImageConfig


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the command.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        `images`, how many were drawn, `files`, what was written, and with `--rerank` the `cosines` of what was kept,
        by text.

    Raises:
        ValueError: If the model draws no images, or a text is longer than a prompt.
    """
    args = CommandLine(COMMANDS["generate"], argv).parse().generation
    model, processor = load_model(args.model, args.revision, args.trust_remote_code)
    if model.config.model_type != TextToImageConfig.model_type:
        raise ValueError(
            f"{args.model} is a {model.config.model_type!r}, which draws no images: `hf-multimodal "
            "train-text-to-image` makes a model that does."
        )
    aligner = None if args.rerank is None else load_model(args.rerank, None, args.trust_remote_code)
    make_folder(Path(args.output).parent, "--output")
    each = args.candidates or args.n
    options = {"guidance_scale": args.guidance_scale, "top_k": args.top_k, "top_p": args.top_p}
    drawn = model.generate_images(
        processor, args.text, each, seed=args.seed, batch_size=args.batch_size, temperature=args.temperature, **options
    )
    rows = [drawn[start : start + each] for start in range(0, len(drawn), each)]
    report: dict[str, Any] = {"images": len(drawn), "files": [args.output]}
    if aligner is not None:
        order, cosines = rank_images(*aligner, args.text, rows, args.batch_size)
        rows = [[images[place] for place in places[: args.n]] for images, places in zip(rows, order, strict=True)]
        report["cosines"] = [found[: args.n] for found in cosines]
    image_sheet(rows, args.text, args.output)
    if args.output_dir is not None:
        folder = make_folder(args.output_dir, "--output_dir")
        for number, images in enumerate(rows):
            for place, image in enumerate(images):
                file = folder / f"{number}-{place}.png"
                image.save(file)
                report["files"].append(str(file))
    print(f"{len(args.text)} texts, {each} images each; {args.output} shows {len(rows[0])} a text.")
    return report
