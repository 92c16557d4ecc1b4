"""DEEN (Zhang et al., CVPR 2023): diverse embeddings by dilated branches, as its authors' code computes it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from common.options import option
from models.parts import mfa
from models.parts.layers import start_for_relu
from models.two_stream import TwoStreamNetwork


class DEEBranch(nn.Module):
    """The mean of three convolutions of dilation 1, 2 and 3 to C/4 channels, ReLU, and a conv1 back to C.

    x         (B, C, H, W)
    returns   (B, C, H, W)
    """

    def __init__(self, channels: int):
        super().__init__()
        self.dilated = nn.ModuleList(
            nn.Conv2d(channels, channels // 4, 3, padding=d, dilation=d, bias=False) for d in (1, 2, 3)
        )
        self.expand = nn.Conv2d(channels // 4, channels, 1)
        for conv in (*self.dilated, self.expand):
            start_for_relu(conv)

    def forward(self, x: Tensor) -> Tensor:
        mean = sum(conv(x) for conv in self.dilated) / len(self.dilated)
        return self.expand(F.relu(mean))


class DEE(nn.Module):
    """The plain map and two branches of it, stacked on the batch axis.

    x         (B, C, H, W)
    returns   (3B, C, H, W): rows plain, branch 1, branch 2
    """

    views = 3

    def __init__(self, channels: int, dropout: float):
        super().__init__()
        self.branch1, self.branch2 = DEEBranch(channels), DEEBranch(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(torch.cat([x, self.branch1(x), self.branch2(x)]))


class DEEN(TwoStreamNetwork):
    """Two-stream ResNet whose stages take up the map that entered them (MFA), three views (DEE) and one head.

    options   the MODEL section of the configuration
    classes   number of training identities
    """

    paper = "Zhang et al., CVPR 2023"
    options = TwoStreamNetwork.options | mfa.OPTIONS | {
        "DEE.DROPOUT": option(0.01, "on the three stacked views", at_least=0, below=1),
    }
    parts = ("early", "mfa", "dee", "last")
    authors_names = (
        (r"dee\.branch(\d)\.dilated\.(\d)\.", lambda m: f"DEE.FC{m[1]}{int(m[2]) + 1}."),
        (r"dee\.branch(\d)\.expand\.", r"DEE.FC\1."),
    )

    def __init__(self, options: CfgNode, classes: int):
        super().__init__(options, classes)
        self.build_mfa(options.MFA.POSITIONS)
        self.dee = DEE(self.backbone.channels[-2], options.DEE.DROPOUT)
        self.build_head(DEE.views)

    def encode(self, x: Tensor) -> Tensor:
        *early, last = self.backbone.stages
        for stage, fuse in zip(early, self.mfa):
            x = self.run("mfa", fuse, self.run("early", stage, x), x)
        return self.run("last", last, self.run("dee", self.dee, x))
