"""Configuration of the LSTM or GRU text model."""

from typing import Any

from transformers import PreTrainedConfig

CELLS = ("lstm", "gru")


class RecurrentTextConfig(PreTrainedConfig):
    """Configuration of [`RecurrentTextModel`].

    `hidden_size` is the width that leaves the model, both directions together, as in every other text model;
    `cell_size` is what one direction of it has.

    Args:
        vocab_size: Number of rows of the word embeddings.
        embedding_size: Width of the word embeddings; that of the word vectors, where the model starts from some.
        hidden_size: Output width; even when `bidirectional`.
        num_hidden_layers: Layers stacked on each other.
        cell: `lstm` or `gru`.
        bidirectional: Whether a second direction reads each text from its end.
        dropout: Probability, on the word embeddings and between the layers.
        pad_token_id: Its embedding is zero and stays so; without an `attention_mask`, it marks the padding.
        initializer_range: Standard deviation of the word embeddings. Wider than a transformer's 0.02, since no
            normalisation follows.

    Raises:
        ValueError: On an unknown cell, a size below 1, an odd `hidden_size` for two directions, a `dropout` outside
            [0, 1) or a `pad_token_id` outside the vocabulary.

    Example:

    >>> config = RecurrentTextConfig(hidden_size=128)
    >>> config.cell_size
    64
    """

    model_type = "recurrent_text"

    vocab_size: int = 30522
    embedding_size: int = 300
    hidden_size: int = 256
    num_hidden_layers: int = 1
    cell: str = "lstm"
    bidirectional: bool = True
    dropout: float | int = 0.1
    pad_token_id: int | None = 0
    initializer_range: float | int = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        if self.cell not in CELLS:
            raise ValueError(f"cell must be one of {list(CELLS)}, got {self.cell!r}.")
        for name in ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.hidden_size % self.num_directions:
            raise ValueError(f"hidden_size holds two directions and must be even, got {self.hidden_size}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}.")
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id must lie in [0, {self.vocab_size}), got {self.pad_token_id}.")
        super().__post_init__(**kwargs)

    @property
    def num_directions(self) -> int:
        """2 when `bidirectional`, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def cell_size(self) -> int:
        """Width of one direction."""
        return self.hidden_size // self.num_directions
