"""The fusions: modules that turn the features of two modalities into one vector an example.

Each is built from a `FusionConfig`. A new one needs its class here and an entry in `FUSIONS` at the foot.
"""

from typing import ClassVar

import torch
from torch import nn
from transformers import PreTrainedConfig

from .modeling_vision_text import Features


def present_softmax(scores: torch.Tensor, modality_mask: torch.Tensor) -> torch.Tensor:
    """Softmax over the modalities that are there; a row with none gets zeros.

    Args:
        scores: (batch, 2) or (2,).
        modality_mask: (batch, 2), 1 = present.
    """
    present = modality_mask.bool()
    weights = scores.expand_as(present).masked_fill(~present, torch.finfo(scores.dtype).min).softmax(dim=-1)
    return weights.masked_fill(~present, 0.0)


class Fusion(nn.Module):
    """A module that turns [`Features`] into (batch, `output_size`); `reads_tokens` asks for token features."""

    reads_tokens: ClassVar[bool] = False
    output_size: int


class ConcatFusion(Fusion):
    """Both features side by side, then one hidden layer, so that interactions (class = XOR) can be learned.

    Args:
        config: Its `hidden_size` is the width of each modality embedding and of the output.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.output_size = config.hidden_size
        self.mlp = nn.Sequential(
            nn.Linear(2 * config.hidden_size, config.hidden_size), nn.GELU(), nn.Dropout(config.dropout)
        )

    def forward(self, features: Features) -> torch.Tensor:
        """(batch, output_size)"""
        return self.mlp(features.embeds.flatten(1))


class WeightedSumFusion(Fusion):
    """One learned weight a modality, the same for all examples, normalised over those that are there.

    Args:
        config: Its `hidden_size` is the width of each modality embedding and of the output.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.output_size = config.hidden_size
        self.scores = nn.Embedding(1, 2)  # a module, since LoRA drops bare parameters

    def forward(self, features: Features) -> torch.Tensor:
        """(batch, output_size)"""
        only = torch.zeros((), dtype=torch.long, device=features.embeds.device)
        weights = present_softmax(self.scores(only), features.modality_mask)
        return (weights[..., None] * features.embeds).sum(dim=1)


class GatedFusion(Fusion):
    """Average the modalities with weights computed from the example itself.

    A missing modality has weight 0 and the rest sum to 1, so whatever its slot holds cannot reach the output. Softmax
    form of the gated multimodal unit of [Arevalo et al., 2017](https://arxiv.org/abs/1702.01992).

    Args:
        config: Its `hidden_size` is the width of each modality embedding and of the output.

    Example:

    >>> from hf_multimodal import FusionConfig
    >>> fusion = GatedFusion(FusionConfig(hidden_size=8))
    >>> features = Features(embeds=torch.randn(1, 2, 8), modality_mask=torch.tensor([[1, 0]]))
    >>> torch.equal(fusion(features), features.embeds[:, 0])
    True
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.output_size = config.hidden_size
        self.gate = nn.Linear(2 * config.hidden_size, 2)

    def forward(self, features: Features) -> torch.Tensor:
        """(batch, output_size)"""
        weights = present_softmax(self.gate(features.embeds.flatten(1)), features.modality_mask)
        return (weights[..., None] * features.embeds).sum(dim=1)


class AttentionFusion(Fusion):
    """Additive attention between the two features: each is scored in the light of the other.

    The scores are those of [Bahdanau et al., 2014](https://arxiv.org/abs/1409.0473), with the other modality as the
    query; a missing modality is given no weight.

    Args:
        config: Its `hidden_size` is the width of each modality embedding and of the output.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.output_size = config.hidden_size
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.score = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, features: Features) -> torch.Tensor:
        """(batch, output_size)"""
        hidden = torch.tanh(self.key(features.embeds) + self.query(features.embeds.flip(1)))
        weights = present_softmax(self.score(hidden).squeeze(-1), features.modality_mask)
        return (weights[..., None] * features.embeds).sum(dim=1)


class BilinearFusion(Fusion):
    """Product of the two projected features: a bilinear form of low rank.

    The biases keep the terms of each modality alone, so that a missing one leaves the other's linear part.
    Low-rank bilinear pooling of [Kim et al., 2017](https://arxiv.org/abs/1610.04325).

    Args:
        config: Its `hidden_size` is the width of each modality embedding, the rank, and the width of the output.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.output_size = config.hidden_size
        self.image_factor = nn.Linear(config.hidden_size, config.hidden_size)
        self.text_factor = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: Features) -> torch.Tensor:
        """(batch, output_size)"""
        image, text = features.embeds.unbind(dim=1)
        return self.dropout(self.norm((1 + self.image_factor(image)) * (1 + self.text_factor(text))))


class LateFusion(Fusion):
    """One MLP a modality, side by side: the linear classifier that follows sums two unimodal logits.

    What only the two together tell (class = XOR) is out of its reach. A model of a single modality has one MLP here.

    Args:
        config: Its `hidden_size` is the width of each modality embedding; `modalities` are those that get an MLP.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.columns = config.modalities
        self.output_size = len(self.columns) * config.hidden_size
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(config.hidden_size, config.hidden_size), nn.GELU(), nn.Dropout(config.dropout))
            for _ in self.columns
        )

    def forward(self, features: Features) -> torch.Tensor:
        """(batch, output_size)"""
        outputs = [
            mlp(features.embeds[:, column]).masked_fill(~features.modality_mask[:, column, None].bool(), 0.0)
            for column, mlp in zip(self.columns, self.mlps, strict=True)
        ]
        return torch.cat(outputs, dim=-1)


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


def token_sequences(features: Features) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each modality as a sequence that begins with its pooled feature: (batch, 1 + length, hidden) and its mask."""
    sequences = []
    for column, tokens, mask in (
        (0, features.image_tokens, features.image_token_mask),
        (1, features.text_tokens, features.text_token_mask),
    ):
        assert tokens is not None and mask is not None  # `reads_tokens` asked for them
        sequence = torch.cat([features.embeds[:, column, None], tokens], dim=1)
        sequences.append((sequence, torch.cat([features.modality_mask[:, column, None].bool(), mask], dim=1)))
    return sequences


class CrossAttentionFusion(Fusion):
    """Image tokens attend to text tokens and text tokens to image tokens, layer by layer.

    Each sequence begins with its pooled feature, and the two are read there at the end. Padding and absent tokens are
    masked as keys. Co-attention of [Lu et al., 2019](https://arxiv.org/abs/1908.02265).

    Args:
        config: Its `fusion_layers` and `fusion_heads` shape the two stacks; the output is 2 * `hidden_size` wide.
    """

    reads_tokens = True

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.output_size = 2 * config.hidden_size
        self.image_layers, self.text_layers = (
            nn.ModuleList(
                FusionLayer(config.hidden_size, config.fusion_heads, config.dropout)
                for _ in range(config.fusion_layers)
            )
            for _ in range(2)
        )

    def forward(self, features: Features) -> torch.Tensor:
        """(batch, output_size)"""
        (image, image_mask), (text, text_mask) = token_sequences(features)
        last = len(self.image_layers) - 1
        for depth, (image_layer, text_layer) in enumerate(zip(self.image_layers, self.text_layers, strict=True)):
            queries = (image[:, :1], text[:, :1]) if depth == last else (image, text)
            image, text = image_layer(queries[0], text, text_mask), text_layer(queries[1], image, image_mask)
        summaries = torch.stack([image[:, 0], text[:, 0]], dim=1)  # (batch, 2, hidden)
        return summaries.masked_fill(~features.modality_mask[..., None].bool(), 0.0).flatten(1)


class EarlyFusion(Fusion):
    """One transformer over the tokens of both modalities, as in [Kim et al., 2021](https://arxiv.org/abs/2102.03334).

    Each modality's sequence begins with its pooled feature and carries a learned type embedding; the two pooled
    positions are read at the end. Padding and absent tokens are masked.

    Args:
        config: Its `fusion_layers` and `fusion_heads` shape the stack; the output is 2 * `hidden_size` wide.
    """

    reads_tokens = True

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.output_size = 2 * config.hidden_size
        self.modality_type = nn.Embedding(2, config.hidden_size)
        self.layers = nn.ModuleList(
            FusionLayer(config.hidden_size, config.fusion_heads, config.dropout) for _ in range(config.fusion_layers)
        )

    def forward(self, features: Features) -> torch.Tensor:
        """(batch, output_size)"""
        (image, image_mask), (text, text_mask) = token_sequences(features)
        image_type, text_type = self.modality_type(torch.arange(2, device=image.device))
        states = torch.cat([image + image_type, text + text_type], dim=1)
        mask = torch.cat([image_mask, text_mask], dim=1)
        read = torch.tensor([0, image.shape[1]], device=states.device)  # where the two pooled features stand
        for layer in self.layers[:-1]:
            states = layer(states, states, mask)
        summaries = self.layers[-1](states[:, read], states, mask)  # (batch, 2, hidden)
        return summaries.masked_fill(~features.modality_mask[..., None].bool(), 0.0).flatten(1)


FUSIONS: dict[str, type[Fusion]] = {
    "concat": ConcatFusion,
    "weighted_sum": WeightedSumFusion,
    "gated": GatedFusion,
    "attention": AttentionFusion,
    "cross_attention": CrossAttentionFusion,
    "bilinear": BilinearFusion,
    "early": EarlyFusion,
    "late": LateFusion,
}
