"""Search pictures by text, texts by picture and pictures by picture, with any model that answers as CLIP does."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_multimodal.data.checks import BadSample
from hf_multimodal.data.choices import check_choice
from hf_multimodal.inference.embedding import embed_images, embed_texts
from hf_multimodal.inference.fingerprint import fingerprint
from hf_multimodal.inference.index import EmbeddingIndex, Hits

logger = logging.getLogger(__name__)

ON_BAD_SAMPLE = ("error", "drop")
MANIFEST = "retriever.json"


class Retriever:
    """An index of pictures and one of texts, in the space of one model.

    Args:
        model: A `CLIPModel`, a `SiglipModel`, or one that answers alike; it is not to be trained further.
        processor: Its processor.
        index: `exact`, or by faiss `flat`, `hnsw` or `ivf`; see `EmbeddingIndex`.
        batch_size: Pictures or texts a forward pass.
        num_workers: Processes that decode pictures that are added.
        show_progress: Whether adding shows a progress bar.

    Raises:
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
        images: Sequence[Any],
        *,
        ids: Sequence[str] | None = None,
        payload: Sequence[dict[str, Any]] | None = None,
        on_bad_sample: str = "error",
    ) -> list[BadSample]:
        """Embed pictures and add them to the index; an error leaves the index as it was.

        Args:
            images: Pictures of Pillow, paths, bytes, or `{"bytes", "path"}` dicts.
            ids: Names that come back with hits; by default pictures are numbered, over all calls.
            payload: A dict for each picture that comes back with hits; `image`, the path, is added to it where there
                is one.
            on_bad_sample: `"error"` raises on a picture that is None or cannot be read; `"drop"` leaves it out.

        Returns:
            The pictures that were left out.

        Raises:
            BadImageError: On an unreadable picture under `"error"`; names the row.
            ValueError: An id that is there already, lists that differ in length, or a payload that JSON cannot hold.
        """
        check_choice("on_bad_sample", on_bad_sample, ON_BAD_SAMPLE)
        names, loads = self.images.named(len(images), ids, payload)
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
        for row in rows:
            path = _path_of(images[row])
            loads[row] = loads[row] if path is None else {"image": path, **loads[row]}
        self.images.add([names[row] for row in rows], embeds, [loads[row] for row in rows])
        self.images.offered += len(images)
        return left_out

    def add_texts(
        self,
        texts: Sequence[str | None],
        *,
        ids: Sequence[str] | None = None,
        payload: Sequence[dict[str, Any]] | None = None,
        on_bad_sample: str = "error",
    ) -> list[BadSample]:
        """Embed texts and add them to the index; an error leaves the index as it was.

        Args:
            texts: The texts.
            ids: As for `add_images`.
            payload: A dict for each text that comes back with hits; `text` is added to it.
            on_bad_sample: `"error"` raises on an empty text; `"drop"` leaves it out.

        Returns:
            The texts that were left out.

        Raises:
            ValueError: An empty text under `"error"`, or as for `add_images`.
        """
        check_choice("on_bad_sample", on_bad_sample, ON_BAD_SAMPLE)
        names, loads = self.texts.named(len(texts), ids, payload)
        kept = {row: text for row, text in enumerate(texts) if isinstance(text, str) and text.strip()}
        reasons = {row: "there is no text" for row in range(len(texts)) if row not in kept}
        left_out = _leave_out("texts", "text", names, reasons, on_bad_sample)
        if kept:
            embeds = embed_texts(
                self.model,
                self.processor,
                list(kept.values()),
                batch_size=self.batch_size,
                show_progress=self.show_progress,
            )
            self.texts.add(
                [names[row] for row in kept], embeds, [{"text": text, **loads[row]} for row, text in kept.items()]
            )
        self.texts.offered += len(texts)
        return left_out

    def search_images(self, text: str | Sequence[str], k: int = 10) -> Hits | list[Hits]:
        """Find the pictures that a text describes.

        Args:
            text: A query, or a list of them.
            k: Number of hits a query.

        Returns:
            The hits, or a list of them for a list of queries.

        Raises:
            ValueError: An empty query, or `k` beyond the number of pictures.
        """
        return self._by_text(self.images, text, k)

    def search_texts(self, image: Any, k: int = 10) -> Hits | list[Hits]:
        """Find the texts that describe a picture.

        Args:
            image: A query, one of what `add_images` takes, or a list of them.
            k: Number of hits a query.

        Returns:
            The hits, or a list of them for a list of queries.

        Raises:
            ValueError: An empty query, or `k` beyond the number of texts.
            BadImageError: A picture that cannot be read.
        """
        return self._by_image(self.texts, image, k)

    def search_similar_images(self, image: Any, k: int = 10) -> Hits | list[Hits]:
        """Find the pictures like a picture, which finds itself first where it is in the index.

        Args:
            image: As for `search_texts`.
            k: Number of hits a query.

        Returns:
            The hits, or a list of them for a list of queries.

        Raises:
            ValueError: An empty query, or `k` beyond the number of pictures.
            BadImageError: A picture that cannot be read.
        """
        return self._by_image(self.images, image, k)

    def _by_text(self, index: EmbeddingIndex, text: str | Sequence[str], k: int) -> Hits | list[Hits]:
        queries = _queries(text, [not (one and one.strip()) for one in _as_list(text)])
        index.check_k(k)
        found = index.search(embed_texts(self.model, self.processor, queries, batch_size=self.batch_size), k)
        return found if isinstance(text, (list, tuple)) else found[0]

    def _by_image(self, index: EmbeddingIndex, image: Any, k: int) -> Hits | list[Hits]:
        queries = _queries(image, [one is None for one in _as_list(image)])
        index.check_k(k)
        found = index.search(embed_images(self.model, self.processor, queries, batch_size=self.batch_size)[0], k)
        return found if isinstance(image, (list, tuple)) else found[0]

    def save(self, folder: str | Path) -> None:
        """Write the index: embeddings as safetensors, ids and payload as JSON lines, and the model's fingerprint.

        Args:
            folder: Where to; made if absent, an index in it is replaced.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        parts = {index.what: index.save(folder) for index in (self.images, self.texts)}
        manifest = json.dumps({"index": self.images.kind, "fingerprint": self.fingerprint, **parts}, indent=2)
        (folder / MANIFEST).write_text(manifest + "\n", encoding="utf-8")

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
        if not (folder / MANIFEST).is_file():
            raise FileNotFoundError(f"there is no index in {str(folder)!r}: it has no {MANIFEST}.")
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{folder / MANIFEST}: the file is cut short or was changed ({error}).") from None
        retriever = cls(model, processor, **{"index": manifest["index"], **options})
        differing = [name for name, digest in manifest["fingerprint"].items() if retriever.fingerprint[name] != digest]
        if differing:
            verb = "differ" if "weights" in differing else "differs"
            raise ValueError(
                f"the index in {str(folder)!r} was made by another model: its {' and '.join(differing)} {verb} from "
                "those given. Make the index again, or load the model that made it, in the same dtype."
            )
        for index in (retriever.images, retriever.texts):
            index.load(folder, manifest[index.what])
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


def _path_of(image: Any) -> str | None:
    path = image.get("path") if isinstance(image, dict) else image
    return str(path) if isinstance(path, (str, Path)) else None


def _as_list(given: Any) -> list[Any]:
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _queries(given: Any, empty: list[bool]) -> list[Any]:
    if not empty:
        raise ValueError("there is no query: the list is empty.")
    if any(empty):
        which = f"query {empty.index(True)}" if isinstance(given, (list, tuple)) else "the query"
        raise ValueError(f"{which} is empty.")
    return _as_list(given)
