"""Word vectors that others have trained, as the start of a model's own word embeddings."""

from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

FASTTEXT_MAGIC = (793712314).to_bytes(4, "little")


def _is_number(part: str | bytes) -> bool:
    try:
        float(part)
    except ValueError:
        return False
    return True


def _read_glove(path: Path) -> tuple[list[str], np.ndarray]:
    # Not by gensim, which raises on words that hold a space, and GloVe's largest file (840B) has such words.
    words, rows = [], []
    width = 0
    with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for number, line in enumerate(lines, start=1):
            width = width or line.rstrip().count(" ")
            word, *values = line.rstrip().rsplit(" ", width)
            try:
                rows.append(np.array(values, dtype=np.float32).reshape(width))
            except ValueError as error:
                expected = f"expected a word and {width} numbers"
                raise ValueError(f"{path}, line {number}: {expected}, got {line[:80]!r}.") from error
            words.append(word)
    return words, np.stack(rows)


def load_word_vectors(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Read a file of word vectors; its format is told from its content, not from its name.

    Known are word2vec (text and binary), fastText (`.vec` and `.bin`), all read with gensim, and GloVe's text, which
    has no header. No format runs code from the file.

    Args:
        path: The file, unpacked.

    Returns:
        The words, as the file orders them, and their vectors (words, width) in float32.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If gensim is needed and not installed.
        ValueError: If the file is none of these formats, or is cut off.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "glove.txt")
    >>> _ = path.write_text("cat 1 2\\ndog 3 4\\n")
    >>> words, matrix = load_word_vectors(path)
    >>> words, matrix.tolist()
    (['cat', 'dog'], [[1.0, 2.0], [3.0, 4.0]])
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of word vectors at {path}.")
    with path.open("rb") as file:
        is_fasttext_model = file.read(4) == FASTTEXT_MAGIC
        file.seek(0)
        header, first = file.readline(1 << 16).split(), file.readline(1 << 16)
    has_header = len(header) == 2 and all(part.isdigit() for part in header)
    if not is_fasttext_model and not has_header:
        if len(header) < 2 or not _is_number(header[-1]):
            raise ValueError(f"{path} holds no word vectors: neither word2vec, nor fastText, nor GloVe.")
        return _read_glove(path)
    try:
        from gensim.models import KeyedVectors
        from gensim.models.fasttext import load_facebook_vectors
    except ImportError as error:
        raise ImportError(f"reading {path} needs gensim: pip install 'hf_multimodal[vectors]'") from error
    try:
        if is_fasttext_model:
            vectors = load_facebook_vectors(str(path))
        else:
            parts = first.split()
            is_text = len(parts) > int(header[1]) and all(map(_is_number, parts[-int(header[1]) :]))
            vectors = KeyedVectors.load_word2vec_format(str(path), binary=not is_text, unicode_errors="replace")
    except (EOFError, ValueError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"{path} cannot be read as word vectors: {error}") from error
    return list(vectors.index_to_key), np.asarray(vectors.vectors, dtype=np.float32)


def initialise_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str | Path) -> float:
    """Copy word vectors into the input embeddings of every token that the file knows; the rest keep what they have.

    A token is looked up as it stands, then in lower case. Special tokens, padding among them, are left alone.

    Args:
        model: Any text model with input embeddings, such as [`RecurrentTextModel`].
        tokenizer: The model's tokenizer.
        path: As in [`load_word_vectors`].

    Returns:
        The coverage: tokens found / tokens of the vocabulary, special tokens not counted.

    Raises:
        ValueError: If the vectors are not as wide as the embeddings, or the tokenizer has more tokens than the model
            has embeddings.
    """
    words, matrix = load_word_vectors(path)
    weight = cast(torch.Tensor, model.get_input_embeddings().weight)
    if matrix.shape[1] != weight.shape[1]:
        raise ValueError(
            f"the vectors in {path} have width {matrix.shape[1]}, the model's input embeddings {weight.shape[1]}: "
            f"build the model with embeddings of width {matrix.shape[1]}, or take vectors of width {weight.shape[1]}."
        )
    special = set(tokenizer.all_special_ids)
    vocabulary = {index: token for token, index in tokenizer.get_vocab().items() if index not in special}
    if vocabulary and max(vocabulary) >= weight.shape[0]:
        raise ValueError(f"the tokenizer has ids up to {max(vocabulary)}, the model {weight.shape[0]} embeddings.")
    rows: dict[str, int] = {}
    for row, word in enumerate(words):
        rows.setdefault(word, row)
    found: dict[int, int] = {}
    for index, token in vocabulary.items():
        word = tokenizer.convert_tokens_to_string([token]).strip()  # without a byte-level tokenizer's marks
        match = word if word in rows else word.lower()
        if match in rows:
            found[index] = rows[match]
    with torch.no_grad():
        values = torch.from_numpy(matrix[list(found.values())])
        weight[list(found)] = values.to(weight)
    return len(found) / max(len(vocabulary), 1)
