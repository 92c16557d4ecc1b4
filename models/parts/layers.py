"""Small layers that several modules share."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def conv_bn(c_in: int, c_out: int, kernel_size: int, dilation: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution without bias that keeps the resolution, batch norm and (unless told otherwise) ReLU."""
    padding = dilation * (kernel_size // 2)
    layers = [
        nn.Conv2d(c_in, c_out, kernel_size, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(c_out),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def start_for_relu(conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution with weights drawn anew: Kaiming-normal, fan-in, gain √2. A bias keeps PyTorch's start."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
    return conv


def recompute(module: nn.Module, *inputs: Tensor) -> Tensor:
    """module(*inputs); its activations are computed again in the backward pass instead of being kept for it."""
    return checkpoint(
        module, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), unmoved_statistics(module))
    )


@contextmanager
def unmoved_statistics(module: nn.Module) -> Iterator[None]:
    """Running statistics are as before afterwards, however often batch norms have seen a batch meanwhile."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    held = [dict(norm._buffers) for norm in norms]
    for norm, buffers in zip(norms, held):
        norm._buffers.update({name: buffer.clone() for name, buffer in buffers.items() if buffer is not None})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, held):
            norm._buffers.update(buffers)


def full_precision(x: Tensor) -> Tensor:
    """float32, or float64 if it is that."""
    return x.float() if x.dtype.itemsize < 4 else x


def tokens_of(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H*W, C); no copy where x is channels_last."""
    return x.flatten(2).transpose(1, 2)


def map_of(tokens: Tensor, size: torch.Size) -> Tensor:
    """(B, H*W, C) -> (B, C, H, W) with size (H, W)."""
    return tokens.transpose(1, 2).unflatten(2, size)


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map, (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DropPath(nn.Module):
    """In training, drops the whole residual of a row with the given probability (and scales up the others)."""

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        keep = 1 - self.probability
        mask = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(keep)
        return x * mask / keep


def haar(x: Tensor) -> Tensor:
    """One level of the orthonormal Haar transform, (B, C, H, W) -> (B, 4C, H/2, W/2), for even H and W.

    Four sub-bands per channel, adjacent: average, top - bottom, left - right, both differences.
    """
    top_left, top_right = x[..., ::2, ::2], x[..., ::2, 1::2]
    bottom_left, bottom_right = x[..., 1::2, ::2], x[..., 1::2, 1::2]
    top, top_step = top_left + top_right, top_left - top_right
    bottom, bottom_step = bottom_left + bottom_right, bottom_left - bottom_right
    bands = [top + bottom, top - bottom, top_step + bottom_step, top_step - bottom_step]
    return torch.stack(bands, dim=2).flatten(1, 2) / 2


def inverse_haar(bands: Tensor) -> Tensor:
    """The transpose, and so the inverse, of `haar`: (B, 4C, H/2, W/2) -> (B, C, H, W)."""
    average, vertical, horizontal, both = bands.unflatten(1, (-1, 4)).unbind(2)  # each (B, C, H/2, W/2)
    top, bottom = average + vertical, average - vertical
    top_step, bottom_step = horizontal + both, horizontal - both
    rows = [
        torch.stack([top + top_step, top - top_step], dim=-1).flatten(-2),  # (B, C, H/2, W)
        torch.stack([bottom + bottom_step, bottom - bottom_step], dim=-1).flatten(-2),
    ]
    return torch.stack(rows, dim=-2).flatten(-3, -2) / 2


class HaarConv(nn.Module):
    """Wavelet convolution: a depthwise conv3 on the map plus one on its four Haar sub-bands.

    scale_b * conv3dw(x) + iHaar(scale_w * conv3dw(Haar(x))); docs/method.md section 5.6.

    x         (B, C, H, W); odd sizes are zero-padded by one at the right and the bottom for the transform
    returns   (B, C, H, W)
    """

    def __init__(self, channels: int):
        super().__init__()
        self.base = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.base_scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.wavelet = nn.Conv2d(4 * channels, 4 * channels, 3, padding=1, groups=4 * channels, bias=False)
        self.wavelet_scale = nn.Parameter(torch.full((1, 4 * channels, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        even = F.pad(x, (0, width % 2, 0, height % 2)) if height % 2 or width % 2 else x
        detail = inverse_haar(self.wavelet_scale * self.wavelet(haar(even)))
        return self.base_scale * self.base(x) + detail[..., :height, :width]


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows shifted by one, with a learned relative position bias.

    The map is zero-padded to whole windows and rolled cyclically by -1 in both axes. As in the authors' code no mask
    keeps padded or wrapped positions apart (docs/method.md section 4).

    x         (B, H, W, C)
    returns   (B, H, W, C)
    """

    bias_index: Tensor  # (w*w, w*w)

    def __init__(self, channels: int, heads: int = 16, window: int = 8, shift: int = 1):
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        self.register_buffer("bias_index", relative_position_index(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width, w = x.shape[1], x.shape[2], self.window
        rows, columns = -(-height // w), -(-width // w)
        # Padding is zero, so its projection is the bias: nothing is multiplied for it.
        projected = self.qkv(x)
        bias = self.qkv.bias.to(projected.dtype)
        # len(x) would become a constant of an exported network.
        qkv = bias.expand(x.shape[0], rows * w, columns * w, -1).clone()  # (B, padded H, padded W, 3C)
        qkv[:, :height, :width] = projected
        qkv = qkv.roll((-self.shift, -self.shift), dims=(1, 2))
        windows = qkv.unflatten(2, (columns, w)).unflatten(1, (rows, w)).transpose(2, 3)  # (B, rows, columns, w, w, 3C)

        tokens = windows.flatten(3, 4).flatten(0, 2)  # (B*rows*columns, w*w, 3C)
        q, k, v = tokens.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (windows, heads, w*w, C/heads)
        bias = self.bias_table[self.bias_index].permute(2, 0, 1).to(q.dtype)  # (heads, w*w, w*w)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        y = y.transpose(1, 2).flatten(2)  # (B*rows*columns, w*w, C)

        y = y.unflatten(1, (w, w)).unflatten(0, (-1, rows, columns)).transpose(2, 3)
        y = y.flatten(3, 4).flatten(1, 2).roll((self.shift, self.shift), dims=(1, 2))
        return self.project(y[:, :height, :width])


def relative_position_index(window: int) -> Tensor:
    """(window², window²): the row of the bias table for each pair of positions, by their offset."""
    axis = torch.arange(window)
    y, x = (grid.flatten() for grid in torch.meshgrid(axis, axis, indexing="ij"))
    dy, dx = y[:, None] - y[None, :], x[:, None] - x[None, :]
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1
