"""Models without pretrained weights: small default configurations, and a tokenizer trained on the texts at hand."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    BertConfig,
    BertTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ViTImageProcessor,
)
from transformers.image_processing_utils import BaseImageProcessor

from hf_multimodal.models import RecurrentTextConfig, TorchvisionConfig
from hf_multimodal.models.configuration_vision_text import TORCHVISION_PREFIX
from hf_multimodal.models.processing_multimodal import image_processor_of
from hf_multimodal.training.word_vectors import load_word_vectors

IMAGE_SIZE = 64
VOCABULARY_SIZE = 8000
MAX_LENGTH = 128
WORD_START = "\u2581"
RECURRENT_CELLS = ("lstm", "gru")
END = "<|endoftext|>"


def train_tokenizer(texts: Iterable[str | None], vocabulary_size: int = VOCABULARY_SIZE) -> PreTrainedTokenizerBase:
    """Train a lower-casing WordPiece tokenizer; the same texts give the same tokenizer.

    The pieces are found by byte-pair merges over words that begin with a mark, and become WordPiece's by turning the
    mark into the lack of `##`. The WordPiece trainer of `tokenizers` itself numbers and breaks ties by chance, so
    that two processes, or a run and its repetition, would read the same text as different ids.

    Args:
        texts: The training texts; None stands for a missing one.
        vocabulary_size: Number of pieces that are looked for; fewer texts give fewer.

    Returns:
        A BERT tokenizer that cuts at `MAX_LENGTH` tokens. Every single letter of the texts is a piece.

    Raises:
        ValueError: If there is no text at all.

    Example:

    >>> tokenizer = train_tokenizer(["a red square", "a blue square", None])
    >>> tokenizer.tokenize("Square bar")
    ['square', 'b', '##a', '##r']
    """
    given = _given(texts)
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.BertNormalizer(lowercase=True)
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace(WORD_START, prepend_scheme="always")]
    )
    trained.train_from_iterator(given, trainers.BpeTrainer(vocab_size=vocabulary_size, show_progress=False))
    pieces: set[str] = set()
    for piece in trained.get_vocab():
        if len(piece) == 1:
            pieces |= {piece, f"##{piece}"}
        else:
            pieces.add(piece[1:] if piece.startswith(WORD_START) else f"##{piece}")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {piece: number for number, piece in enumerate([*special, *sorted(pieces - set(special))])}
    return BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=MAX_LENGTH)


def _given(texts: Iterable[str | None]) -> list[str]:
    """The texts that are there, of which a tokenizer needs some."""
    given = [text for text in texts if text]
    if not given:
        raise ValueError("a tokenizer cannot be trained: there is no text.")
    return given


def small_vision_config() -> PreTrainedConfig:
    """A residual network of two blocks, which learns from few examples what a transformer of its size does not."""
    return ResNetConfig(
        embedding_size=16,
        hidden_sizes=[32, 64],
        depths=[1, 1],
        layer_type="basic",
        hidden_act="relu",
    )


def small_text_config() -> PreTrainedConfig:
    """A two-layer BERT of width 64."""
    return BertConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=MAX_LENGTH,
    )


def vision_part(name: str | None) -> tuple[PreTrainedConfig, BaseImageProcessor]:
    """Configuration and image processor of a vision model that starts from random weights.

    Args:
        name: Hub name or folder whose configuration is taken, `torchvision:<architecture>`, or None for the small one.

    Returns:
        The configuration, and what prepares its images: 64x64 with a plain mean and deviation for the small one.
    """
    if name is None:
        plain = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        return small_vision_config(), ViTImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, **plain)
    if name.startswith(TORCHVISION_PREFIX):
        return TorchvisionConfig(architecture=name.removeprefix(TORCHVISION_PREFIX)), image_processor_of(name)
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    config._name_or_path = ""  # none of its weights are taken
    return getattr(config, "vision_config", config), image_processor_of(name)


def text_part(
    name: str | None, texts: Iterable[str | None], word_vectors: str | None = None
) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase]:
    """Configuration and freshly trained tokenizer of a text model that starts from random weights.

    Args:
        name: Hub name or folder whose configuration is taken, `lstm`, `gru`, or None for the small BERT.
        texts: The training texts.
        word_vectors: File of word vectors, to which the width of an `lstm`'s or `gru`'s embeddings is fitted.

    Returns:
        The configuration, fitted to the tokenizer's vocabulary and special tokens, and the tokenizer.
    """
    tokenizer = train_tokenizer(texts)
    if name is None:
        config = small_text_config()
    elif name in RECURRENT_CELLS:
        config = RecurrentTextConfig(cell=name)
        if word_vectors is not None:
            config.embedding_size = load_word_vectors(word_vectors)[1].shape[1]
    else:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        config._name_or_path = ""
        config = getattr(config, "text_config", config)
        positions = getattr(config, "max_position_embeddings", MAX_LENGTH)
        # Some models begin to count positions behind the number of the padding.
        tokenizer.model_max_length = min(MAX_LENGTH, positions - tokenizer.pad_token_id - 1)
    config.vocab_size = len(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    config.bos_token_id, config.eos_token_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    return config, tokenizer


def train_decoder_tokenizer(
    texts: Iterable[str | None], vocabulary_size: int = VOCABULARY_SIZE
) -> PreTrainedTokenizerBase:
    """Train a byte-level BPE tokenizer, which gives any text back as it was; the same texts give the same tokenizer.

    Args:
        texts: The training texts; None stands for a missing one.
        vocabulary_size: Number of tokens that are looked for; fewer texts give fewer.

    Raises:
        ValueError: If there is no text at all.

    Example:

    >>> tokenizer = train_decoder_tokenizer(["a red square", "a blue square"])
    >>> tokenizer.decode(tokenizer("A  red Square\\n").input_ids)
    'A  red Square\\n'
    """
    given = _given(texts)
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, initial_alphabet=alphabet, special_tokens=[END], show_progress=False
    )
    trained.train_from_iterator(given, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=trained, eos_token=END, pad_token=END)
