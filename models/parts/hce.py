"""HCE, the hierarchical context extractor: dilated context beside the backbone (docs/method.md section 2)."""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from common.options import option
from models.parts.layers import conv_bn

OPTIONS = {
    "HCE.ENABLED": option(True, "the context branch and its fusion (MFA); off builds neither"),
    "HCE.DILATIONS": option([2, 3, 5], "of the three chained convolutions; as drawn: 1, 2, 3",
                            at_least=1, at_most=64),
    "HCE.THIRD": option("bottleneck", "third context stage: bottleneck (dilated), or hce as drawn",
                        one_of=("bottleneck", "hce")),
}


class HCE(nn.Module):
    """Three chained dilated convolutions, their outputs fused by a conv1, plus a conv1 shortcut.

    x         (B, c_in, H, W)
    returns   (B, c_out, H, W)
    """

    def __init__(self, c_in: int, c_mid: int, c_out: int, dilations: tuple[int, ...] = (2, 3, 5)):
        super().__init__()
        self.c_mid = c_mid
        inputs = [c_in] + [c_mid] * (len(dilations) - 1)
        self.dilated = nn.ModuleList(conv_bn(c, c_mid, 3, dilation=d) for c, d in zip(inputs, dilations))
        self.fuse = conv_bn(len(dilations) * c_mid, c_out, 1)
        self.shortcut = conv_bn(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        # A conv1 of the concatenated outputs is the sum of one over each: the concatenation need not be kept.
        parts = cast(nn.Conv2d, self.fuse[0]).weight.split(self.c_mid, dim=1)
        context = x
        fused: Tensor | int = 0
        for conv, weight in zip(self.dilated, parts):
            context = conv(context)
            fused = fused + F.conv2d(context, weight)
        return self.shortcut(x) + self.fuse[1:](fused)


class DilatedBottleneck(nn.Module):
    """The third context stage as the paper's results were made: a residual bottleneck with dilation 5.

    x         (B, C, H, W)
    returns   (B, C, H, W), not rectified
    """

    def __init__(self, channels: int, dilation: int = 5):
        super().__init__()
        inner = channels // 2
        self.reduce = conv_bn(channels, inner, 1)
        self.dilated = conv_bn(inner, inner, 3, dilation=dilation)
        self.expand = conv_bn(inner, channels, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.expand(self.dilated(self.reduce(x)))


def context_stages(
    stem: int, stages: list[int], dilations: tuple[int, ...] = (2, 3, 5), third: str = "bottleneck"
) -> nn.ModuleList:
    """One context stage for each backbone stage that MFA fuses, each keeping the resolution of its input.

    stem      channels of the stem's output
    stages    output channels of the backbone stages to accompany, two or three of them
    third     what the third context stage is: "bottleneck" (the authors' code) or "hce" (the paper's figure)
    """
    first = stages[0]
    modules = [
        nn.Sequential(HCE(stem, first // 2, first, dilations), HCE(first, first, stem, dilations)),
        HCE(first, first, first, dilations),
    ]
    if len(stages) == 3:
        c = stages[1]
        modules.append(DilatedBottleneck(c) if third == "bottleneck" else HCE(c, c // 2, c, dilations))
    return nn.ModuleList(modules)
