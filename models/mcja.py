"""MCJA (Liang et al., TCSVT 2024, "Bridging the Gap"): one ResNet with MDA blocks, as its authors' code computes it."""

from collections.abc import Callable
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from common.batch import Batch, Output
from common.options import option
from models.network import Network, mirrored_added, with_mirrored
from models.parts import backbone
from models.parts.backbone import Backbone, after_last
from models.parts.head import GeM, unit
from models.parts.layers import full_precision

ATTENDED = (0, 2, 3, 0)  # after how many of the last blocks of each stage there is an MDA


class MDA(nn.Module):
    """MDA: each channel gets a gate by what it holds where some masks look.

    x         (B, C, H, W)
    masks     m, each a softmax over positions
    returns   (B, C, H, W): x + BN(x · gate), which at the start is x
    """

    def __init__(self, channels: int, masks: int):
        super().__init__()
        self.masks = nn.Conv2d(channels, masks, 1)
        self.mix = nn.Conv1d(channels, channels, masks, groups=channels, bias=False)  # m weights of each channel
        self.gate_norm = nn.BatchNorm1d(channels)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        masks = full_precision(self.masks(x)).flatten(2).softmax(dim=2).to(x.dtype)  # (B, m, HW)
        seen = x.flatten(2) @ masks.transpose(1, 2)                                  # (B, C, m)
        gate = self.gate_norm(self.mix(seen).flatten(1)).sigmoid()                   # (B, C)
        return x + self.norm(x * gate[:, :, None, None])


class AttendedStage(nn.Module):
    """A ResNet stage with an MDA after each of its last blocks.

    x         (B, C, H, W)
    returns   (B, C', H', W')
    """

    def __init__(self, blocks: nn.Sequential, channels: int, count: int, masks: int):
        super().__init__()
        self.blocks = blocks
        self.mda = nn.ModuleList(MDA(channels, masks) for _ in range(min(count, len(blocks))))

    def forward(self, x: Tensor) -> Tensor:
        return after_last(self.blocks, self.mda, x)


class MCJA(Network):
    """One ResNet for both modalities with MDA blocks, GeM, a batch norm as neck, one classifier.

    Nothing depends on an image's modality, so a batch may have any mix of both.

    options   the MODEL section of the configuration
    classes   C, number of training identities
    """

    options = backbone.OF_ITS_KIND | {
        "MCJA.MASKS": option(2, "masks of each MDA block; its authors take 12 on RegDB; 0: no such blocks",
                             at_least=0, at_most=100),
    }
    paper = "Liang et al., TCSVT 2024"
    weightings: ClassVar = {"neck": (1.0,)}
    parts = ("early", "last")
    neck_and_classifiers = ("neck.", "classifier.")
    authors_names = (
        (r"stem\.0\.", "backbone.conv1."),
        (r"stem\.1\.", "backbone.bn1."),
        (r"stages\.(\d)\.mda\.(\d)\.masks\.", lambda m: f"MDA_{int(m[1]) + 1}.{m[2]}.sc_conv."),
        (r"stages\.(\d)\.mda\.(\d)\.mix\.", lambda m: f"MDA_{int(m[1]) + 1}.{m[2]}.ca_conv."),
        (r"stages\.(\d)\.mda\.(\d)\.gate_norm\.", lambda m: f"MDA_{int(m[1]) + 1}.{m[2]}.ca_bn."),
        (r"stages\.(\d)\.mda\.(\d)\.norm\.", lambda m: f"MDA_{int(m[1]) + 1}.{m[2]}.norm_bn."),
        (r"stages\.(\d)\.(?:blocks\.)?", lambda m: f"backbone.layer{int(m[1]) + 1}."),
        (r"neck\.", "bn_neck."),
        (r"classifier\.", "classifier."),
    )

    def __init__(self, options: CfgNode, classes: int):
        super().__init__(options, classes)
        resnet = Backbone(options.BACKBONE, pretrained=options.PRETRAINED, last_stride=2)
        self.stem, self.stages = resnet.visible_stem, resnet.stages
        for i, (channels, count) in enumerate(zip(resnet.channels, ATTENDED)):
            if count and options.MCJA.MASKS:
                self.stages[i] = AttendedStage(cast(nn.Sequential, self.stages[i]), channels, count, options.MCJA.MASKS)
        width = resnet.channels[-1]                               # D
        self.pool = GeM(width, learned=False)
        self.neck = nn.BatchNorm1d(width)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(width, classes, bias=False)

    @classmethod
    def layout(cls, options: CfgNode) -> str:
        return f"{options.BACKBONE}, one stem for both modalities"

    def forward(self, batch: Batch) -> Output:
        """The training pass: pooled and neck (1, B, D), logits (1, B, C)."""
        pooled, neck = self.features(batch.images())              # both modalities meet in the stem already
        return Output(batch.rows, pooled=pooled[None], neck=neck[None], logits=self.classifier(neck)[None])

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> pooled and neck feature, (B, D) each."""
        pooled = self.pool(self.encode(images))
        return pooled, self.neck(pooled)

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> last map (B, D, H/32, W/32), nowhere negative."""
        with torch.autocast(images.device.type, enabled=False):   # what is lost here, every stage amplifies
            x = self.stem(images)                                 # (B, 64, H/4, W/4)
        *early, last = self.stages
        for stage in early:
            x = self.run("early", stage, x)
        return self.run("last", last, x)

    def embed(self, images: Tensor, infrared: bool, flip: bool = True) -> Tensor:
        """The neck's feature of length 1: E = D. One network for both modalities (`Network.embed`).

        flip   take the mean with the feature of the mirrored images, and bring it to length 1
        """
        _, neck = self.features(with_mirrored(images) if flip else images)
        return unit(mirrored_added(unit(neck))) if flip else unit(neck)

    def column_scale(self, weighting: str) -> Tensor:
        return torch.ones(self.neck.num_features)

    def authors_unused(self) -> list[str]:
        return [r"backbone\.fc\."]                               # ImageNet's classifier, where it was kept

    def last_map(self, infrared: bool = False) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        return self.stages[-1], lambda last: self.classifier(self.neck(self.pool(last)))[None]

    def keep_for_embedding(self, modality: str) -> None:
        del self.classifier
