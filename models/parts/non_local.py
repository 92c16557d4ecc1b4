"""AGW's non-local blocks after the last blocks of ResNet's middle stages, which other methods have too."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from common.options import option
from models.parts.backbone import after_last
from models.parts.mfa import NonLocal, chain

AFTER = (0, 2, 3, 0)  # how many of the last blocks of each stage
OPTIONS = {
    "NON_LOCAL": option("one", "one inner channel (the authors'), half of the channels, or none",
                        one_of=("one", "half", "none")),
}


class SelfNonLocal(NonLocal):
    """Every position takes up all positions of the same map, by an affinity without softmax.

    x         (B, C, H, W)
    inner     channels of the projections; with one, as in the authors' code, this is θ · mean over positions of φ·g
    returns   (B, C, H, W): x + BN(conv1(affinity · g))
    """

    def __init__(self, channels: int, inner: int):
        super().__init__(channels, channels, inner)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = (project(x).flatten(2) for project in (self.theta, self.phi, self.g))  # (B, inner, HW)
        y = chain(g, phi.transpose(1, 2), theta, divisor=phi.shape[2])
        return x + self.out(y.unflatten(2, x.shape[2:]))


class NonLocalStage(nn.Module):
    """A ResNet stage with a non-local block after each of its last blocks.

    x         (B, C, H, W)
    returns   (B, C', H', W')
    """

    def __init__(self, blocks: nn.Sequential, channels: int, count: int, inner: int):
        super().__init__()
        self.blocks = blocks
        self.non_local = nn.ModuleList(SelfNonLocal(channels, inner) for _ in range(min(count, len(blocks))))

    def forward(self, x: Tensor) -> Tensor:
        return after_last(self.blocks, self.non_local, x)


def add_non_locals(stages: nn.ModuleList, channels: Sequence[int], kind: str) -> None:
    """Give stages their non-local blocks.

    stages     of a ResNet; are changed
    channels   of each stage
    kind       MODEL.NON_LOCAL
    """
    for i, (width, count) in enumerate(zip(channels, AFTER)):
        if count and kind != "none":
            inner = {"one": 1, "half": width // 2}[kind]
            stages[i] = NonLocalStage(cast(nn.Sequential, stages[i]), width, count, inner)
