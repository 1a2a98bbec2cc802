"""An LSTM or GRU as a text model of transformers, and its configuration."""

from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}


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
    _auto_class = "AutoConfig"

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


def gather_positions(states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Reorder (batch, length, width) along its length by positions (batch, length)."""
    return states.gather(1, positions.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


class RecurrentTextModel(PreTrainedModel):
    """A stack of LSTM or GRU layers over word embeddings that never reads padding.

    The real tokens are brought to the front, read alone, and their states put back in their places, so padding on
    either side, or between, changes nothing. An example without any real token gets zeros. Eager mode packs the
    sequences; under `torch.export` and `torch.compile`, which cannot follow packing, the same weights are applied
    layer by layer and direction by direction, with equal results. An exported program keeps the length of its example
    (torch unrolls the steps) and any batch; `fullgraph` compilation of these layers is not possible in torch.

    Args:
        config: Cell, widths and depth.

    Example:

    >>> model = RecurrentTextModel(RecurrentTextConfig(vocab_size=10, hidden_size=6)).eval()
    >>> short, padded = torch.tensor([[4, 7]]), torch.tensor([[0, 4, 7, 0]])
    >>> torch.allclose(model(short).pooler_output, model(padded).pooler_output)
    True
    """

    config_class = RecurrentTextConfig
    base_model_prefix = "recurrent_text"
    _auto_class = "AutoModel"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = False
    _no_split_modules: list[str] = []

    def __init__(self, config: RecurrentTextConfig) -> None:
        super().__init__(config)
        self.embeddings: nn.Module = nn.Embedding(
            config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id
        )
        self.dropout = nn.Dropout(config.dropout)
        self.rnn = CELLS[config.cell](
            config.embedding_size,
            config.cell_size,
            num_layers=config.num_hidden_layers,
            bidirectional=config.bidirectional,
            dropout=config.dropout if config.num_hidden_layers > 1 else 0.0,
            batch_first=True,
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings."""
        self.embeddings = value

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Orthogonal recurrent weights, gate by gate; an LSTM starts out remembering (forget bias 1)."""
        if not isinstance(module, nn.RNNBase):
            super()._init_weights(module)
            return
        size = module.hidden_size
        for name, parameter in module.named_parameters():
            if getattr(parameter, "_is_hf_initialized", False):
                continue
            value = torch.zeros(parameter.shape)
            if name.startswith("weight"):
                draw = nn.init.orthogonal_ if "_hh_" in name else nn.init.xavier_uniform_
                for gate in value.split(size):
                    draw(gate)
            elif name.startswith("bias_ih") and isinstance(module, nn.LSTM):
                value[size : 2 * size] = 1.0  # gates stand in the order input, forget, cell, output
            init.copy_(parameter, value)

    @can_return_tuple
    def forward(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Compute the features of a batch of texts.

        Args:
            input_ids: (batch, length).
            attention_mask: (batch, length), 1 = real. By default every token but `pad_token_id` is real.
            kwargs: `return_dict=False` asks for a tuple; the rest is what other text models know and this one does
                not.

        Returns:
            `last_hidden_state` (batch, length, hidden_size), zero on padding; and `pooler_output`
            (batch, hidden_size): the last layer's state after the last real token, and beside it that of the other
            direction after the first.
        """
        if attention_mask is None:
            padding = self.config.pad_token_id
            attention_mask = torch.ones_like(input_ids) if padding is None else input_ids.ne(padding)
        mask = attention_mask.bool()
        lengths = mask.sum(1)
        real_first = mask.int().argsort(dim=1, descending=True, stable=True)
        embeds = gather_positions(self.dropout(self.embeddings(input_ids)), real_first)
        tracing = torch.compiler.is_exporting() or torch.compiler.is_compiling()
        run = self._run_unpacked if tracing else self._run_packed
        # A text without any token is read as one of one token, since packing raises on it, and blanked afterwards.
        states, pooled = run(embeds, lengths.clamp(min=1))
        places = (mask.cumsum(1) - 1).clamp(min=0)  # of each real token among the real ones
        states = gather_positions(states, places).masked_fill(~mask.unsqueeze(-1), 0.0)
        pooled = pooled.masked_fill(lengths.eq(0).unsqueeze(-1), 0.0)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)

    def _run_packed(self, embeds: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.rnn.flatten_parameters()
        packed = pack_padded_sequence(embeds, lengths.cpu(), batch_first=True, enforce_sorted=False)
        packed_states, last = self.rnn(packed)
        states, _ = pad_packed_sequence(packed_states, batch_first=True, total_length=embeds.shape[1])
        hidden = last[0] if self.config.cell == "lstm" else last  # (layers * directions, batch, cell_size)
        return states, torch.cat(tuple(hidden[-self.config.num_directions :]), dim=-1)

    def _run_unpacked(self, embeds: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        positions = torch.arange(embeds.shape[1], device=embeds.device)[None]
        ends = lengths[:, None]
        # Turns the real tokens round and leaves the padding behind them; its own inverse.
        reversal = torch.where(positions < ends, ends - 1 - positions, positions)
        final = (lengths - 1)[:, None]
        states, last = embeds, []
        for layer in range(self.config.num_hidden_layers):
            if layer > 0:
                states = self.dropout(states)
            forward = self._run_direction(states, f"l{layer}")
            directions, last = [forward], [gather_positions(forward, final)]
            if self.config.bidirectional:
                backward = self._run_direction(gather_positions(states, reversal), f"l{layer}_reverse")
                directions.append(gather_positions(backward, reversal))
                last.append(gather_positions(backward, final))
            states = torch.cat(directions, dim=-1)
        return states, torch.cat(last, dim=-1).squeeze(1)

    def _run_direction(self, states: torch.Tensor, suffix: str) -> torch.Tensor:
        """Apply one layer in one direction, as `nn.LSTM` and `nn.GRU` do inside."""
        weights = [getattr(self.rnn, f"{name}_{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        start = states.new_zeros(1, states.shape[0], self.config.cell_size)
        # has_biases, num_layers, dropout, train, bidirectional, batch_first
        options = (True, 1, 0.0, self.training, False, True)
        if self.config.cell == "lstm":
            return torch.lstm(states, (start, start), weights, *options)[0]
        return torch.gru(states, start, weights, *options)[0]


# Here and not where the package registers the others: this file may have travelled with a checkpoint, without it.
AutoModel.register(RecurrentTextConfig, RecurrentTextModel, exist_ok=True)
