"""The retriever finds what a plain loop finds, keeps its ids right, and knows its own index."""

import json
import logging
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from test_aligner_model import build
from test_embedding import SIZE, WORDS, make_pair, pil_images
from test_embedding import pair as pair
from test_processor import make_tokenizer
from transformers import AutoModel, AutoProcessor, ViTImageProcessor

from hf_multimodal import MultimodalProcessor, Retriever
from hf_multimodal.data.images import BadImageError
from hf_multimodal.inference.embedding import embed_images, embed_texts
from hf_multimodal.inference.fingerprint import fingerprint
from hf_multimodal.inference.index import EmbeddingIndex

NAMES = ["red", "green", "blue", "yellow", "purple", "black"]


def make_retriever(kind="clip", **options):
    return Retriever(*make_pair(kind), show_progress=False, **options)


def filled(kind="clip", **options):
    retriever = make_retriever(kind, **options)
    retriever.add_images(pil_images(), ids=NAMES, payload=[{"place": row} for row in range(6)])
    retriever.add_texts(WORDS)
    return retriever


def expected(queries, items, names, k):
    """The k best of each query, one at a time."""
    found = []
    for query in queries:
        scores = {name: float(query @ item) for name, item in zip(names, items, strict=True)}
        found.append(sorted(scores.items(), key=lambda entry: -entry[1])[:k])
    return found


def test_searches_find_what_a_plain_loop_finds(pair):
    retriever = Retriever(*pair, batch_size=2, show_progress=False)
    assert retriever.add_images(pil_images(), ids=NAMES) == [] == retriever.add_texts(WORDS)
    images, texts = embed_images(*pair, pil_images())[0], embed_texts(*pair, WORDS)
    for found, queries, items, names in (
        (retriever.search_images(WORDS, k=4), texts, images, NAMES),
        (retriever.search_texts(pil_images(), k=4), images, texts, [str(row) for row in range(len(WORDS))]),
        (retriever.search_similar_images(pil_images(), k=4), images, images, NAMES),
    ):
        for hits, best in zip(found, expected(queries, items, names, 4), strict=True):
            assert hits.ids == [name for name, _ in best]
            assert hits.scores == pytest.approx([score for _, score in best], abs=1e-5)
    assert [hits.ids[0] for hits in retriever.search_similar_images(pil_images(), k=1)] == NAMES


def test_one_query_gives_one_answer_with_its_payload(tmp_path):
    retriever = filled()
    hits, (same,) = retriever.search_images("a red dog", k=3), retriever.search_images(["a red dog"], k=3)
    assert hits == same and len(hits.ids) == len(hits.scores) == len(hits.payload) == 3
    assert hits.payload == [{"place": NAMES.index(name)} for name in hits.ids]
    assert all(isinstance(score, float) for score in hits.scores)
    texts = retriever.search_texts(pil_images()[0], k=5)
    assert texts.payload == [{"text": WORDS[int(name)]} for name in texts.ids]
    pil_images()[2].save(tmp_path / "blue.png")
    assert retriever.search_similar_images(tmp_path / "blue.png", k=1).ids == ["blue"]
    retriever.add_images([str(tmp_path / "blue.png")])
    found = retriever.search_similar_images((tmp_path / "blue.png").read_bytes(), k=2)
    assert {"image": str(tmp_path / "blue.png")} in found.payload and set(found.ids) == {"blue", "6"}


def test_adding_later_equals_adding_at_once():
    whole, grown = filled(), make_retriever()
    for row, image in enumerate(pil_images()):
        grown.add_images([image], ids=NAMES[row : row + 1], payload=[{"place": row}])
        grown.search_images("dog", k=1)
    for text in WORDS:
        grown.add_texts([text])
    ours, theirs = whole.search_images(WORDS, k=6), grown.search_images(WORDS, k=6)
    assert [hits.ids for hits in ours] == [hits.ids for hits in theirs]
    ours, theirs = whole.search_texts(pil_images(), k=5), grown.search_texts(pil_images(), k=5)
    assert [hits.payload for hits in ours] == [hits.payload for hits in theirs]


def test_a_corrupt_image_is_an_error_or_left_out(tmp_path, caplog):
    for name, image in zip(NAMES, pil_images(), strict=True):
        image.save(tmp_path / f"{name}.png")
    broken = tmp_path / "blue.png"
    broken.write_bytes(broken.read_bytes()[:70])
    files = [tmp_path / f"{name}.png" for name in NAMES]
    retriever = make_retriever()
    with pytest.raises(BadImageError, match=r"blue.png \(row 2\)' is truncated"):
        retriever.add_images(files)
    assert len(retriever.images) == 0
    with caplog.at_level(logging.WARNING):
        bad = retriever.add_images([*files, None], on_bad_sample="drop")
    assert [(sample.row, sample.id, sample.action) for sample in bad] == [(2, "2", "dropped"), (6, "6", "dropped")]
    assert "is truncated" in bad[0].reason and bad[1].reason == "there is no image"
    assert "2 of 7 images are left out" in caplog.text and "blue.png" in caplog.text
    kept = [0, 1, 3, 4, 5]
    found = retriever.search_similar_images([files[row] for row in kept], k=1)
    assert [hits.ids for hits in found] == [[str(row)] for row in kept]
    assert [hits.payload[0]["image"] for hits in found] == [str(files[row]) for row in kept]
    retriever.add_images([pil_images()[2]])  # numbering goes on behind those that were left out
    assert retriever.search_similar_images(pil_images()[2], k=1).ids == ["7"]
    with pytest.raises(ValueError, match="row 0: there is no image"):
        retriever.add_images([None])
    with pytest.raises(ValueError, match=r"on_bad_sample must be one of \['error', 'drop'\], got 'missing'"):
        retriever.add_images(files, on_bad_sample="missing")


def test_an_empty_text_is_an_error_or_left_out():
    retriever = make_retriever()
    with pytest.raises(ValueError, match="texts, row 1: there is no text"):
        retriever.add_texts(["dog", " ", "cat"])
    bad = retriever.add_texts(["dog", " ", "cat", None], ids=["a", "b", "c", "d"], on_bad_sample="drop")
    assert [sample.id for sample in bad] == ["b", "d"] and retriever.texts.ids == ["a", "c"]
    assert retriever.add_texts([]) == []


def test_ids_are_unique_and_payload_fits():
    retriever = filled()
    with pytest.raises(ValueError, match="images, row 1: the id 'red' is in the index already"):
        retriever.add_images(pil_images()[:2], ids=["new", "red"])
    with pytest.raises(ValueError, match="texts, row 2: the id 'x' stands in row 0 already"):
        retriever.add_texts(WORDS[:3], ids=["x", "y", "x"])
    with pytest.raises(ValueError, match="ids must be one for each of the 2 images, got 1"):
        retriever.add_images(pil_images()[:2], ids=["new"])
    with pytest.raises(ValueError, match="payload must be one for each of the 2 texts, got 3"):
        retriever.add_texts(WORDS[:2], payload=[{}, {}, {}])
    with pytest.raises(ValueError, match="texts, row 1: the payload cannot be written as JSON"):
        retriever.add_texts(WORDS[:2], payload=[{}, {"size": torch.ones(1)}])
    assert len(retriever.images) == 6 and len(retriever.texts) == 5


def test_what_cannot_be_searched_is_named():
    retriever = filled()
    with pytest.raises(ValueError, match="k must be from 1 to 6, the number of images in the index, got 7"):
        retriever.search_images("dog", k=7)
    with pytest.raises(ValueError, match="k must be from 1 to 5, the number of texts in the index, got 0"):
        retriever.search_texts(pil_images()[0], k=0)
    with pytest.raises(ValueError, match="the query is empty"):
        retriever.search_images("  ", k=1)
    with pytest.raises(ValueError, match="query 1 is empty"):
        retriever.search_similar_images([pil_images()[0], None], k=1)
    with pytest.raises(ValueError, match="there is no query"):
        retriever.search_texts([], k=1)
    with pytest.raises(ValueError, match="there are no texts in the index"):
        make_retriever().search_texts(pil_images()[0])
    with pytest.raises(TypeError, match="a query must be a text, got 5 as query 1"):
        retriever.search_images(["dog", 5])
    with pytest.raises(TypeError, match="queries must be several, such as a list, got 5"):
        retriever.search_images(5)
    with pytest.raises(
        TypeError, match="an image must be an image of Pillow, a path, bytes or a dict of them, got a n"
    ):
        retriever.search_texts(np.zeros((8, 8, 3), dtype=np.uint8))
    assert len(retriever.search_images("dog").ids) == 6  # ten unless there are fewer
    with pytest.raises(BadImageError, match="gone.png"):
        retriever.search_texts("gone.png", k=1)


def test_one_item_is_not_taken_apart():
    retriever, message = make_retriever(), "must be several, such as a list, got .* alone: put it into a list"
    for wrong in ("dog.png", Path("dog.png"), b"dog", pil_images()[0], {"path": "dog.png"}, None):
        with pytest.raises(TypeError, match=f"images {message}"):
            retriever.add_images(wrong)
    with pytest.raises(TypeError, match="texts must be several, such as a list, got 'dog' alone: put it into a list"):
        retriever.add_texts("dog")
    with pytest.raises(TypeError, match=f"ids {message}"):
        retriever.add_texts(["a", "b", "c"], ids="dog")
    with pytest.raises(TypeError, match=f"payload {message}"):
        retriever.add_texts(["a"], payload={"place": 1})
    with pytest.raises(ValueError, match="texts, row 1: 5 is no text"):
        retriever.add_texts(["a", 5])
    assert len(retriever.images) == len(retriever.texts) == 0


def test_whatever_can_be_gone_through_is_taken():
    expected = filled()
    rows = datasets.Dataset.from_dict({"image": pil_images(), "name": NAMES})
    given = make_retriever()
    given.add_images(rows["image"], ids=rows["name"], payload=({"place": row} for row in range(6)))
    given.add_texts((word for word in WORDS), ids=np.arange(5))
    assert given.images.ids == NAMES and given.texts.ids == expected.texts.ids
    found = expected.search_images(WORDS, k=2)
    for queries in (np.array(WORDS), datasets.Dataset.from_dict({"text": WORDS})["text"], dict.fromkeys(WORDS).keys()):
        assert given.search_images(queries, k=2) == found
    one_by_one = [expected.search_texts(image, k=2) for image in pil_images()]
    for several in (rows["image"], (image for image in pil_images())):
        hits = given.search_texts(several, k=2)
        assert [one.ids for one in hits] == [one.ids for one in one_by_one]


def test_a_payload_does_not_hide_what_is_indexed(tmp_path):
    retriever = make_retriever()
    with pytest.raises(ValueError, match="texts, row 0: 'text' in the payload holds what is indexed, name yours"):
        retriever.add_texts(["dog"], payload=[{"text": "other"}])
    retriever.add_texts(["dog"], payload=[{"text": "dog", "n": 1}])
    pil_images()[0].save(tmp_path / "red.png")
    with pytest.raises(ValueError, match="images, row 1: 'image' in the payload holds what is indexed"):
        retriever.add_images([pil_images()[1], tmp_path / "red.png"], payload=[{"image": "a.png"}, {"image": "a.png"}])
    retriever.add_images([pil_images()[1]], payload=[{"image": "a.png"}])  # what has no path may be given one
    assert retriever.texts.payload == [{"text": "dog", "n": 1}] and retriever.images.payload == [{"image": "a.png"}]


def test_a_saved_index_answers_the_same(tmp_path, pair):
    model, processor = pair
    retriever = Retriever(model, processor, show_progress=False)
    retriever.add_images([*pil_images(), None], payload=[{"place": row} for row in range(7)], on_bad_sample="drop")
    retriever.add_texts(["a red\u2028dog", "猫", "cat\n"])
    retriever.save(tmp_path / "index")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model"), type(processor).from_pretrained(tmp_path / "model")
    loaded = Retriever.load(tmp_path / "index", *again, show_progress=False)
    assert loaded.search_images(WORDS, k=6) == retriever.search_images(WORDS, k=6)
    assert loaded.search_texts(pil_images(), k=3) == retriever.search_texts(pil_images(), k=3)
    for one in (retriever, loaded):
        one.add_images(pil_images()[:1])
    assert loaded.images.ids == retriever.images.ids == [*map(str, range(6)), "7"]
    loaded.save(tmp_path / "index")  # over the old one
    assert len(Retriever.load(tmp_path / "index", *again, show_progress=False).images) == 7


def test_an_index_of_another_model_is_refused(tmp_path):
    retriever = filled()
    retriever.save(tmp_path)
    model, processor = make_pair("clip")
    model.visual_projection.weight.data[0, 0] += 1e-4
    with pytest.raises(ValueError, match="was made by another model: its weights differ"):
        Retriever.load(tmp_path, model, processor)
    model, processor = make_pair("clip")
    processor.image_processor.image_std = [0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match="was made by another model: its processor differs"):
        Retriever.load(tmp_path, model, processor)
    with pytest.raises(ValueError, match="its weights and processor differ"):
        Retriever.load(tmp_path, *make_pair("siglip"))
    with pytest.raises(FileNotFoundError, match="there is no index in"):
        Retriever.load(tmp_path / "elsewhere", *make_pair("clip"))
    manifest = tmp_path / "retriever.json"
    whole = json.loads(manifest.read_text())
    for part in whole:
        manifest.write_text(json.dumps({name: value for name, value in whole.items() if name != part}))
        with pytest.raises(ValueError, match=f"retriever.json: the file is cut short or was changed .no '{part}'"):
            Retriever.load(tmp_path, *make_pair("clip"))


def test_another_configuration_is_another_model(tmp_path):
    def make(**fields):
        model = build(**fields)
        return model, MultimodalProcessor(ViTImageProcessor(size=SIZE), make_tokenizer())

    pair = make(text_pooling="mean")
    retriever = Retriever(*pair, show_progress=False)
    retriever.add_texts(WORDS)
    retriever.save(tmp_path / "index")
    other = make(text_pooling="cls")
    other[0].load_state_dict(pair[0].state_dict())
    with pytest.raises(ValueError, match="was made by another model: its configuration differs from"):
        Retriever.load(tmp_path / "index", *other)
    for part in pair:
        part.save_pretrained(tmp_path / "model")
    loaded = AutoModel.from_pretrained(tmp_path / "model"), AutoProcessor.from_pretrained(tmp_path / "model")
    for part in loaded:
        part.save_pretrained(tmp_path / "again")
    again = AutoModel.from_pretrained(tmp_path / "again"), AutoProcessor.from_pretrained(tmp_path / "again")
    assert fingerprint(*pair) == fingerprint(*loaded) == fingerprint(*again)
    assert len(Retriever.load(tmp_path / "index", *again, show_progress=False).texts) == 5


def test_using_a_processor_leaves_the_fingerprint(pair):
    before = fingerprint(*pair)
    pair[1](text=WORDS, images=pil_images()[: len(WORDS)], padding="max_length", truncation=True, return_tensors="pt")
    assert fingerprint(*pair) == before
    assert fingerprint(*make_pair("clip", seed=1))["weights"] != fingerprint(*make_pair("clip"))["weights"]


@pytest.mark.parametrize("name", ["images.safetensors", "images.jsonl", "texts.jsonl", "retriever.json"])
def test_a_file_cut_short_is_named(tmp_path, name):
    filled().save(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    file = tmp_path / "cut" / name
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=f"{name}: the file is cut short or was changed"):
        Retriever.load(tmp_path / "cut", *make_pair("clip"))
    file.unlink()
    with pytest.raises(FileNotFoundError, match=name):
        Retriever.load(tmp_path / "cut", *make_pair("clip"))


def test_a_new_index_over_an_old_one_never_mixes_with_it(tmp_path):
    filled().save(tmp_path / "a")
    retriever = filled()
    retriever.add_texts(["cat dog"])
    retriever.save(tmp_path / "b")
    shutil.copy(tmp_path / "a" / "texts.jsonl", tmp_path / "b" / "texts.jsonl")
    with pytest.raises(ValueError, match="texts.jsonl: the file is cut short or was changed"):
        Retriever.load(tmp_path / "b", *make_pair("clip"))
    assert json.loads((tmp_path / "a" / "retriever.json").read_text())["texts"]["count"] == 5


def test_an_unknown_index_and_an_absent_faiss_are_named(monkeypatch):
    with pytest.raises(ValueError, match=r"index must be one of \['exact', 'flat', 'hnsw', 'ivf'\], got 'hnws'"):
        make_retriever(index="hnws")
    monkeypatch.setattr("hf_multimodal.inference.index.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"index 'hnsw' needs faiss: pip install 'hf_multimodal\[retrieval\]'"):
        make_retriever(index="hnsw")


@pytest.mark.parametrize("cells", [16_000_000, 7])
def test_exact_search_in_chunks(cells, monkeypatch):
    monkeypatch.setattr("hf_multimodal.inference.index.CELLS", cells)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(40, 8, generator=generator), dim=-1)
    index = EmbeddingIndex("things")
    index.add([str(row) for row in range(40)], vectors, [{}] * 40)
    found = index.search(vectors, k=5)
    assert [hits.ids for hits in found] == [
        [str(row) for row in order[:5].tolist()] for order in (vectors @ vectors.T).argsort(descending=True)
    ]


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_faiss_finds_the_nearest(kind, tmp_path, capsys):
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(500, 16, generator=generator), dim=-1)
    exact, index = EmbeddingIndex("things"), EmbeddingIndex("things", kind)
    for one in (exact, index):
        one.add([str(row) for row in range(400)], vectors[:400], [{}] * 400)
        one.search(vectors[:1], k=1)
        one.add([str(row) for row in range(400, 500)], vectors[400:], [{}] * 100)
    assert [hits.ids[0] for hits in index.search(vectors, k=3)] == [str(row) for row in range(500)]
    ours, theirs = index.search(vectors, k=10), exact.search(vectors, k=10)
    recall = sum(len({*a.ids} & {*b.ids}) for a, b in zip(ours, theirs, strict=True)) / 5000
    assert recall == 1 if kind == "flat" else recall > 0.8
    assert ours[0].scores[0] == pytest.approx(1.0, abs=1e-5)
    retriever = filled(index=kind)
    retriever.save(tmp_path)
    loaded = Retriever.load(tmp_path, *make_pair("clip"), show_progress=False)
    assert loaded.images.kind == kind and loaded.search_images("dog", k=1) == retriever.search_images("dog", k=1)
    assert "it/s" not in capsys.readouterr().err  # no bar of theirs


def test_images_that_cannot_be_opened_by_name_are_searched_from_memory():
    hits = filled().search_similar_images([Image.new("L", (40, 40), 10)], k=2)
    assert len(hits) == 1 and len(hits[0].ids) == 2
