"""An image as a grid of discrete tokens, and back: a convolutional autoencoder with a quantizer between its halves.

In order: the quantizers and their table, the two halves, the model.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import distributed, nn
from torch.nn import functional
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput
from transformers.utils import can_return_tuple

from .checked_model import CheckedModel
from .configuration_image_tokenizer import ImageTokenizerConfig

CHUNK = 1024  # feature vectors that are compared with all codes at once
KMEANS_STEPS = 10
NORM_GROUPS = 8  # where the channels can be divided by it
SPREAD = 1.4  # deviation of the channels that `fsq` rounds: all levels are then in use
FADED = 0.1  # a code that is drawn less often than this share of its fair one is put back on data


class Quantized(NamedTuple):
    """Codes in the place of features.

    Args:
        vectors: (vectors, width), exactly what `lookup(ids)` gives; their gradient goes to the features as it is.
        ids: (vectors,) int64.
        loss: What the quantizer adds to the reconstruction's loss; 0 where it adds nothing.
    """

    vectors: torch.Tensor
    ids: torch.Tensor
    loss: torch.Tensor


def straight_through(features: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """The codes, bit for bit, with the gradient of the features.

    Estimator of [Bengio et al., 2013](https://arxiv.org/abs/1308.3432). `features + (codes - features)`, as it is
    often written, rounds and gives other vectors than the codes.
    """
    return codes.detach() + (features - features.detach())


def nearest_codes(vectors: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """The code with the smallest Euclidean distance to each vector.

    A matrix product in chunks: no (vectors, codes, width) differences and no one-hot matrix are ever held.

    Args:
        vectors: (vectors, width).
        codebook: (codes, width).

    Returns:
        (vectors,) int64.

    Example:

    >>> nearest_codes(torch.tensor([[0.9, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    tensor([1, 0])
    """
    # |vector - code|² = |vector|² - 2 (vector · code - |code|² / 2), and the first term is the same for all codes.
    bias = codebook.square().sum(dim=1) / -2
    # An exported program takes any number of vectors, so that it cannot count chunks.
    whole = torch.compiler.is_exporting() or not len(vectors)
    chunks = (vectors,) if whole else vectors.split(CHUNK)
    return torch.cat([torch.addmm(bias, chunk, codebook.T).argmax(dim=1) for chunk in chunks])


def gather_vectors(vectors: torch.Tensor) -> torch.Tensor:
    """The vectors of all processes, in their order; without gradient."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return vectors
    counts = [torch.zeros((), dtype=torch.long, device=vectors.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, torch.tensor(len(vectors), device=vectors.device))
    longest = int(max(counts))
    padded = functional.pad(vectors, (0, 0, 0, longest - len(vectors))).contiguous()
    parts = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def sum_over_processes(*tensors: torch.Tensor) -> None:
    """Add up each tensor over all processes, in place."""
    if distributed.is_available() and distributed.is_initialized():
        for tensor in tensors:
            distributed.all_reduce(tensor)


class Float32Module(nn.Module):
    """A module whose buffers follow a model to a device, but not to another dtype."""

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        before = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            *path, last = name.split(".")
            owner = self.get_submodule(".".join(path))
            moved = owner._buffers[last]
            if moved is not None and moved.dtype != buffer.dtype:
                owner._buffers[last] = buffer.to(moved.device)
        return self


class BatchNormOverProcesses(nn.BatchNorm1d):
    """Batch normalisation whose mean and variance are those of all processes together, with their gradient.

    torch's SyncBatchNorm needs a GPU.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    momentum: float

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(vectors, width) to the same."""
        alone = not (distributed.is_available() and distributed.is_initialized())
        if alone or not self.training:
            return super().forward(features)
        from torch.distributed.nn.functional import all_reduce  # not in all builds of torch

        count = torch.tensor(len(features), device=features.device)
        sum_over_processes(count)
        mean = all_reduce(features.sum(dim=0)) / count
        centred = features - mean
        variance = all_reduce(centred.square().sum(dim=0)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        return centred * (variance + self.eps).rsqrt()


class FiniteScalarQuantizer(Float32Module):
    """Round each channel to one of a few levels; a code is one level a channel.

    There is no codebook that could die and no loss of its own. Finite scalar quantization of
    [Mentzer et al., 2023](https://arxiv.org/abs/2309.15505). Each channel is first normalised over the batch, so that
    none can shrink into one of its levels: without that 86 to 478 of 512 codes were in use, by the seed.

    Args:
        config: Its `levels` are the numbers of values, one a channel.

    Example:

    >>> quantizer = FiniteScalarQuantizer(ImageTokenizerConfig(levels=[3, 5])).eval()
    >>> quantized = quantizer(torch.tensor([[-9.0, 0.0], [9.0, 9.0]]))
    >>> quantized.vectors, quantized.ids
    (tensor([[-1.,  0.],
            [ 1.,  1.]]), tensor([ 6, 14]))
    """

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.levels = tuple(config.levels)
        self.width = len(self.levels)
        self.steps = tuple(math.prod(self.levels[:channel]) for channel in range(self.width))  # of an id, a level
        self.norm = BatchNormOverProcesses(self.width, affine=False)

    def forward(self, features: torch.Tensor) -> Quantized:
        """Quantize (vectors, width)."""
        features = SPREAD * self.norm(features)
        levels = features.new_tensor(self.levels)
        half = (levels - 1) * (1 + 1e-3) / 2
        offset = 0.5 * (levels % 2 == 0)  # an even number of levels lies around a half
        bounded = (features + (offset / half).atanh()).tanh() * half - offset
        digits = (bounded.round() + levels // 2).clamp(min=0).minimum(levels - 1).long()
        ids = (digits * digits.new_tensor(self.steps)).sum(dim=1)
        vectors = straight_through(bounded / (levels // 2), self.lookup(ids))
        return Quantized(vectors, ids, features.new_zeros(()))

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """The codes (vectors, width) of ids (vectors,), between -1 and 1."""
        levels = torch.tensor(self.levels, device=ids.device)
        digits = ids[:, None] // torch.tensor(self.steps, device=ids.device) % levels
        return (digits - levels // 2).float() / (levels // 2)


class MovingAverageQuantizer(Float32Module):
    """Take the nearest code of a codebook that follows the features by moving averages.

    The codebook starts at the means that k-means finds in the first batch, and a code that is hardly drawn any more is
    put back on a feature of the batch. What changes is counted over all processes, so that two train the codebook that
    one would. Its numbers are float32 and stay so when the model is cast. Moving averages of
    [van den Oord et al., 2017](https://arxiv.org/abs/1711.00937), appendix A.1; codes put back on data as by
    [Dhariwal et al., 2020](https://arxiv.org/abs/2005.00341).

    Args:
        config: Its `codebook_size`, `codebook_dim`, `codebook_decay` and `commitment_weight` are read.
    """

    codebook: torch.Tensor
    counts: torch.Tensor
    sums: torch.Tensor
    updates: torch.Tensor

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.width, self.size = config.codebook_dim, config.codebook_size
        self.decay, self.commitment_weight = config.codebook_decay, config.commitment_weight
        for name, value in self.beginning().items():
            self.register_buffer(name, value)

    def beginning(self) -> dict[str, torch.Tensor]:
        """What the buffers hold before the first batch: `codebook` (codes, width), the moving averages `counts`
        (codes,) and `sums` (codes, width), and the number of `updates`."""
        codes = torch.zeros(self.size, self.width)
        counts = torch.zeros(self.size)
        return {
            "codebook": codes,
            "counts": counts,
            "sums": codes.clone(),
            "updates": torch.zeros((), dtype=torch.long),
        }

    def forward(self, features: torch.Tensor) -> Quantized:
        """Quantize (vectors, width); in training the codebook then moves towards them."""
        if self.training and not self.updates:
            self._start(gather_vectors(features.detach()))
        ids = nearest_codes(features.detach(), self.codebook)
        codes = self.lookup(ids)
        loss = self.commitment_weight * functional.mse_loss(features, codes)
        if self.training:
            self._follow(features.detach(), ids)
        return Quantized(straight_through(features, codes), ids, loss)

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """The codes (vectors, width) of ids (vectors,)."""
        return self.codebook[ids]

    def _draw(self, vectors: torch.Tensor, number: int) -> torch.Tensor:
        """As many of the vectors, the same in every process and in a resumed run."""
        generator = torch.Generator().manual_seed(int(self.updates))
        rounds = -(-number // len(vectors))
        order = torch.cat([torch.randperm(len(vectors), generator=generator) for _ in range(rounds)])
        return vectors[order[:number].to(vectors.device)]

    @torch.no_grad()
    def _start(self, vectors: torch.Tensor) -> None:
        """k-means on the vectors of all processes."""
        codes = self._draw(vectors, self.size).clone()
        for _ in range(KMEANS_STEPS):
            ids = nearest_codes(vectors, codes)
            counts = torch.bincount(ids, minlength=self.size).to(codes.dtype)
            sums = torch.zeros_like(codes).index_add_(0, ids, vectors)
            codes = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], codes)
        self.codebook.copy_(codes)
        self.counts.copy_(counts)
        self.sums.copy_(codes * counts[:, None])

    @torch.no_grad()
    def _follow(self, vectors: torch.Tensor, ids: torch.Tensor) -> None:
        counts = torch.bincount(ids, minlength=self.size).to(self.counts.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, ids, vectors.to(self.sums.dtype))
        sum_over_processes(counts, sums)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        fair = self.counts.sum() / self.size
        faded = self.counts < FADED * fair
        if faded.any():
            fresh = self._draw(gather_vectors(vectors), int(faded.sum())).to(self.sums.dtype)
            self.counts[faded] = fair
            self.sums[faded] = fresh * fair
        self.codebook.copy_(self.sums / self.counts[:, None])
        self.updates += 1


class GradientQuantizer(nn.Module):
    """Take the nearest code of a codebook that gradients pull to the features, as in the first paper.

    Codes that nothing is near to get no gradient and die: most do. Kept as the baseline. Codebook loss of
    [van den Oord et al., 2017](https://arxiv.org/abs/1711.00937), equation 3.

    Args:
        config: Its `codebook_size`, `codebook_dim` and `commitment_weight` are read.
    """

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__()
        self.width = config.codebook_dim
        self.commitment_weight = config.commitment_weight
        self.codebook = nn.Embedding(config.codebook_size, config.codebook_dim)

    def forward(self, features: torch.Tensor) -> Quantized:
        """Quantize (vectors, width)."""
        ids = nearest_codes(features.detach(), self.codebook.weight.detach().to(features.dtype))
        codes = self.lookup(ids).to(features.dtype)
        loss = functional.mse_loss(codes, features.detach())
        loss = loss + self.commitment_weight * functional.mse_loss(features, codes.detach())
        return Quantized(straight_through(features, codes), ids, loss)

    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """The codes (vectors, width) of ids (vectors,)."""
        return self.codebook(ids)


QUANTIZERS: dict[str, type[nn.Module]] = {
    "fsq": FiniteScalarQuantizer,
    "vq": MovingAverageQuantizer,
    "vq_grad": GradientQuantizer,
}


class ResidualBlock(nn.Module):
    """A normalisation and two convolutions, added to what comes in.

    Args:
        channels: Of the feature map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(NORM_GROUPS, channels), channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, channels, rows, columns) to the same."""
        return features + self.second(functional.relu(self.first(functional.relu(self.norm(features)))))


class ImageEncoder(nn.Module):
    """Pixels to features, a vector a token.

    Args:
        config: Widths and depth.
        width: Of the vectors, as the quantizer takes them.
    """

    def __init__(self, config: ImageTokenizerConfig, width: int) -> None:
        super().__init__()
        hidden, depth = config.hidden_size, config.num_downsamplings
        channels = [config.num_channels, *[hidden] * depth]
        self.downsamplings = nn.ModuleList(nn.Conv2d(channels[i], hidden, 4, 2, padding=1) for i in range(depth))
        self.mixing = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(hidden) for _ in range(config.num_residual_blocks))
        self.norm = nn.GroupNorm(1, hidden)
        self.projection = nn.Conv2d(hidden, width, 1)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; the quantizer's stay in float32."""
        return self.projection.weight.dtype

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) to (batch, width, rows, columns)."""
        features = pixel_values
        for downsampling in self.downsamplings:
            features = functional.relu(downsampling(features))
        features = self.mixing(features)
        for block in self.blocks:
            features = block(features)
        return self.projection(self.norm(features))


class ImageDecoder(nn.Module):
    """Codes to pixels.

    Args:
        config: Widths and depth.
        width: Of the codes.
    """

    def __init__(self, config: ImageTokenizerConfig, width: int) -> None:
        super().__init__()
        hidden, depth = config.hidden_size, config.num_downsamplings
        channels = [*[hidden] * depth, config.num_channels]
        self.projection = nn.Conv2d(width, hidden, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(hidden) for _ in range(config.num_residual_blocks))
        self.upsamplings = nn.ModuleList(
            nn.ConvTranspose2d(hidden, channels[i + 1], 4, 2, padding=1) for i in range(depth)
        )

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """(batch, width, rows, columns) to (batch, channels, height, width)."""
        features = self.projection(codes)
        for block in self.blocks:
            features = block(features)
        for upsampling in self.upsamplings:
            features = upsampling(functional.relu(features))
        return features


@dataclass
class ImageTokenizerOutput(ModelOutput):
    """Output of [`ImageTokenizerModel`].

    Args:
        loss: Mean squared error of the pixels, plus what the quantizer adds.
        reconstruction: (batch, channels, height, width), in the scale of `pixel_values`.
        image_token_ids: (batch, rows, columns).
        reconstruction_loss: Mean squared error of the pixels.
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    image_token_ids: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None


class ImageTokenizerModel(CheckedModel):
    """A VQ-VAE: an image to a grid of token ids, and back.

    In evaluation `decode(encode(pixel_values))` is what `forward` reconstructs, bit for bit. Convolutional autoencoder
    of [van den Oord et al., 2017](https://arxiv.org/abs/1711.00937); the quantizer is an entry of `QUANTIZERS`.

    Args:
        config: Sizes and quantizer.

    Example:

    >>> model = ImageTokenizerModel(ImageTokenizerConfig(image_size=16, hidden_size=8)).eval()
    >>> ids = model.encode(torch.zeros(2, 3, 16, 16))
    >>> ids.shape, model.decode(ids).shape
    (torch.Size([2, 4, 4]), torch.Size([2, 3, 16, 16]))
    """

    config_class = ImageTokenizerConfig
    base_model_prefix = "image_tokenizer"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    accepts_loss_kwargs = False  # the loss is a mean over the batch
    _auto_class = "AutoModel"
    _no_split_modules: list[str] = []
    _keep_in_fp32_modules_strict = ["quantizer"]  # codes and their statistics, whatever the rest is loaded in
    _supports_sdpa = True  # it has no attention, so that a model around it may take any
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__(config)
        quantizer: Any = QUANTIZERS[config.quantizer](config)
        self.quantizer = quantizer
        self.encoder = ImageEncoder(config, quantizer.width)
        self.decoder = ImageDecoder(config, quantizer.width)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            # As torch does, not zeros: finite scalar codes are 0 at first, and no gradient passes a decoder of zeros.
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.GroupNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d):
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
            init.zeros_(module.num_batches_tracked)
        elif isinstance(module, nn.Embedding):
            init.uniform_(module.weight, -1 / module.num_embeddings, 1 / module.num_embeddings)
        elif isinstance(module, MovingAverageQuantizer):
            for name, value in module.beginning().items():
                init.copy_(getattr(module, name), value)

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, return_loss: bool = True, **kwargs: Any) -> ImageTokenizerOutput:
        """Reconstruct images through their tokens.

        Args:
            pixel_values: (batch, channels, height, width), as the image processor gives them.
            return_loss: Whether the loss is wanted.
            kwargs: Unread.

        Raises:
            ValueError: If the images are of another size than the configuration's.
        """
        quantized = self._quantize(pixel_values)
        reconstruction = self._decode(quantized.vectors, pixel_values.shape[0])
        reconstruction_loss = functional.mse_loss(reconstruction.float(), pixel_values.float())
        return ImageTokenizerOutput(
            loss=reconstruction_loss + quantized.loss if return_loss else None,
            reconstruction=reconstruction,
            image_token_ids=quantized.ids.view(-1, *self.config.grid),
            reconstruction_loss=reconstruction_loss,
        )

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images to tokens.

        Args:
            pixel_values: (batch, channels, height, width), as the image processor gives them.

        Returns:
            (batch, rows, columns) int64.

        Raises:
            ValueError: If the images are of another size than the configuration's.
        """
        return self._quantize(pixel_values).ids.view(-1, *self.config.grid)

    def decode(self, image_token_ids: torch.Tensor) -> torch.Tensor:
        """Tokens to images.

        Args:
            image_token_ids: (batch, rows, columns), or (batch, tokens) row by row.

        Returns:
            (batch, channels, height, width), in the scale of `pixel_values`.

        Raises:
            ValueError: If an id is beyond the vocabulary, or there are not as many as an image has.
        """
        tokens = self.config.num_image_tokens
        if image_token_ids.ndim < 2 or math.prod(image_token_ids.shape[1:]) != tokens:
            raise ValueError(f"an image has {tokens} tokens, got {tuple(image_token_ids.shape)}.")
        ids = image_token_ids.flatten(1)
        traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()
        if not traced and ids.numel() and (ids.min() < 0 or ids.max() >= self.config.vocab_size):
            raise ValueError(
                f"image token ids must be in 0..{self.config.vocab_size - 1}, got {ids.min()} to {ids.max()}."
            )
        return self._decode(self.quantizer.lookup(ids.flatten()), ids.shape[0])

    def _quantize(self, pixel_values: torch.Tensor) -> Quantized:
        size = self.config.image_size
        expected = (self.config.num_channels, size, size)
        if tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(
                f"pixel_values must be (batch, {', '.join(map(str, expected))}), which the processor makes of any "
                f"image, got {tuple(pixel_values.shape)}."
            )
        features = self.encoder(pixel_values.to(self.encoder.dtype))  # (batch, width, rows, columns)
        vectors = features.movedim(1, -1).flatten(0, -2)
        with torch.autocast(vectors.device.type, enabled=False):  # ids hang on the last digits
            return self.quantizer(vectors.float())

    def _decode(self, vectors: torch.Tensor, batch: int) -> torch.Tensor:
        codes = vectors.view(batch, *self.config.grid, -1).movedim(-1, 1)
        return self.decoder(codes.to(self.encoder.dtype).contiguous())

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.downsamplings[0]
