"""Files of word vectors in every format, and the embeddings that start from them."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_multimodal.models.modeling_recurrent_text import RecurrentTextConfig, RecurrentTextModel
from hf_multimodal.training.word_vectors import initialise_embeddings, load_word_vectors

WORDS = ["cat", "鼠", "Dog", "1984"]
MATRIX = np.array([[0.5, -1.25, 3.0], [1e-3, 2.0, 7.5], [4.0, 5.0, 6.0], [-1.0, 0.0, 1.0]], dtype=np.float32)


def write_text(path: Path, header: bool) -> Path:
    rows = [f"{word} {' '.join(map(str, row))}" for word, row in zip(WORDS, MATRIX.tolist(), strict=True)]
    lines = ["4 3", *rows] if header else rows
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_binary(path: Path) -> Path:
    rows = [word.encode() + b" " + row.tobytes() + b"\n" for word, row in zip(WORDS, MATRIX, strict=True)]
    path.write_bytes(b"4 3\n" + b"".join(rows))
    return path


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = ["[PAD]", "[UNK]", "cat", "dog", "Dog", "CAT", "##cat", "鼠", "bird"]
    model = models.WordPiece({word: index for index, word in enumerate(vocabulary)}, unk_token="[UNK]")
    inner = Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]")


def build(embedding_size: int = 3, vocab_size: int = 9) -> RecurrentTextModel:
    return RecurrentTextModel(RecurrentTextConfig(vocab_size=vocab_size, embedding_size=embedding_size, hidden_size=4))


def test_glove_text(tmp_path):
    words, matrix = load_word_vectors(write_text(tmp_path / "glove.txt", header=False))
    assert words == WORDS
    assert matrix.dtype == np.float32 and np.array_equal(matrix, MATRIX)


def test_glove_words_may_hold_spaces(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("cat 1 2\n. . . 3 4\nat name@domain.com 5 6\n", encoding="utf-8")
    words, matrix = load_word_vectors(path)
    assert words == ["cat", ". . .", "at name@domain.com"]
    assert matrix.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_glove_broken_line_is_named(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("cat 1 2\ndog 3\n", encoding="utf-8")
    with pytest.raises(ValueError, match="glove.txt, line 2: expected a word and 2 numbers, got 'dog 3"):
        load_word_vectors(path)


@pytest.mark.parametrize("name", ["vectors.txt", "wiki.vec"])
def test_word2vec_text_and_fasttext_vec(name, tmp_path):
    pytest.importorskip("gensim")
    words, matrix = load_word_vectors(write_text(tmp_path / name, header=True))
    assert words == WORDS
    assert np.array_equal(matrix, MATRIX)


def test_word2vec_binary(tmp_path):
    pytest.importorskip("gensim")
    words, matrix = load_word_vectors(write_binary(tmp_path / "vectors.bin"))
    assert words == WORDS
    assert np.array_equal(matrix, MATRIX)


def test_word2vec_written_by_gensim(tmp_path):
    keyed = pytest.importorskip("gensim.models").KeyedVectors(3)
    keyed.add_vectors(WORDS, MATRIX)
    for binary in (True, False):
        path = tmp_path / f"vectors-{binary}"
        keyed.save_word2vec_format(str(path), binary=binary)
        words, matrix = load_word_vectors(path)
        assert words == WORDS
        np.testing.assert_allclose(matrix, MATRIX, atol=1e-6)


def test_fasttext_model(tmp_path):
    fasttext = pytest.importorskip("gensim.models.fasttext")
    model = fasttext.FastText([["cat", "dog", "cat"]] * 5, vector_size=3, min_count=1, epochs=1, bucket=20, workers=1)
    path = tmp_path / "cc.bin"
    fasttext.save_facebook_model(model, str(path))
    words, matrix = load_word_vectors(path)
    assert words == ["cat", "dog"]
    np.testing.assert_allclose(matrix, np.stack([model.wv["cat"], model.wv["dog"]]), atol=1e-6)


def test_without_gensim_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(ImportError, match=r"pip install 'hf_multimodal\[vectors\]'"):
        load_word_vectors(write_text(tmp_path / "vectors.txt", header=True))
    assert load_word_vectors(write_text(tmp_path / "glove.txt", header=False))[0] == WORDS


def test_files_that_hold_no_vectors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file of word vectors at .*absent.txt"):
        load_word_vectors(tmp_path / "absent.txt")
    for content in ("", "A sentence about cats.\n", '{"cat": 1}\n'):
        (tmp_path / "prose.txt").write_text(content)
        with pytest.raises(ValueError, match="prose.txt holds no word vectors"):
            load_word_vectors(tmp_path / "prose.txt")


def test_a_file_that_is_cut_off(tmp_path):
    pytest.importorskip("gensim")
    path = write_binary(tmp_path / "vectors.bin")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="vectors.bin cannot be read as word vectors"):
        load_word_vectors(path)


def test_embeddings_get_the_vectors_of_known_words(tmp_path, tokenizer):
    model = build()
    before = model.embeddings.weight.detach().clone()
    coverage = initialise_embeddings(model, tokenizer, write_text(tmp_path / "glove.txt", header=False))
    after = model.embeddings.weight
    ids = tokenizer.get_vocab()
    # "CAT" by way of lower case; "dog" stays, since the file has "Dog" alone; a piece of a word is no word
    for token, row in {"cat": 0, "CAT": 0, "Dog": 2, "鼠": 1}.items():
        assert torch.equal(after[ids[token]], torch.from_numpy(MATRIX[row])), token
    for token in ("[PAD]", "[UNK]", "dog", "##cat", "bird"):
        assert torch.equal(after[ids[token]], before[ids[token]]), token
    assert coverage == 4 / 7
    assert after.requires_grad


def test_nothing_known_is_a_coverage_of_zero(tmp_path, tokenizer):
    path = tmp_path / "glove.txt"
    path.write_text("xyzzy 1 2 3\n")
    model = build()
    before = model.embeddings.weight.detach().clone()
    assert initialise_embeddings(model, tokenizer, path) == 0.0
    assert torch.equal(model.embeddings.weight, before)


def test_width_and_vocabulary_must_fit(tmp_path, tokenizer):
    path = write_text(tmp_path / "glove.txt", header=False)
    with pytest.raises(ValueError, match="glove.txt have width 3, the model's input embeddings 5: build the model"):
        initialise_embeddings(build(embedding_size=5), tokenizer, path)
    with pytest.raises(ValueError, match="the tokenizer has ids up to 8, the model 6 embeddings"):
        initialise_embeddings(build(vocab_size=6), tokenizer, path)
