"""MBUE, the multi-branch unified encoder: one map becomes three views of each image (docs/method.md section 4)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.options import option
from models.parts.csc_cma import CSCCMA
from models.parts.layers import ChannelLayerNorm, DropPath, WindowAttention, conv_bn, map_of, start_for_relu, tokens_of

OPTIONS = {
    "MBUE.ENABLED": option(True, "the two branches that make three views; off leaves the plain view"),
    "MBUE.TOKEN_LAYOUT": option("reference", "global block: reference (the authors' memory order), or as drawn",
                                one_of=("reference", "aligned")),
    "MBUE.SEPARATE_COMPRESSIONS": option(False, "branch 1 has two compressions, as drawn, not a shared one"),
    "MBUE.CONTEXT_PATH": option(False, "a third path (conv3) in each branch, as drawn; nothing without CSC_CMA"),
    "MBUE.DROPOUT": option(0.01, "on the three stacked views", at_least=0, below=1),
    "MBUE.DROP_PATH": option(0.1, "on the residuals of the global block", at_least=0, below=1),
    "CSC_CMA.ENABLED": option(True, "off: local and global map are averaged"),
    "CSC_CMA.KEYS": option("local", "map of the cross attention's keys: local, or global as drawn",
                           one_of=("local", "global")),
}


class LocalBlock(nn.Module):
    """Depthwise conv3, LayerNorm, linear, GELU, plus the input; (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = ChannelLayerNorm(channels)
        self.pointwise = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pointwise(tokens_of(self.norm(self.depthwise(x))))
        return x + map_of(F.gelu(y), x.shape[2:])


class GlobalBlock(nn.Module):
    """Windowed self-attention and an MLP, each with a residual; (B, C, H, W) -> (B, C, H, W).

    layout="reference" is what the authors' code computes: it reads memory in another order of axes than it was
    written in, so that tokens and channels mix (`reread`). layout="aligned" moves the axes properly.
    """

    def __init__(self, channels: int, layout: str = "reference", drop_path: float = 0.1):
        super().__init__()
        self.layout = layout
        self.attention_norm = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels)
        self.mlp_norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        attended = self.attention(self.attention_norm(x.permute(0, 2, 3, 1)))  # (B, H, W, C)
        if self.layout == "aligned":
            x = x + self.drop_path(attended.permute(0, 3, 1, 2))
            return x + self.drop_path(map_of(self.mlp(self.mlp_norm(tokens_of(x))), x.shape[2:]))

        # The quirk, fenced: written as (H, C, W) and read as (C, H, W); written as (C, W, H) and read as (HW, C).
        channels, height, width = x.shape[1:]
        x = x + self.drop_path(reread(attended.transpose(2, 3), (channels, height, width)))
        tokens = reread(x.transpose(2, 3), (height * width, channels))
        return x + self.drop_path(reread(self.mlp(self.mlp_norm(tokens)), (channels, height, width)))


def reread(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The memory of each row of x, as x's axes write it, read as another shape of the same size."""
    return x.contiguous().view(x.shape[0], *shape)


class Branch(nn.Module):
    """One branch: local and global block, compressed to C/4 channels, fused, and expanded again.

    fusion="csc_cma" is the method, "average" the ablation's plain mean of both maps.

    x         (B, C, H, W)
    returns   (B, C, H, W)
    """

    def __init__(
        self,
        channels: int,
        layout: str = "reference",
        shared_compression: bool = False,
        fusion: str = "csc_cma",
        keys: str = "local",
        context_path: bool = False,
        drop_path: float = 0.1,
    ):
        super().__init__()
        context_path = context_path and fusion == "csc_cma"  # nothing else reads it
        compressed = channels // 4
        self.local_block = LocalBlock(channels)
        self.global_block = GlobalBlock(channels, layout, drop_path)
        self.compress_local = conv_bn(channels, compressed, 1, relu=False)
        self.compress_global = None if shared_compression else conv_bn(channels, compressed, 1, relu=False)
        self.fusion = CSCCMA(compressed, keys, context_path) if fusion == "csc_cma" else None
        self.context_path = None
        if context_path:
            self.context_path = start_for_relu(nn.Conv2d(channels, compressed, 3, padding=1, bias=False))
        self.expand = start_for_relu(nn.Conv2d(compressed, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        # A shared compression is one module called twice, so its running statistics move twice a step.
        compress_global = self.compress_global if self.compress_global is not None else self.compress_local
        local_map = self.compress_local(self.local_block(x))      # (B, C/4, H, W)
        global_map = compress_global(self.global_block(x))
        if self.fusion is None:
            fused = (local_map + global_map) / 2
        elif self.context_path is None:
            fused = self.fusion(local_map, global_map)
        else:
            fused = self.fusion(local_map, global_map, self.context_path(x))
        return self.expand(F.relu(fused))


class MBUE(nn.Module):
    """The plain map and two branches of it, stacked on the batch axis.

    x         (B, C, H, W)
    returns   (3B, C, H, W): rows plain, branch 1, branch 2

    separate_compressions gives branch 1 two compressions, as drawn in the paper, where the authors' code shares one.
    The other options are those of `Branch`.
    """

    views = 3

    def __init__(self, channels: int, separate_compressions: bool = False, dropout: float = 0.01, **branch: Any):
        super().__init__()
        self.branch1 = Branch(channels, shared_compression=not separate_compressions, **branch)
        self.branch2 = Branch(channels, **branch)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(torch.cat([x, self.branch1(x), self.branch2(x)]))
