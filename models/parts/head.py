"""Pooling, BN neck and classifier (docs/method.md section 6)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.options import option
from models.parts.layers import full_precision

OPTIONS = {
    "POOL": option("average", "of the last map: average, gem (p = 3) or gem_learned (p of each channel)",
                   one_of=("average", "gem", "gem_learned")),
}


class AveragePool(nn.Module):
    """(B, D, H, W) -> (B, D): the mean over positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class GeM(nn.Module):
    """Generalised mean over positions, (mean x^p + 1e-12)^(1/p), of maps that are nowhere negative.

    p starts at 3; as in AGW's code it stays there, and is learned for each channel where that is asked for (as its
    paper says). The 1e-12 is outside the mean: a dead channel pools to 1e-4.

    x         (B, D, H, W)
    returns   (B, D), in float32 at least: a cube leaves float16's range
    """

    def __init__(self, channels: int, learned: bool):
        super().__init__()
        self.p = nn.Parameter(torch.full((channels,), 3.0)) if learned else None

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = full_precision(x)
            if self.p is None:
                return ((x * x * x).mean(dim=(2, 3)) + 1e-12) ** (1 / 3)
            return (x.pow(self.p.view(-1, 1, 1)).mean(dim=(2, 3)) + 1e-12).pow(1 / self.p)


class Head(nn.Module):
    """Pooling, a batch norm whose bias is not trained, and a linear classifier without bias.

    pool      average, gem or gem_learned

    x         (B, D, H, W)
    returns   pooled (B, D), neck (B, D), logits (B, classes)
    """

    def __init__(self, channels: int, classes: int, pool: str = "average"):
        super().__init__()
        self.pool = AveragePool() if pool == "average" else GeM(channels, learned=pool == "gem_learned")
        self.neck = nn.BatchNorm1d(channels)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(channels, classes, bias=False)
        nn.init.normal_(self.neck.weight, mean=1.0, std=0.01)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled and neck feature, each (B, D), not normalised."""
        pooled = self.pool(x)
        return pooled, self.neck(pooled)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled, neck = self.features(x)
        return pooled, neck, self.classifier(neck)


def unit(x: Tensor) -> Tensor:
    """Each row divided by its L2 norm, in float32 at least; a row of zeros stays one."""
    return F.normalize(full_precision(x), dim=-1)
