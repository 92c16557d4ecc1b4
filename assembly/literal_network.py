"""The network and its losses written as docs/method.md says them, without the shortcuts of models/ and losses/.

For measurements and tests only: `scripts/benchmark_training.py` reports how much the shortcuts save, and
`tests/test_benchmark_training.py` that both ways compute the same. Only what models/ and losses/ compute in another
way than it is written stands here; the rest is theirs. Parts that never influence an output are not built here either.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.cpm import CPMLoss
from losses.dcl import DCLLoss
from losses.labels import full_precision
from losses.triplet import TripletLoss
from models.parts.hce import HCE
from models.parts.layers import ChannelLayerNorm, HaarConv, WindowAttention
from models.parts.mfa import ChannelNonLocal, PositionNonLocal


class LiteralHCE(HCE):
    """Section 2: the three outputs are concatenated and go through the conv1."""

    def forward(self, x: Tensor) -> Tensor:
        context, outputs = x, []
        for conv in self.dilated:
            context = conv(context)
            outputs.append(context)
        return self.shortcut(x) + self.fuse(torch.cat(outputs, dim=1))


class LiteralChannelNonLocal(ChannelNonLocal):
    """Section 3: the affinity of all pairs of channels first, then its product with g."""

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        theta, phi, g = self.theta(high).flatten(2), self.phi(low).flatten(2), self.g(low).flatten(2)
        affinity = torch.matmul(theta, phi.transpose(1, 2)) / g.shape[1]         # (B, low, low)
        y = torch.matmul(affinity, g)                                            # (B, low, H'W')
        return high + self.out(y.unflatten(2, low.shape[2:]))


class LiteralPositionNonLocal(PositionNonLocal):
    """Section 3: the affinity of all pairs of positions first, then its product with g."""

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        theta, phi, g = self.fold(self.theta(high)), self.fold(self.phi(low)), self.fold(self.g(low))
        affinity = torch.matmul(theta.transpose(1, 2), phi) / phi.shape[2]       # (B, M_h/2, M_l/2) for halves
        y = torch.matmul(affinity, g.transpose(1, 2)).transpose(1, 2).contiguous()
        return high + self.out(self.unfold(y, high.shape[2:]))


class LiteralChannelLayerNorm(ChannelLayerNorm):
    """Channels are copied to the end, and back."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(x.permute(0, 2, 3, 1).contiguous(), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2).contiguous()


class LiteralHaarConv(HaarConv):
    """Section 5.6: the transform is a grouped convolution with fixed filters, its inverse the transposed one."""

    filters: Tensor  # (4C, 1, 2, 2)

    def prepare(self) -> None:
        signs = [[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]  # average, top - bottom, left - right
        filters = torch.tensor(signs).to(self.base.weight).reshape(4, 1, 2, 2) / 2
        self.register_buffer("filters", filters.repeat(self.base.in_channels, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = x.shape[1:]
        even = F.pad(x, (0, width % 2, 0, height % 2))
        bands = F.conv2d(even, self.filters, stride=2, groups=channels)
        bands = self.wavelet_scale * self.wavelet(bands)
        detail = F.conv_transpose2d(bands, self.filters, stride=2, groups=channels)
        return self.base_scale * self.base(x) + detail[..., :height, :width]


class LiteralWindowAttention(WindowAttention):
    """Section 4: zero-padded, rolled, cut into windows; the projections and the softmax over all of it, padding too."""

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        w, heads = self.window, self.heads
        x = F.pad(x, (0, 0, 0, -width % w, 0, -height % w))
        rows, columns = x.shape[1] // w, x.shape[2] // w
        x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        windows = x.view(batch, rows, w, columns, w, channels).permute(0, 1, 3, 2, 4, 5).contiguous()
        tokens = windows.view(-1, w * w, channels)

        q, k, v = self.qkv(tokens).view(-1, w * w, 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
        affinity = (q * (channels // heads) ** -0.5) @ k.transpose(-2, -1)       # (windows, heads, w*w, w*w)
        bias = self.bias_table[self.bias_index.flatten()].view(w * w, w * w, heads).permute(2, 0, 1).contiguous()
        attention = torch.softmax(affinity + bias, dim=-1)
        y = self.project((attention @ v).transpose(1, 2).reshape(-1, w * w, channels))

        y = y.view(batch, rows, columns, w, w, channels).permute(0, 1, 3, 2, 4, 5).contiguous()
        y = torch.roll(y.view(batch, rows * w, columns * w, channels), (self.shift, self.shift), dims=(1, 2))
        return y[:, :height, :width].contiguous()


class LiteralTripletLoss(TripletLoss):
    """Section 7, one anchor after the other."""

    def forward(self, features: Tensor, labels: Tensor, infrared: Tensor) -> Tensor:
        features = full_precision(features)
        squares = features.pow(2).sum(dim=1, keepdim=True)
        distance = (squares + squares.t() - 2 * features @ features.t()).clamp(min=1e-12).sqrt()
        same = labels[:, None] == labels[None, :]
        farthest = torch.stack([distance[i][same[i]].max() for i in range(len(labels))])
        nearest = torch.stack([distance[i][~same[i]].min() for i in range(len(labels))])
        return F.relu(farthest - nearest + self.margin).mean()


class LiteralCPMLoss(CPMLoss):
    """Section 7, one identity after the other; every one needs images in both modalities, and another beside it."""

    def forward(self, plain: Tensor, branch: Tensor, labels: Tensor, infrared: Tensor) -> Tensor:
        people = labels.unique().tolist()

        def centers(features: Tensor, modality: bool) -> list[Tensor]:
            features = full_precision(features)
            return [features[(labels == i) & (infrared == modality)].mean(dim=0) for i in people]

        def distances(x: list[Tensor], y: list[Tensor]) -> Tensor:
            return torch.stack([torch.dist(x_i, y_i) for x_i, y_i in zip(x, y)])

        def nearest(x: list[Tensor]) -> Tensor:
            others = [[torch.dist(x[i], x[j]) for j in range(len(x)) if j != i] for i in range(len(x))]
            return torch.stack([torch.stack(row).min() for row in others])

        def hinge(negative: Tensor, positive: Tensor) -> Tensor:
            return F.relu(positive - negative + self.margin).mean()

        def one_way(x: list[Tensor], x_branch: list[Tensor], y: list[Tensor]) -> Tensor:
            gap = distances(y, x_branch)
            return hinge(distances(x, x_branch).detach(), gap) \
                + (hinge(nearest(x_branch), gap) + hinge(nearest(x), gap)) / 2

        a, b = centers(plain, False), centers(plain, True)
        a_branch, b_branch = centers(branch, False), centers(branch, True)
        return (one_way(a, a_branch, b) + one_way(b, b_branch, a)) / 2


class LiteralDCLLoss(DCLLoss):
    """Section 7, one identity after the other; each needs negatives at different distances."""

    def forward(self, features: Tensor, labels: Tensor, infrared: Tensor) -> Tensor:
        features = full_precision(features)
        own, other = [], []
        for i in labels.unique().tolist():
            center = features[labels == i].mean(dim=0)
            own.append((features[labels == i] - center).norm(dim=1).mean())
            negatives = (features[labels != i] - center).norm(dim=1)
            other.append(negatives[negatives < negatives.mean()].mean())
        return torch.stack(own).mean() / torch.stack(other).mean()


LITERAL = {
    fast: literal for literal in (
        LiteralHCE, LiteralChannelNonLocal, LiteralPositionNonLocal, LiteralChannelLayerNorm, LiteralHaarConv,
        LiteralWindowAttention, LiteralTripletLoss, LiteralCPMLoss, LiteralDCLLoss,
    ) for fast in literal.__bases__
}


def make_literal(module: nn.Module) -> nn.Module:
    """The same module, a CMFN or a TotalLoss, with the literal forward passes; parameters and state dict stay.

    raises   ValueError if there is nothing in it to compute literally
    """
    found = [part for part in module.modules() if type(part) in LITERAL]
    if not found:
        raise ValueError(f"{type(module).__name__} has no part that assembly/literal_network.py knows")
    for part in found:
        part.__class__ = LITERAL[type(part)]  # it differs in `forward` alone, so nothing has to be copied
        if isinstance(part, LiteralHaarConv):
            part.prepare()
    return module


def make_literal_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The same optimiser, updating one parameter after the other."""
    for group in optimizer.param_groups:
        group["foreach"] = group["fused"] = False
    return optimizer
