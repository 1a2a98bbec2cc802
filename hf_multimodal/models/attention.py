"""The transformer layer of the token fusions."""

import torch
from torch import nn


class FusionLayer(nn.Module):
    """Pre-norm transformer layer whose queries may attend to another sequence than their own.

    A query row whose memory is wholly masked (an absent modality) gets exactly nothing from the attention: no NaN,
    no mean over blanks. Follows [Vaswani et al., 2017](https://arxiv.org/abs/1706.03762), normalisation first.

    Args:
        hidden_size: Width of both sequences.
        heads: Attention heads; divides `hidden_size`.
        dropout: Probability, after the attention and inside the feed-forward part.

    Example:

    >>> layer = FusionLayer(8, heads=2, dropout=0.0)
    >>> states, memory = torch.randn(1, 3, 8), torch.full((1, 2, 8), float("nan"))
    >>> layer(states, memory.nan_to_num(), torch.zeros(1, 2, dtype=torch.bool)).isfinite().all().item()
    True
    """

    def __init__(self, hidden_size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_norm = nn.LayerNorm(hidden_size)
        self.memory_norm = nn.LayerNorm(hidden_size)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, 4 * hidden_size),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * hidden_size, hidden_size),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: torch.Tensor, memory: torch.Tensor, memory_mask: torch.Tensor) -> torch.Tensor:
        """Update `states` (batch, length, hidden) from `memory` (batch, keys, hidden) under a mask (batch, keys)."""

        def split_heads(features: torch.Tensor) -> torch.Tensor:
            return features.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (batch, heads, length, head width)

        anything = memory_mask.any(dim=1)[:, None, None]  # (batch, 1, 1)
        mask = (memory_mask[:, None, :] | ~anything)[:, None]  # (batch, 1, 1, keys)
        keys, values = self.key_value(self.memory_norm(memory)).chunk(2, dim=-1)
        attended = nn.functional.scaled_dot_product_attention(
            split_heads(self.query(self.query_norm(states))), split_heads(keys), split_heads(values), attn_mask=mask
        )
        update = self.output(attended.transpose(1, 2).flatten(2))
        states = states + self.dropout(update).masked_fill(~anything, 0.0)
        return states + self.dropout(self.feed_forward(states))
