"""Pooling, BN neck and classifier (docs/method.md section 6), and what every network of this house returns."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import full_precision


class Output(NamedTuple):
    """What `forward` of a network returns in training: V views of B images, visible rows before infrared ones."""

    pooled: Tensor    # (V, B, D)
    neck: Tensor      # (V, B, D)
    logits: Tensor    # (V, B, classes)
    infrared: Tensor  # (B,) bool


class Head(nn.Module):
    """Global average pooling, a batch norm whose bias is not trained, and a linear classifier without bias.

    x         (B, D, H, W)
    returns   pooled (B, D), neck (B, D), logits (B, classes)
    """

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.neck = nn.BatchNorm1d(channels)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(channels, classes, bias=False)
        nn.init.normal_(self.neck.weight, mean=1.0, std=0.01)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled and neck feature, each (B, D), not normalised."""
        pooled = x.mean(dim=(2, 3))
        return pooled, self.neck(pooled)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled, neck = self.features(x)
        return pooled, neck, self.classifier(neck)


def unit(x: Tensor) -> Tensor:
    """Each row divided by its L2 norm, in float32 at least; a row of zeros stays one."""
    return F.normalize(full_precision(x), dim=-1)
