"""MIMB, the block of MSCMNet in which the trunk's channels take up those of a finer map (docs/compared_methods.md)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.parts.mfa import ImageSizeError

HEAD = 9      # positions that a head of the attention compares
PADDED = 16   # a head's width in memory, zeros included: fused attention takes multiples of 8
SHARE = 0.1   # of the finer map's tokens in the trunk's


def check_positions(height: int, width: int) -> int:
    """E, the positions of the map at 1/16 of an image, which the blocks cut in heads.

    height, width   of the image, in pixels
    raises          ImageSizeError where they are no whole number of heads
    """
    h, w = height / 16, width / 16
    if height % 16 or width % 16 or h * w % HEAD:
        raise ImageSizeError(
            f"images of {height}x{width} give a map of {h:g}x{w:g}; the correlation blocks of MSCMNet need whole "
            f"numbers whose product divides by {HEAD}: set DATA.HEIGHT and DATA.WIDTH to multiples of 16 such as 384 "
            "and 192, or 96 and 48"
        )
    return int(h * w)


class ChannelAttention(nn.Module):
    """Every channel gathers from all channels; a head compares HEAD of their positions.

    x         (B, C, E), queries and keys
    values    (B, C, E)
    returns   (B, C, E)
    """

    def __init__(self, positions: int):
        super().__init__()
        self.heads = positions // HEAD
        self.in_proj = nn.Linear(positions, 3 * positions)
        self.out_proj = nn.Linear(positions, positions)
        nn.init.xavier_uniform_(self.in_proj.weight)  # as nn.MultiheadAttention starts, of which this is one
        nn.init.zeros_(self.in_proj.bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, values: Tensor) -> Tensor:
        # Without a fused kernel, each head's weights of all pairs of channels would be kept for the backward pass.
        # Zeros in the projections' weights, which are small, change no product. E' = 16 · heads
        fill, heads = PADDED - HEAD, (self.heads, PADDED)
        weight = F.pad(self.in_proj.weight.unflatten(0, (3, -1, HEAD)), (0, 0, 0, fill)).flatten(1, 2)  # (3, E', E)
        bias = F.pad(self.in_proj.bias.unflatten(0, (3, -1, HEAD)), (0, fill)).flatten(1)               # (3, E')
        back = F.pad(self.out_proj.weight.unflatten(1, (-1, HEAD)), (0, fill)).flatten(1)               # (E, E')

        pairs = F.linear(x, weight[:2].flatten(0, 1), bias[:2].flatten())
        query, key = pairs.unflatten(2, (2, *heads)).permute(2, 0, 3, 1, 4)                        # (B, heads, C, 16)
        value = F.linear(values, weight[2], bias[2]).unflatten(2, heads).transpose(1, 2)
        y = F.scaled_dot_product_attention(query, key, value, scale=HEAD ** -0.5)
        return F.linear(y.transpose(1, 2).flatten(2), back, self.out_proj.bias)


class QuickGELU(nn.Module):
    """v · sigmoid(1.702 v)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


class MIMB(nn.Module):
    """Multi-scale information correlation mining: channels are tokens, the positions of the map are their features.

    y         (B, channels, H, W), the trunk
    source    (B, C, H', W'), a finer map; without one the trunk's tokens attend to themselves
    returns   (B, channels, H, W): of the attended tokens alone, or, with `residual`, added to y

    positions   E = H · W
    finer       C and H' / H (2 or 4) of the finer map; None: there is none
    """

    def __init__(self, channels: int, positions: int, finer: tuple[int, int] | None = None, residual: bool = False):
        super().__init__()
        inner = channels // 4
        self.residual = residual
        self.reduce, self.norm = nn.Conv2d(channels, inner, 1), nn.LayerNorm(positions)
        self.side = None
        if finer is not None:
            width, stride = finer
            self.side = nn.Conv2d(width, inner, stride + 2, stride, padding=stride // 2)
            self.side_norm = nn.LayerNorm(positions)
        self.attention = ChannelAttention(positions)
        self.mlp_norm = nn.LayerNorm(positions)
        self.mlp = nn.Sequential(nn.Linear(positions, 4 * positions), QuickGELU(), nn.Linear(4 * positions, positions))
        self.expand = nn.Conv2d(inner, channels, 1)

    def forward(self, y: Tensor, source: Tensor | None = None) -> Tensor:
        t = self.norm(self.reduce(y).flatten(2))                 # (B, channels / 4, E)
        if self.side is None:
            t = t + self.attention(t, t)
        else:
            o = self.side_norm(self.side(source).flatten(2))     # (B, channels / 4, E)
            t = torch.add(t, o, alpha=SHARE)
            t = t + self.attention(o, t)
        t = t + self.mlp(self.mlp_norm(t))
        out = self.expand(t.unflatten(2, y.shape[2:]))
        return y + out if self.residual else out
