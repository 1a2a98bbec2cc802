"""Embeddings with their ids and payload: search by cosine, exact or by faiss, and the files they are kept in."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from datasets.search import FaissIndex
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_multimodal.validation import check_choice

CELLS = 16_000_000  # scores held at once: 64 MB
KINDS = ("exact", "flat", "hnsw", "ivf")


@dataclass(frozen=True)
class Hits:
    """What one query found, best first.

    Args:
        ids: Names of the items.
        scores: Cosines with the query.
        payload: What was stored with each item.
    """

    ids: list[str]
    scores: list[float]
    payload: list[dict[str, Any]]


class EmbeddingIndex:
    """Normalised embeddings, each with an id and a payload.

    `exact` is one matrix product and the top of each row. The others are faiss, through `datasets`: `flat` is exact
    too, `hnsw` ([Malkov and Yashunin, 2016](https://arxiv.org/abs/1603.09320)) walks a graph of neighbours, `ivf`
    ([Jégou et al., 2011](https://doi.org/10.1109/TPAMI.2010.57)) looks into the nearest tenth of about √n clusters,
    into eight at least; the last two may miss some. What faiss builds is built at the first search after an addition,
    or by `build`, and is not saved.

    Args:
        what: Name of the items in messages and files: `images`, `texts`.
        kind: `exact`, `flat`, `hnsw` or `ivf`.

    Raises:
        ValueError: An unknown kind.
        ImportError: A kind of faiss, which is not installed.

    Example:

    >>> index = EmbeddingIndex("texts")
    >>> index.add(["east", "north"], torch.eye(2), [{}, {"note": "cold"}])
    >>> index.search(torch.tensor([[0.6, 0.8]]), k=1)[0].ids
    ['north']
    """

    def __init__(self, what: str, kind: str = "exact") -> None:
        self.what = what
        self.kind = check_choice("index", kind, KINDS)
        if kind != "exact" and find_spec("faiss") is None:
            raise ImportError(f"index {kind!r} needs faiss: pip install 'hf_multimodal[retrieval]'.")
        self.ids: list[str] = []
        self.payload: list[dict[str, Any]] = []
        self.offered = 0  # items that were ever to be added, those left out included: the next number
        self._parts: list[Tensor] = []
        self._faiss: FaissIndex | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def embeds(self) -> Tensor:
        """(items, width), in the order in which they were added."""
        if len(self._parts) > 1:
            self._parts = [torch.cat(self._parts)]
        return self._parts[0] if self._parts else torch.empty(0, 0)

    def named(
        self, count: int, ids: Sequence[str] | None, payload: Sequence[dict[str, Any]] | None
    ) -> tuple[list[str], list[dict[str, Any]]]:
        """Name new items and check what comes with them, before any time is spent on embedding them.

        Args:
            count: Number of items.
            ids: Their names, or None: numbers that go on behind all that were ever offered, but for those that are
                names already.
            payload: A dict each, or None.

        Returns:
            Names and payload of each.

        Raises:
            ValueError: An id that is there already, not one for each item, or a payload that JSON cannot hold.
        """
        for what, given in (("ids", ids), ("payload", payload)):
            if given is not None and len(given) != count:
                raise ValueError(f"{what} must be one for each of the {count} {self.what}, got {len(given)}.")
        known, first = set(self.ids), dict[str, int]()
        free = (str(number) for number in itertools.count(self.offered) if str(number) not in known)
        names = list(itertools.islice(free, count)) if ids is None else [str(name) for name in ids]
        for row, name in enumerate(names):
            if name in known:
                raise ValueError(f"{self.what}, row {row}: the id {name!r} is in the index already.")
            if first.setdefault(name, row) != row:
                raise ValueError(f"{self.what}, row {row}: the id {name!r} stands in row {first[name]} already.")
        loads = [dict(load) for load in payload or [{}] * count]
        for row, load in enumerate(loads):
            try:
                json.dumps(load)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{self.what}, row {row}: the payload cannot be written as JSON ({error}).") from None
        return names, loads

    def add(self, ids: Sequence[str], embeds: Tensor, payload: Sequence[dict[str, Any]]) -> None:
        """Add items.

        Args:
            ids: Their names, not in the index yet.
            embeds: (items, width), of length 1 each.
            payload: What JSON can hold, given back with each hit.
        """
        if len(ids):
            self.ids += ids
            self.payload += payload
            self._parts.append(embeds)
            self._faiss = None

    def check_k(self, k: int) -> None:
        """Raise where there are not `k` items to be found.

        Args:
            k: Number of hits that are wanted.

        Raises:
            ValueError: If the index is empty, or `k` is not from 1 to its length.
        """
        if not len(self):
            raise ValueError(f"there are no {self.what} in the index.")
        if not 1 <= k <= len(self):
            raise ValueError(f"k must be from 1 to {len(self)}, the number of {self.what} in the index, got {k}.")

    def search(self, queries: Tensor, k: int) -> list[Hits]:
        """Find the items nearest to each query.

        Args:
            queries: (queries, width), of length 1 each.
            k: Number of hits a query; `ivf` may find fewer.

        Returns:
            The hits of each query.

        Raises:
            ValueError: As for `check_k`.
        """
        self.check_k(k)
        scores, rows = self._exact(queries, k) if self.kind == "exact" else self._by_faiss(queries, k)
        found = []
        for values, places in zip(scores.tolist(), rows.tolist(), strict=True):
            pairs = [(value, place) for value, place in zip(values, places, strict=True) if place >= 0]
            places = [place for _, place in pairs]
            hits = Hits([self.ids[p] for p in places], [v for v, _ in pairs], [self.payload[p] for p in places])
            found.append(hits)
        return found

    def _exact(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        chunks = queries.split(max(1, CELLS // len(self)))
        best = [(chunk @ self.embeds.T).topk(k) for chunk in chunks]
        return torch.cat([found.values for found in best]), torch.cat([found.indices for found in best])

    def _by_faiss(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        self.build()
        assert self._faiss is not None
        if self.kind == "hnsw":
            self._faiss.faiss_index.hnsw.efSearch = max(64, k)
        found = self._faiss.search_batch(queries.numpy(), k)
        return torch.from_numpy(found.total_scores), torch.from_numpy(found.total_indices)

    def build(self) -> None:
        """Build what the search needs, unless it is there; `exact` needs nothing."""
        if self.kind == "exact" or self._faiss is not None or not len(self):
            return
        import faiss

        vectors, lists = self.embeds.numpy(), isqrt(len(self))
        factory = {"flat": "Flat", "hnsw": "HNSW32", "ivf": f"IVF{lists},Flat"}[self.kind]
        built = FaissIndex(string_factory=factory, metric_type=faiss.METRIC_INNER_PRODUCT)
        hidden = are_progress_bars_disabled()
        disable_progress_bars()  # theirs has one step
        try:
            built.add_vectors(
                vectors, batch_size=len(vectors), train_size=len(vectors) if self.kind == "ivf" else None
            )
        finally:
            if not hidden:
                enable_progress_bars()
        if self.kind == "ivf":
            built.faiss_index.nprobe = max(8, lists // 10)
        self._faiss = built

    def save(self, folder: Path) -> dict[str, Any]:
        """Write `{what}.safetensors` and `{what}.jsonl`.

        Args:
            folder: Where to.

        Returns:
            What `load` needs besides: counts, and a hash of each file.
        """
        table, lines = folder / f"{self.what}.safetensors", folder / f"{self.what}.jsonl"
        save_file({"embeds": self.embeds}, table)
        entries = zip(self.ids, self.payload, strict=True)
        content = "".join(json.dumps({"id": name, "payload": load}) + "\n" for name, load in entries)
        lines.write_text(content, encoding="utf-8", newline="\n")
        files = {file.name: _hash(file) for file in (table, lines)}
        return {"count": len(self), "offered": self.offered, "files": files}

    def load(self, folder: Path, entry: dict[str, Any]) -> None:
        """Fill an empty index with what was saved.

        Args:
            folder: Where `save` wrote.
            entry: What it returned.

        Raises:
            FileNotFoundError: If a file is gone.
            ValueError: If a file is not the one that was written.
        """
        for name, digest in entry["files"].items():
            if not (folder / name).is_file():
                raise FileNotFoundError(f"the index in {str(folder)!r} lacks its file {name}.")
            if _hash(folder / name) != digest:
                raise ValueError(f"{folder / name}: the file is cut short or was changed since the index was saved.")
        with (folder / f"{self.what}.jsonl").open(encoding="utf-8") as stream:
            items = [json.loads(line) for line in stream]
        embeds = load_file(folder / f"{self.what}.safetensors")["embeds"]
        self.add([item["id"] for item in items], embeds, [item["payload"] for item in items])
        self.offered = entry["offered"]


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
