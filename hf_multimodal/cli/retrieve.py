"""hf-multimodal retrieve index --model runs/aligner --data images/ --index_dir runs/index

Index images and texts by an aligner, and search them.
"""

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_multimodal.cli.arguments import IndexArguments, SearchArguments, SourceArguments
from hf_multimodal.cli.command_line import CommandLine
from hf_multimodal.cli.commands import COMMANDS
from hf_multimodal.cli.rows import check, chosen_rows, parse_for_model
from hf_multimodal.data.checks import first_reasons, missing_columns, write_bad_samples
from hf_multimodal.data.images import value_range_of
from hf_multimodal.hub.storage import make_folder
from hf_multimodal.hub.tables import markdown_table
from hf_multimodal.inference.index import Hits
from hf_multimodal.inference.prediction import load_model
from hf_multimodal.inference.result_sheet import result_sheet
from hf_multimodal.inference.retriever import Retriever


def index(argv: list[str] | None = None) -> dict[str, int]:
    """Run `retrieve index`.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        Counts of what was indexed.
    """
    flags = parse_for_model("retrieve index", argv)
    return index_data(flags.index, flags.source)


def search(argv: list[str] | None = None) -> dict[str, Any]:
    """Run `retrieve search`.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        The hits.
    """
    return search_index(CommandLine(COMMANDS["retrieve search"], argv).parse().search)


def index_data(args: IndexArguments, source: SourceArguments) -> dict[str, int]:
    """Index the images and texts of a table, a folder or a Hub data set, and write the index.

    An image that stands in several rows, as with several captions, is indexed once, under its name in
    `image_id_column`, else under the id of its first row. Texts are looked for as for training an aligner, under
    `caption` first.

    Args:
        args: What is indexed.
        source: The data; bad samples are dealt with by `on_bad_sample` and listed in `bad_samples.csv`.

    Returns:
        Number of `images`, `texts` and `bad_samples`.

    Raises:
        ValueError: If there is neither an image nor a text, no column of the one modality that is wanted, or an
            unknown split.
        BadSamplesError: If the policy refuses some.
    """
    columns: dict[str, Any] = {"pairs": True, "image_id_column": args.image_id_column}
    loaded = chosen_rows(args.model, args.split, source, prediction=True, **columns)
    alone = loaded.report["kind"] == "images"  # a folder of them, from which nobody expects texts
    missing = [] if alone and args.modality == "both" else missing_columns(loaded, args.modality, labels=False)
    for sentence in missing:
        if args.modality != "both":
            raise ValueError(f"{source.data}: {sentence}")
        warnings.warn(f"{source.data}: {sentence}", stacklevel=2)
    folder = make_folder(args.index_dir, "--index_dir")
    model, processor = load_model(args.model, args.revision, args.trust_remote_code)
    options: dict[str, Any] = {"prediction": True, "image_value_range": value_range_of(processor)}
    checked, bad_samples = check(source, loaded, args.modality, folder / "bad_samples.csv", **options)
    write_bad_samples(folder / "bad_samples.csv", bad_samples)
    rows = checked.splits["predict"]
    first: dict[str, int] = {}
    if args.modality != "text":
        for row, (name, image) in enumerate(zip(rows["image_id"], rows["image"], strict=True)):
            if image is not None:
                first.setdefault(f"row {row}" if name is None else name, row)
    texts = [] if args.modality == "image" else [row for row, text in enumerate(rows["text"]) if text is not None]
    if not first and not texts:
        raise ValueError(f"{source.data} has nothing to index: no image and no text.{first_reasons(bad_samples)}")
    retriever = Retriever(
        model,
        processor,
        index=args.index,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
    )
    with_image, written = rows.select(list(first.values())), rows.select(texts)
    retriever.add_images(with_image["image"], ids=with_image["id"] if args.image_id_column is None else list(first))
    retriever.add_texts(written["text"], ids=written["id"])
    retriever.save(folder)
    result = {"images": len(first), "texts": len(texts), "bad_samples": len(bad_samples)}
    print(f"{result['images']} images and {result['texts']} texts in {folder}; {len(bad_samples)} bad samples.")
    return result


def search_index(args: SearchArguments) -> dict[str, Any]:
    """Search an index, print a table of hits, and draw them where asked.

    Args:
        args: The query.

    Returns:
        `ids`, `scores` and `payload` of the hits, and `pool`, the number of items that were searched.

    Raises:
        ValueError: If the index was made by another model, is empty, or holds fewer items than the `k` asked for.
    """
    loaded = load_model(args.model, args.revision, args.trust_remote_code)
    retriever = Retriever.load(args.index_dir, *loaded, show_progress=False)
    if args.text is not None:
        hits = retriever.search_images(args.text, args.k)
    elif args.find == "texts":
        hits = retriever.search_texts(args.image, args.k)
    else:
        hits = retriever.search_similar_images(args.image, args.k)
    assert isinstance(hits, Hits)
    pool = len(retriever.texts if args.find == "texts" else retriever.images)
    shown = [load.get("text") or load.get("image", "") for load in hits.payload]
    entries = zip(hits.scores, hits.ids, shown, strict=True)
    table = markdown_table(
        [[rank, *entry] for rank, entry in enumerate(entries, start=1)], ["rank", "score", "id", args.find]
    )
    print(f"the first {len(hits.ids)} of {pool} {args.find}\n\n{table}")
    if args.sheet is not None:
        make_folder(Path(args.sheet).parent, "--sheet")
        query = args.text if args.image is None else Path(args.image)
        result_sheet(query, hits, args.sheet, value_range=value_range_of(loaded[1]))
    return {**asdict(hits), "pool": pool}
