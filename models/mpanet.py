"""MPANet (Wu et al., CVPR 2021): six pattern masks and mutual mean learning, as its authors' code computes it."""

from collections.abc import Callable
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from common.batch import Batch, Output
from common.options import option
from models.network import Network, mirrored_added, with_mirrored
from models.parts import backbone
from models.parts.backbone import Backbone
from models.parts.head import unit
from models.parts.layers import full_precision

MASKS = 6


class ModalityAlleviation(nn.Module):
    """MAM: each channel is a mix of itself and of its instance norm, by a gate that all positions decide.

    x         (B, C, H, W)
    returns   (B, C, H, W), in float32 at least: s·x + (1 - s)·IN(x), IN without weight, bias or running statistics
    """

    def __init__(self, channels: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.expand = nn.Conv2d(channels // 16, channels, 1, bias=False)
        for conv in (self.reduce, self.expand):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.relu(self.reduce(x.mean(dim=(2, 3), keepdim=True)))).sigmoid()
        with torch.autocast(x.device.type, enabled=False):  # means and variances over positions
            x, gate = full_precision(x), full_precision(gate)
            return gate * x + (1 - gate) * F.instance_norm(x)


def running_rate(epoch: int) -> float:
    """How far the mean classifiers go towards the trained ones in an update."""
    return 0.2 * min(1, 100 / (epoch + 2))


class MPANet(Network):
    """One ResNet for both modalities, two MAMs, seven parts (six masks, then the whole map), five classifiers.

    Running means of the visible and the infrared classifier judge the other modality's images; they are buffers.

    options   the MODEL section of the configuration
    classes   C, number of training identities
    """

    options = backbone.OF_ITS_KIND | {
        "MPANET.RANKING": option("cosine", "of neck features; distance is the authors' on RegDB, of features as they "
                                 "are", one_of=("cosine", "distance")),
    }
    weightings: ClassVar = {"neck": (1.0,)}
    paper = "Wu et al., CVPR 2021"
    parts = ("early", "last")
    authors_names = (
        (r"stem\.0\.", "backbone.conv1."),
        (r"stem\.1\.", "backbone.bn1."),
        (r"stages\.(\d)\.", lambda m: f"backbone.layer{int(m[1]) + 1}."),
        (r"alleviate(\d)\.reduce\.", r"backbone.MAM\1.channel_attention.0."),
        (r"alleviate(\d)\.expand\.", r"backbone.MAM\1.channel_attention.2."),
        (r"masks\.", "spatial_attention."),
        (r"neck\.", "bn_neck."),
        (r"(visible|infrared)_mean$", r"\1_classifier_.weight"),
        (r"((?:visible_|infrared_)?classifier)\.", r"\1."),
    )

    visible_mean: Tensor                                          # (C, D)
    infrared_mean: Tensor                                         # (C, D)

    def __init__(self, options: CfgNode, classes: int):
        super().__init__(options, classes)
        if options.MPANET.RANKING == "distance":
            self.only_across, self.reads_modality = "MODEL.MPANET.RANKING distance", True
        resnet = Backbone(options.BACKBONE, stages=4, pretrained=options.PRETRAINED)
        self.stem, self.stages = resnet.visible_stem, resnet.stages
        *_, third, last = resnet.channels
        self.alleviate3, self.alleviate4 = ModalityAlleviation(third), ModalityAlleviation(last)
        self.masks = nn.Conv2d(last, MASKS, 1)
        nn.init.zeros_(cast(Tensor, self.masks.bias))
        width = (MASKS + 1) * last                                # D
        self.neck = nn.BatchNorm1d(width)
        self.neck.bias.requires_grad_(False)
        self.classifier, self.visible_classifier, self.infrared_classifier = (
            nn.Linear(width, classes, bias=False) for _ in range(3)
        )
        self.register_buffer("visible_mean", self.visible_classifier.weight.detach().clone())
        self.register_buffer("infrared_mean", self.infrared_classifier.weight.detach().clone())

    @classmethod
    def layout(cls, options: CfgNode) -> str:
        return f"{options.BACKBONE}, one stem for both modalities"

    def forward(self, batch: Batch) -> Output:
        """The training pass. All entries have one view (V = 1).

        pooled, neck   (1, B, D)
        logits         (1, B, C): of all rows' classifier
        own_logits     (1, B, C): of the classifier of a row's modality
        other_logits   (1, B, C): of the other modality's running mean, without gradient
        overlap        (1, B): of each pair of masks, summed over positions, mean over pairs
        """
        rows = batch.rows
        last = self.encode(batch.images())                        # both modalities meet in the stem already
        masks = self.masks_of(last)
        pooled = self.pool(last, masks)
        neck = self.neck(pooled)
        visible = sum(size for size, kind in zip(rows.sizes, rows.kinds) if not kind.infrared)
        own = torch.cat([self.visible_classifier(neck[:visible]), self.infrared_classifier(neck[visible:])])
        with torch.no_grad():
            other = torch.cat([neck[:visible] @ self.infrared_mean.T, neck[visible:] @ self.visible_mean.T])
        entries = {
            "pooled": pooled, "neck": neck, "logits": self.classifier(neck), "own_logits": own, "other_logits": other,
            "overlap": overlap(masks),
        }
        return Output(rows, **{name: entry[None] for name, entry in entries.items()})

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> last map (B, C', H/16, W/16), which is negative in places."""
        with torch.autocast(images.device.type, enabled=False):   # what is lost here, every stage amplifies
            x = self.stem(images)                                 # (B, 64, H/4, W/4)
        *early, last = self.stages
        for stage in early:
            x = self.run("early", stage, x)
        return self.alleviate4(self.run("last", last, self.alleviate3(x)))

    def masks_of(self, last: Tensor) -> Tensor:
        """(B, C', h, w) -> (B, 6, h, w) in 0 to 1."""
        return full_precision(self.masks(last)).sigmoid()

    def pool(self, last: Tensor, masks: Tensor) -> Tensor:
        """(B, C', h, w), (B, 6, h, w) -> (B, D): means over all positions of mask · map, and of the map."""
        with torch.autocast(last.device.type, enabled=False):
            maps, masks = full_precision(last).flatten(2), full_precision(masks).flatten(2)
            parts = masks @ maps.transpose(1, 2) / maps.shape[2]  # (B, 6, C')
            return torch.cat([parts.flatten(1), maps.mean(dim=2)], dim=1)

    @torch.no_grad()
    def before_update(self, epoch: int) -> None:
        """The mean classifiers follow the trained ones."""
        rate = running_rate(epoch)
        self.visible_mean.lerp_(self.visible_classifier.weight, rate)
        self.infrared_mean.lerp_(self.infrared_classifier.weight, rate)

    def embed(self, images: Tensor, infrared: bool, flip: bool = True) -> Tensor:
        """The neck's feature of length 1: E = D. One network for both modalities (`Network.embed`).

        With MODEL.MPANET.RANKING distance, as it is and with two numbers more: `for_distances`.

        flip   take the mean with the feature of the mirrored images, and bring it to length 1
        """
        last = self.encode(with_mirrored(images) if flip else images)
        neck = self.neck(self.pool(last, self.masks_of(last)))
        if self.only_across:
            return for_distances(mirrored_added(neck) / 2 if flip else neck, infrared)
        return unit(mirrored_added(unit(neck))) if flip else unit(neck)

    def column_scale(self, weighting: str) -> Tensor:
        return torch.ones(self.neck.num_features + 2 * bool(self.only_across))

    def last_map(self, infrared: bool = False) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        return self.alleviate4, lambda last: self.classifier(self.neck(self.pool(last, self.masks_of(last))))[None]

    def keep_for_embedding(self, modality: str) -> None:
        for name in ("classifier", "visible_classifier", "infrared_classifier", "visible_mean", "infrared_mean"):
            delattr(self, name)


def for_distances(features: Tensor, infrared: bool) -> Tensor:
    """(B, D) -> (B, D + 2): the inner product of a visible and an infrared row is -½ of their squared distance."""
    half = -features.square().sum(dim=1, keepdim=True) / 2
    ones = torch.ones_like(half)
    return torch.cat([features, *((half, ones) if infrared else (ones, half))], dim=1)


def overlap(masks: Tensor) -> Tensor:
    """(B, 6, h, w) -> (B,): products of the 15 pairs of masks, summed over positions, mean over pairs."""
    pairs = MASKS * (MASKS - 1) / 2
    return (masks.sum(dim=1).square() - masks.square().sum(dim=1)).sum(dim=(1, 2)) / 2 / pairs
