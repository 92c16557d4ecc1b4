"""CSC-CMA: channel, spatial and cross attention fuse a branch's local and global map (docs/method.md section 5)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.parts.layers import ChannelLayerNorm, HaarConv, full_precision, map_of, tokens_of


class CrossAttention(nn.Module):
    """Linear attention: a softmax over channels for the queries and over positions for the keys.

    query, key, value   (B, C, H, W), the maps that each is projected from
    returns             (B, C, H, W)
    """

    def __init__(self, channels: int, heads: int = 16):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels)

    def split(self, tokens: Tensor) -> Tensor:
        """(B, HW, C) -> (B, heads, HW, C/heads)."""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k, v = (
            full_precision(self.split(project(tokens_of(x))))
            for project, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        with torch.autocast(q.device.type, enabled=False):  # sums over positions
            y = q.softmax(dim=-1) @ (k.softmax(dim=-2).transpose(-2, -1) @ v)  # (B, heads, HW, C/heads)
        return map_of(self.project(y.transpose(1, 2).flatten(2)), query.shape[2:])


class SpatialAttention(nn.Module):
    """Weights positions by a conv7 over the channels' maximum and mean; (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        summary = torch.cat([x.amax(dim=1, keepdim=True), x.mean(dim=1, keepdim=True)], dim=1)
        return torch.sigmoid(self.conv(summary)) * x


class ChannelAttention(nn.Module):
    """Weights channels by a small MLP of their global averages; (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, reduction: int = 8):
        super().__init__()
        inner = max(1, channels // reduction)
        self.reduce = nn.Conv2d(channels, inner, 1, bias=False)
        self.expand = nn.Conv2d(inner, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        average = x.mean(dim=(2, 3), keepdim=True)
        return torch.sigmoid(self.expand(F.relu(self.reduce(average)))) * x


class InvertedResidual(nn.Module):
    """Section 5.7: v = u + GELU(conv3 u), BN, conv1 to four times the width, GELU, conv1 down, BN.

    The conv3 is a full one, not depthwise: the authors' code, and the largest part of MBUE.

    u         (B, c_in, H, W)
    returns   (B, c_out, H, W)
    """

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.mix = nn.Conv2d(c_in, c_in, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(c_in)
        self.expand = nn.Conv2d(c_in, 4 * c_in, 1, bias=False)
        self.reduce = nn.Conv2d(4 * c_in, c_out, 1, bias=False)
        self.out_norm = nn.BatchNorm2d(c_out)

    def forward(self, u: Tensor) -> Tensor:
        v = self.norm(u + F.gelu(self.mix(u)))
        return self.out_norm(self.reduce(F.gelu(self.expand(v))))


class CSCCMA(nn.Module):
    """Fuses the local and the global map of one branch.

    keys="local" takes the cross attention's keys from the local map (the authors' code), "global" from the global one
    (the paper's figure). context=True adds the figure's third input.

    local_map, global_map   (B, d, H, W)
    context                 (B, d, H, W), with context=True only
    returns                 (B, d, H, W)
    """

    def __init__(self, channels: int, keys: str = "local", context: bool = False):
        super().__init__()
        self.keys = keys
        self.align_local, self.align_global = self.align(channels), self.align(channels)
        self.cross = CrossAttention(channels)
        self.spatial = SpatialAttention()
        self.channel = ChannelAttention(channels)
        self.mix = nn.Parameter(torch.full((3,), 1 / 3))
        self.enhance = nn.Sequential(
            HaarConv(channels),
            nn.BatchNorm2d(channels),
            nn.GELU(),
            nn.Conv2d(channels, channels, 1),
            nn.BatchNorm2d(channels),
        )
        self.norm = ChannelLayerNorm(3 * channels)
        self.combine = InvertedResidual(3 * channels, channels)
        self.context = None
        if context:
            self.context = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.GELU())

    @staticmethod
    def align(channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, channels, 1), ChannelLayerNorm(channels), nn.GELU(), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, local_map: Tensor, global_map: Tensor, context: Tensor | None = None) -> Tensor:
        aligned_local, aligned_global = self.align_local(local_map), self.align_global(global_map)
        cross = self.cross(aligned_global, aligned_local if self.keys == "local" else aligned_global, aligned_local)
        w_cross, w_spatial, w_channel = self.mix.softmax(dim=0)
        mixed = w_cross * cross + w_spatial * self.spatial(aligned_local) + w_channel * self.channel(aligned_global)
        enhanced = mixed + self.enhance(mixed)
        combined = self.combine(self.norm(torch.cat([local_map, global_map, enhanced], dim=1)))
        if self.context is not None:
            combined = combined + self.context(context)
        return enhanced + combined
