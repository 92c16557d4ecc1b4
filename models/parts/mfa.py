"""MFA, multi-level feature aggregation: the backbone map takes up a lower, finer map (docs/method.md section 3)."""

from typing import cast

import torch
from torch import Tensor, nn

from common.options import option
from models.parts.layers import full_precision

OPTIONS = {
    "MFA.POSITIONS": option("halves", "position non-local: halves of the image apart, or all as drawn",
                            one_of=("halves", "all")),
}


def chain(a: Tensor, b: Tensor, c: Tensor, divisor: int) -> Tensor:
    """a @ b @ c / divisor for batches of matrices, associated the cheaper way (there is no softmax between).

    In float32 at least: a product sums over thousands of positions, which half precision has no digits for, and which
    leaves float16's range.
    """
    rows, inner, outer, columns = a.shape[-2], a.shape[-1], b.shape[-1], c.shape[-1]
    left_first = rows * outer * (inner + columns)
    right_first = inner * columns * (outer + rows)
    with torch.autocast(a.device.type, enabled=False):
        a, b, c = (full_precision(x) for x in (a, b, c))
        if left_first <= right_first:
            return divided_product(a, b, divisor) @ c
        return a @ divided_product(b, c, divisor)


def divided_product(a: Tensor, b: Tensor, divisor: int) -> Tensor:
    """a @ b / divisor without a pass of its own for the division."""
    return torch.baddbmm(a.new_zeros(1, 1, 1), a, b, beta=0, alpha=1 / divisor)


class NonLocal(nn.Module):
    """What the channel and the position block share: the projections g, θ, φ and a zero-initialised way out.

    high, low   (B, high, H, W) and (B, low, H', W'), H' = 2H where `downsample` is set, else H
    """

    def __init__(self, high: int, low: int, inner: int):
        super().__init__()
        self.g = nn.Conv2d(low, inner, 1)
        self.theta = nn.Conv2d(high, inner, 1)
        self.phi = nn.Conv2d(low, inner, 1)
        norm = nn.BatchNorm2d(high)
        self.out = nn.Sequential(nn.Conv2d(inner, high, 1), norm)
        nn.init.zeros_(norm.weight)  # training starts from the plain backbone
        nn.init.zeros_(norm.bias)


class ChannelNonLocal(NonLocal):
    """Every channel of the low map is mixed anew by the affinity of high and low channels.

    returns   (B, high, H, W): high + BN(conv1(affinity · g))
    """

    def __init__(self, high: int, low: int, downsample: bool):
        super().__init__(high, low, inner=low)
        if downsample:
            self.phi.stride = cast(nn.Conv2d, self.out[0]).stride = (2, 2)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        theta = self.theta(high).flatten(2)  # (B, low, HW)
        phi = self.phi(low).flatten(2)       # (B, low, HW)
        g = self.g(low).flatten(2)           # (B, low, H'W')
        y = chain(theta, phi.transpose(1, 2), g, divisor=g.shape[1])
        return high + self.out(y.unflatten(2, low.shape[2:]))


class PositionNonLocal(NonLocal):
    """Positions of the high map gather from positions of the low map.

    positions = "halves" is the authors' arithmetic: the two halves of the positions (row-major) are stacked as
    channels, so that the upper half of the image reads the upper half, the lower the lower, with one shared affinity.
    positions = "all" lets every position of the high map read every position of the low one.

    returns   (B, high, H, W): high + BN(conv1(affinity · g))
    """

    def __init__(self, high: int, low: int, positions: str = "halves"):
        super().__init__(high, low, inner=low // 2)
        self.halves = positions == "halves"

    def fold(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 2C, HW/2) for halves, else (B, C, HW)."""
        x = x.flatten(2)
        return x.unflatten(2, (2, -1)).flatten(1, 2) if self.halves else x

    def unfold(self, y: Tensor, size: torch.Size) -> Tensor:
        """The inverse of `fold`."""
        if self.halves:
            y = y.unflatten(1, (-1, 2)).flatten(2)
        return y.unflatten(2, size)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        theta, phi, g = self.fold(self.theta(high)), self.fold(self.phi(low)), self.fold(self.g(low))
        y = chain(g, phi.transpose(1, 2), theta, divisor=phi.shape[2])  # the transposed product: channels first
        return high + self.out(self.unfold(y, high.shape[2:]))


class MFA(nn.Module):
    """The channel and the position block in turn.

    high      (B, high, H, W)     backbone map
    low       (B, low, H', W')    context map, H' = 2H where `downsample` is set, else H
    returns   (B, high, H, W)
    """

    def __init__(self, high: int, low: int, downsample: bool, positions: str = "halves"):
        super().__init__()
        self.channel = ChannelNonLocal(high, low, downsample)
        self.position = PositionNonLocal(high, low, positions)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        return self.position(self.channel(high, low), low)


class ImageSizeError(ValueError):
    """The network cannot take images of this size."""


def check_positions(height: int, width: int, fused_stages: int) -> None:
    """Refuse an image whose maps cannot be cut into two halves of positions.

    height, width   of the image, in pixels
    fused_stages    how many backbone stages have an MFA; maps are 1/4 of the image at stage 1, then half each
    raises          ImageSizeError
    """
    h, w = -(-height // 4), -(-width // 4)
    for stage in range(1, fused_stages + 1):
        if h * w % 2:
            raise ImageSizeError(
                f"images of {height}x{width} give stage {stage} a map of {h}x{w}, an odd number of positions, which "
                "MODEL.MFA.POSITIONS 'halves' cannot cut in two: choose another DATA.HEIGHT or DATA.WIDTH, or 'all'"
            )
        h, w = -(-h // 2), -(-w // 2)
