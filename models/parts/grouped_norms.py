"""A ResNet whose convolutions all groups of images share, while each group has batch norms of its own (SEFEL)."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from models.parts.backbone import Block

Group = str | Tensor  # a group's name; or (B,) bool: which rows are infrared, the others being visible


class Norms(nn.ModuleDict):
    """A batch norm for each group, which all start as the given one.

    x         (B, C, ...)
    group     whose norm
    returns   as x
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d, groups: Sequence[str]):
        super().__init__({group: type(norm)(norm.num_features) for group in groups})
        for own in self.values():
            own.load_state_dict(norm.state_dict())

    def forward(self, x: Tensor, group: Group) -> Tensor:
        if isinstance(group, str):
            return self[group](x)
        return torch.where(group.view(-1, *[1] * (x.dim() - 1)), self["infrared"](x), self["visible"](x))

    def keep(self, groups: Sequence[str]) -> None:
        """Drop the norms of all other groups."""
        for group in {*self} - {*groups}:
            del self[group]


class GroupedStem(nn.Module):
    """A ResNet's stem, never in half precision: what is lost there, every stage amplifies.

    images    (B, 3, H, W)
    returns   (B, 64, H/4, W/4)
    """

    def __init__(self, stem: nn.Module, groups: Sequence[str]):
        super().__init__()
        self.convolution, norm, self.relu, self.pool = stem.children()
        self.norms = Norms(cast(nn.BatchNorm2d, norm), groups)

    def forward(self, images: Tensor, group: Group) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            return self.pool(self.relu(self.norms(self.convolution(images), group)))


class GroupedBlock(nn.Module):
    """torchvision's basic or bottleneck block.

    x         (B, C, H, W)
    returns   (B, C', H', W')
    """

    def __init__(self, block: Block, groups: Sequence[str]):
        super().__init__()
        count = 3 if hasattr(block, "conv3") else 2
        self.convolutions = nn.ModuleList(getattr(block, f"conv{i}") for i in range(1, count + 1))
        self.norms = nn.ModuleList(Norms(getattr(block, f"bn{i}"), groups) for i in range(1, count + 1))
        shortcut, norm = block.downsample or (None, None)
        self.shortcut: nn.Module | None = shortcut
        self.shortcut_norms = None if norm is None else Norms(norm, groups)

    def forward(self, x: Tensor, group: Group) -> Tensor:
        y = x
        for i, (convolution, norms) in enumerate(zip(self.convolutions, self.norms)):
            y = norms(convolution(y.relu_() if i else y), group)
        if self.shortcut is not None and self.shortcut_norms is not None:
            x = self.shortcut_norms(self.shortcut(x), group)
        return (y + x).relu_()


class GroupedStage(nn.ModuleList):
    """A stage of such blocks, as a map goes through them.

    x         (B, C, H, W)
    returns   (B, C', H', W')
    """

    def __init__(self, blocks: Iterable[Block], groups: Sequence[str]):
        super().__init__(GroupedBlock(block, groups) for block in blocks)

    def forward(self, x: Tensor, group: Group) -> Tensor:
        for block in self:
            x = block(x, group)
        return x
