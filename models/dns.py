"""DNS (Jiang et al., ECCV 2024): domain shifting for the map and the feature, as its authors' code computes it."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from common.batch import Batch, Output
from common.options import option
from models.parts import backbone
from models.parts.domain_shift import CSS, HSS
from models.two_stream import TwoStreamNetwork

THEIRS = {"visible": "visible.visible", "infrared": "thermal.thermal"}
RUNNING_RATE = 0.2  # how far the mean classifiers go towards the trained ones in an update


class DNS(TwoStreamNetwork):
    """Stem and first two stages for each modality, two shared ones with gates (HSS), one head with GeM.

    In training only: CSS, a feature beside the head's, and a classifier of each modality, whose running means judge the
    other modality's images; they are buffers.

    options   the MODEL section of the configuration
    classes   C, number of training identities
    """

    options = backbone.OF_ITS_KIND | {
        "DNS.HSS": option(True, "gates of rows and columns after the shared stages, or none"),
        "DNS.CSS": option(True, "the shifted feature beside the head's in training, or none"),
        "DNS.DROPOUT": option(0.01, "of CSS", at_least=0, below=1),
        "DNS.NECK_BIAS": option(True, "the neck's bias is trained, too; false: it stays 0"),
        "DNS.STAGE3_LR_FACTOR": option(0.2, "the third stage learns at this fraction of the base rate", at_least=0,
                                       at_most=100),
        "DNS.STAGE4_LR_FACTOR": option(0.25, "likewise the fourth", at_least=0, at_most=100),
    }
    paper = "Jiang et al., ECCV 2024"
    weightings: ClassVar = {"neck": (0.0, 1.0), "pooled": (1.0, 0.0)}
    parts = ("early", "last")
    own_stages = 2
    neck_and_classifiers = (*TwoStreamNetwork.neck_and_classifiers, "visible_classifier.", "infrared_classifier.")
    authors_names = (
        (r"backbone\.(visible|infrared)_stem\.stem\.0\.", lambda m: f"{THEIRS[m[1]]}.conv1."),
        (r"backbone\.(visible|infrared)_stem\.stem\.1\.", lambda m: f"{THEIRS[m[1]]}.bn1."),
        (r"backbone\.(visible|infrared)_stem\.stages\.(\d)\.", lambda m: f"{THEIRS[m[1]]}.layer{int(m[2]) + 1}."),
        (r"backbone\.stages\.(\d)\.", lambda m: f"base.base.layer{int(m[1]) + 3}."),
        (r"shift(\d)\.reduce\.", r"base.HSS\1.channel_attention."),
        (r"shift(\d)\.rows\.", r"base.HSS\1.conv_h."),
        (r"shift(\d)\.columns\.", r"base.HSS\1.conv_w."),
        (r"css\.", "CSS."),
        (r"(visible|infrared)_mean$", r"DD.\1_classifier_.weight"),
        (r"(visible|infrared)_classifier\.", r"DD.\1_classifier."),
    )

    @classmethod
    def layout(cls, options: CfgNode) -> str:
        return f"{options.BACKBONE}, 4 stages, a stem and the first two of them for each modality"

    visible_mean: Tensor                                          # (C, D)
    infrared_mean: Tensor                                         # (C, D)

    def __init__(self, options: CfgNode, classes: int):
        super().__init__(options, classes)
        self.rates = {start: 1.0 for start in self.neck_and_classifiers} | {
            "backbone.stages.0.": options.DNS.STAGE3_LR_FACTOR, "backbone.stages.1.": options.DNS.STAGE4_LR_FACTOR,
        }
        third, last = self.backbone.channels
        self.shift3: nn.Module = HSS(third) if options.DNS.HSS else nn.Identity()
        self.shift4: nn.Module = HSS(last) if options.DNS.HSS else nn.Identity()
        self.pool = "gem"
        self.build_head(views=1)
        self.head.neck.bias.requires_grad_(options.DNS.NECK_BIAS)
        self.css = CSS(last, options.DNS.DROPOUT) if options.DNS.CSS else None
        self.visible_classifier, self.infrared_classifier = (nn.Linear(last, classes, bias=False) for _ in range(2))
        self.register_buffer("visible_mean", self.visible_classifier.weight.detach().clone())
        self.register_buffer("infrared_mean", self.infrared_classifier.weight.detach().clone())

    def forward(self, batch: Batch) -> Output:
        """The training pass. U features of each row have modality logits: the neck's, and the shifted one.

        pooled, neck   (1, B, D)
        logits         (1, B, C): of all rows' classifier
        shifted        (U - 1, B, D): of CSS
        own_logits     (U, B, C): of the classifier of a row's modality
        other_logits   (U, B, C): of the other modality's running mean, without gradient
        """
        rows = batch.rows
        visible, infrared = batch.images(infrared=False), batch.images(infrared=True)
        x = torch.cat([self.stem_map(visible, infrared=False), self.stem_map(infrared, infrared=True)])
        last = self.encode(x)                                       # (B, D, H/16, W/16)
        pooled, neck, logits = (self.by_view(y) for y in self.head(last))
        shifted = [self.css(last.mean(dim=(2, 3)))] if self.css is not None else []
        judged = torch.stack([*neck, *shifted])                     # (U, B, D)
        sizes = len(visible), len(infrared)
        return Output(
            rows, pooled=pooled, neck=neck, logits=logits, shifted=judged[1:],
            own_logits=each_by(judged, sizes, self.visible_classifier.weight, self.infrared_classifier.weight),
            other_logits=each_by(judged.detach(), sizes, self.infrared_mean, self.visible_mean),
        )

    def stem_map(self, images: Tensor, infrared: bool) -> Tensor:
        """(B, 3, H, W) -> (B, C', H/8, W/8), by the stem and the stages of the modality."""
        stem = self.backbone.infrared_stem if infrared else self.backbone.visible_stem
        return self.run("early", stem, images)

    def encode(self, x: Tensor) -> Tensor:
        """(B, C', H/8, W/8) -> last map (B, D, H/16, W/16)."""
        third, last = self.backbone.stages
        return self.shift4(self.run("last", last, self.shift3(self.run("early", third, x))))

    @torch.no_grad()
    def before_update(self, epoch: int) -> None:
        """The mean classifiers follow the trained ones."""
        self.visible_mean.lerp_(self.visible_classifier.weight, RUNNING_RATE)
        self.infrared_mean.lerp_(self.infrared_classifier.weight, RUNNING_RATE)

    def parameter_groups(self, base_lr: float, factor: float) -> list[dict]:
        """A group for each rate: neck and classifiers, third and fourth stage, rest (`Network.parameter_groups`)."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                rate = next((rate for start, rate in self.rates.items() if name.startswith(start)), factor)
                groups.setdefault(rate, []).append(parameter)
        return [{"params": parameters, "base_lr": base_lr * rate} for rate, parameters in groups.items()]

    def last_map(self, infrared: bool = False) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        return self.shift4, lambda last: self.by_view(self.head(last)[2])

    def keep_for_embedding(self, modality: str) -> None:
        super().keep_for_embedding(modality)
        for name in ("css", "visible_classifier", "infrared_classifier", "visible_mean", "infrared_mean"):
            delattr(self, name)

    def authors_unused(self) -> list[str]:
        """The stages of the shared ResNet that each modality has for itself."""
        return [r"base\.base\.layer[12]\."]


def each_by(features: Tensor, sizes: tuple[int, int], visible: Tensor, infrared: Tensor) -> Tensor:
    """Logits (U, B, C) of features (U, B, D), of which `sizes` rows are visible, then infrared, by weights (C, D)."""
    first, second = features.split(sizes, dim=1)
    return torch.cat([F.linear(first, visible), F.linear(second, infrared)], dim=1)
