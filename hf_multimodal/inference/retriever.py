"""Search images by text, texts by image and images by image, with any model that has the methods of CLIP."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import logging

from hf_multimodal.data.checks import BadSample
from hf_multimodal.hub.storage import recover, replaced_files
from hf_multimodal.inference.embedding import check_embeds, embed_images, embed_texts, is_single, several
from hf_multimodal.inference.fingerprint import fingerprint
from hf_multimodal.inference.index import EmbeddingIndex, Hits
from hf_multimodal.validation import check_choice

logger = logging.get_logger(__name__)

ON_BAD_SAMPLE = ("error", "drop")
MANIFEST = "retriever.json"
HITS = 10  # unless asked for, and where there are as many


class Retriever:
    """An index of images and one of texts, in the space of one model.

    Args:
        model: A `CLIPModel`, a `SiglipModel`, or one with the same methods; it is not to be trained further.
        processor: Its processor.
        index: `exact`, or by faiss `flat`, `hnsw` or `ivf`; see `EmbeddingIndex`.
        batch_size: Images or texts a forward pass.
        num_workers: Processes that decode images that are added.
        show_progress: Whether adding shows a progress bar.

    Raises:
        TypeError: A model that embeds no images and texts.
        ValueError: An unknown index.
        ImportError: An index of faiss, which is not installed.

    Example:

    >>> Retriever(None, None, index="hnws")
    Traceback (most recent call last):
    ...
    ValueError: index must be one of ['exact', 'flat', 'hnsw', 'ivf'], got 'hnws'. Did you mean 'hnsw'?
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        *,
        index: str = "exact",
        batch_size: int = 64,
        num_workers: int = 0,
        show_progress: bool = True,
    ) -> None:
        check_embeds(model)
        self.images = EmbeddingIndex("images", index)
        self.texts = EmbeddingIndex("texts", index)
        self.model = model
        self.processor = processor
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.show_progress = show_progress
        self.fingerprint = fingerprint(model, processor)

    def add_images(
        self,
        images: Iterable[Any],
        *,
        ids: Iterable[str] | None = None,
        payload: Iterable[dict[str, Any]] | None = None,
        on_bad_sample: str = "error",
    ) -> list[BadSample]:
        """Embed images and add them to the index; an error leaves the index as it was.

        Args:
            images: Images of Pillow, paths, bytes, or `{"bytes", "path"}` dicts; always several, as in a list.
            ids: Names that come back with hits; by default images are numbered, over all calls.
            payload: A dict for each image that comes back with hits; `image`, the path, is added to it where there
                is one.
            on_bad_sample: `"error"` raises on an image that is None or cannot be read; `"drop"` leaves it out.

        Returns:
            The images that were left out.

        Raises:
            BadImageError: On an unreadable image under `"error"`; names the row.
            TypeError: One image alone.
            ValueError: An id that is there already, lists that differ in length, or a payload that JSON cannot hold
                or whose `image` is another path.
        """
        check_choice("on_bad_sample", on_bad_sample, ON_BAD_SAMPLE)
        images = several("images", images)
        names, loads = self.images.named(len(images), *_lists(ids, payload))
        loads = [_with("images", row, loads[row], "image", _path_of(image)) for row, image in enumerate(images)]
        embeds, rows, bad = embed_images(
            self.model,
            self.processor,
            images,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            on_bad_image="error" if on_bad_sample == "error" else "missing",
            show_progress=self.show_progress,
        )
        reasons = {row: str(bad.get(row, "there is no image")) for row in sorted(set(range(len(images))) - set(rows))}
        left_out = _leave_out("images", "image", names, reasons, on_bad_sample)
        self.images.add([names[row] for row in rows], embeds, [loads[row] for row in rows])
        self.images.offered += len(images)
        return left_out

    def add_texts(
        self,
        texts: Iterable[str | None],
        *,
        ids: Iterable[str] | None = None,
        payload: Iterable[dict[str, Any]] | None = None,
        on_bad_sample: str = "error",
    ) -> list[BadSample]:
        """Embed texts and add them to the index; an error leaves the index as it was.

        Args:
            texts: The texts, always several, as in a list.
            ids: As for `add_images`.
            payload: A dict for each text that comes back with hits; `text` is added to it.
            on_bad_sample: `"error"` raises on what is empty or no text; `"drop"` leaves it out.

        Returns:
            The texts that were left out.

        Raises:
            TypeError: One text alone.
            ValueError: An empty text under `"error"`, or as for `add_images`.
        """
        check_choice("on_bad_sample", on_bad_sample, ON_BAD_SAMPLE)
        texts = list(several("texts", texts))
        names, loads = self.texts.named(len(texts), *_lists(ids, payload))
        kept = {row: text for row, text in enumerate(texts) if isinstance(text, str) and text.strip()}
        reasons = {row: _no_text(text) for row, text in enumerate(texts) if row not in kept}
        loads = [_with("texts", row, load, "text", kept.get(row)) for row, load in enumerate(loads)]
        left_out = _leave_out("texts", "text", names, reasons, on_bad_sample)
        if kept:
            embeds = embed_texts(
                self.model,
                self.processor,
                list(kept.values()),
                batch_size=self.batch_size,
                show_progress=self.show_progress,
            )
            self.texts.add([names[row] for row in kept], embeds, [loads[row] for row in kept])
        self.texts.offered += len(texts)
        return left_out

    def search_images(self, text: str | Iterable[str], k: int | None = None) -> Hits | list[Hits]:
        """Find the images that a text describes.

        Args:
            text: A query, or several, as in a list.
            k: Number of hits a query; None means ten, or all where there are fewer.

        Returns:
            The hits, or a list of them for several queries.

        Raises:
            TypeError: A query that is no text.
            ValueError: An empty query, or `k` beyond the number of images.
        """
        return self._by_text(self.images, text, k)

    def search_texts(self, image: Any, k: int | None = None) -> Hits | list[Hits]:
        """Find the texts that describe an image.

        Args:
            image: A query, one of what `add_images` takes, or several, as in a list.
            k: As for `search_images`.

        Returns:
            The hits, or a list of them for several queries.

        Raises:
            ValueError: An empty query, or `k` beyond the number of texts.
            BadImageError: An image that cannot be read.
        """
        return self._by_image(self.texts, image, k)

    def search_similar_images(self, image: Any, k: int | None = None) -> Hits | list[Hits]:
        """Find the images like an image, which finds itself first where it is in the index.

        Args:
            image: As for `search_texts`.
            k: As for `search_images`.

        Returns:
            The hits, or a list of them for several queries.

        Raises:
            ValueError: An empty query, or `k` beyond the number of images.
            BadImageError: An image that cannot be read.
        """
        return self._by_image(self.images, image, k)

    def _by_text(self, index: EmbeddingIndex, text: str | Iterable[str], k: int | None) -> Hits | list[Hits]:
        queries = _queries(text)
        for number, query in enumerate(queries):
            if not isinstance(query, str):
                raise TypeError(f"a query must be a text, got {query!r:.80} as query {number}.")
        k = _hits(index, k)
        found = index.search(embed_texts(self.model, self.processor, queries, batch_size=self.batch_size), k)
        return found[0] if is_single(text) else found

    def _by_image(self, index: EmbeddingIndex, image: Any, k: int | None) -> Hits | list[Hits]:
        queries, k = _queries(image), _hits(index, k)
        found = index.search(embed_images(self.model, self.processor, queries, batch_size=self.batch_size)[0], k)
        return found[0] if is_single(image) else found

    def save(self, folder: str | Path) -> None:
        """Write the index: embeddings as safetensors, ids and payload as JSON lines, and the model's fingerprint.

        Args:
            folder: Where to; made if absent. An index in it is replaced as a whole: whatever happens, what is there
                afterwards is the old one or the new.
        """
        with replaced_files(folder, last=MANIFEST) as new:
            parts = {index.what: index.save(new) for index in (self.images, self.texts)}
            manifest = json.dumps({"index": self.images.kind, "fingerprint": self.fingerprint, **parts}, indent=2)
            (new / MANIFEST).write_text(manifest + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, model: PreTrainedModel, processor: Any, **options: Any) -> "Retriever":
        """Read an index back for the model that made it.

        Args:
            folder: Where it was saved.
            model: The model that made it.
            processor: Its processor.
            options: Of the constructor; `index` is by default as it was.

        Returns:
            The retriever, to be searched and added to.

        Raises:
            FileNotFoundError: If there is no index, or one of its files is gone.
            ValueError: If the index was made by another model, or a file is cut short or was changed.
        """
        folder = Path(folder)
        if folder.is_dir():
            recover(folder)
        if not (folder / MANIFEST).is_file():
            raise FileNotFoundError(f"there is no index in {str(folder)!r}: it has no {MANIFEST}.")
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            kind, known = manifest["index"], dict(manifest["fingerprint"])
            entries = [{name: manifest[what][name] for name in ("files", "offered")} for what in ("images", "texts")]
        except (ValueError, KeyError, TypeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{folder / MANIFEST}: the file is cut short or was changed ({reason}).") from None
        retriever = cls(model, processor, **{"index": kind, **options})
        differing = [name for name, digest in retriever.fingerprint.items() if known.get(name) != digest]
        if "weights" in differing and "configuration" in differing:  # another model has another configuration anyway
            differing.remove("configuration")
        if differing:
            verb = "differs" if differing in (["configuration"], ["processor"]) else "differ"
            raise ValueError(
                f"the index in {str(folder)!r} was made by another model: its {' and '.join(differing)} {verb} from "
                "those given. Make the index again, or load the model that made it, in the same dtype."
            )
        for index, entry in zip((retriever.images, retriever.texts), entries, strict=True):
            index.load(folder, entry)
        return retriever


def _leave_out(
    source: str, column: str, names: list[str], reasons: dict[int, str], on_bad_sample: str
) -> list[BadSample]:
    """Raise on the first bad row or list them all, as the policy has it."""
    if reasons and on_bad_sample == "error":
        row, reason = next(iter(reasons.items()))
        raise ValueError(f"{source}, row {row}: {reason}; on_bad_sample='drop' leaves such rows out.")
    samples = [BadSample(source, row, names[row], column, "", reason, "dropped") for row, reason in reasons.items()]
    if samples:
        logger.warning(f"{len(samples)} of {len(names)} {source} are left out, such as {samples[0]}.")
    return samples


def _lists(ids: Iterable[str] | None, payload: Iterable[dict[str, Any]] | None) -> list[list[Any] | None]:
    named = (("ids", ids), ("payload", payload))
    return [None if given is None else list(several(what, given)) for what, given in named]


def _with(what: str, row: int, load: dict[str, Any], name: str, value: str | None) -> dict[str, Any]:
    """The payload with what was indexed, unless that is not known; it may not say otherwise."""
    if value is None:
        return load
    if load.get(name, value) != value:
        raise ValueError(f"{what}, row {row}: {name!r} in the payload holds what is indexed, name yours otherwise.")
    return {name: value, **load}


def _path_of(image: Any) -> str | None:
    path = image.get("path") if isinstance(image, dict) else image
    return str(path) if isinstance(path, (str, Path)) else None


def _no_text(given: Any) -> str:
    if given is None or isinstance(given, (str, float)):  # NaN stands for an empty cell
        return "there is no text"
    return f"{given!r:.80} is no text"


def _hits(index: EmbeddingIndex, k: int | None) -> int:
    k = min(HITS, max(1, len(index))) if k is None else k
    index.check_k(k)  # before any time is spent on embedding
    return k


def _queries(given: Any) -> list[Any]:
    queries = [given] if is_single(given) else list(several("queries", given))
    if not queries:
        raise ValueError("there is no query: the list is empty.")
    for number, query in enumerate(queries):
        if query is None or (isinstance(query, str) and not query.strip()):
            raise ValueError(f"{'the query' if is_single(given) else f'query {number}'} is empty.")
    return queries
