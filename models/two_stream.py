"""What the two-stream networks share: stems, the training pass, the test-time embedding."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from common.batch import Batch, Output
from models.network import Network, with_mirrored
from models.parts import backbone, head
from models.parts.backbone import Backbone, EitherStem
from models.parts.head import Head, unit
from models.parts.mfa import MFA, check_positions

# Entries that never influence an output: the stages inside the stems' ResNets, the stem of the shared one, the third
# path and the fourth compression of MBUE; in RegDB's shorter network also the shared stage 4 and context stage 3.
UNUSED = [
    r"(visible_module\.visible|thermal_module\.thermal)\.layer[1-4]\.",
    r"base_resnet\.base\.(conv1|bn1)\.",
    r"DEE\.(FC13|FC23|compression1)\.",
]
UNUSED_IN_THREE_STAGES = [r"base_resnet\.base\.layer4\.", r"layer5\.", r"MFA3\."]


class TwoStreamNetwork(Network):
    """A stem for each modality, a trunk that they share, one head.

    A method is a subclass that builds its trunk, then its head (`build_head`), and says in `encode` what the trunk
    computes.

    options   the MODEL section of the configuration
    classes   number of training identities
    """

    options = backbone.OPTIONS | head.OPTIONS
    # The test-time similarity is the sum over views of a·<pooled, pooled'> + b·<neck, neck'>; the first is reported.
    weightings: ClassVar = {"equal": (1.0, 1.0), "neck": (0.1, 0.9)}
    unit_after_flip = False  # whether the sum of an image's and its mirror image's features is normalised again
    parts: tuple[str, ...] = ("early", "last")  # what `run` is told, for MODEL.RECOMPUTE
    reads_modality = True
    own_stages = 0  # how many stages each modality has for itself, before those that are shared
    halves = 0  # how many stages have an MFA that cuts their positions in halves

    def __init__(self, options: CfgNode, classes: int):
        super().__init__(options, classes)
        stages = options.STAGES if "STAGES" in self.options else 4
        self.backbone = Backbone(options.BACKBONE, stages, options.PRETRAINED, own=self.own_stages)
        self.pool = options.POOL

    @classmethod
    def layout(cls, options: CfgNode) -> str:
        return f"{options.BACKBONE}, {options.STAGES} stages, a stem for each modality"

    def build_head(self, views: int) -> None:
        """
        views     embeddings of each image, stacked on the batch axis after the trunk
        """
        self.views = views
        self.head = Head(self.backbone.channels[-1], self.classes, self.pool)

    def build_mfa(self, positions: str) -> None:
        """An MFA for each stage but the last; the lower map has the channels of the stage before."""
        *early, _ = self.backbone.channels
        self.mfa = nn.ModuleList(
            MFA(high, low, downsample=i > 0, positions=positions)
            for i, (high, low) in enumerate(zip(early, [self.backbone.stem_channels, *early]))
        )
        self.halves = len(self.mfa) if positions == "halves" else 0

    def encode(self, x: Tensor) -> Tensor:
        """Stem output (B, 64, H/4, W/4) -> last map (views * B, D, H/16, W/16)."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Output:
        """The training pass: pooled and neck (V, B, D) and logits (V, B, classes) of all rows."""
        visible, infrared = batch.images(infrared=False), batch.images(infrared=True)
        check_positions(visible.shape[2], visible.shape[3], self.halves)
        maps = [                                                # no statistics are those of no image
            self.stem_map(images, is_infrared)
            for images, is_infrared in ((visible, False), (infrared, True)) if len(images)
        ]
        x = torch.cat(maps)                                     # (B, 64, H/4, W/4): here the modalities meet
        pooled, neck, logits = (self.by_view(y) for y in self.head(self.encode(x)))
        return Output(batch.rows, pooled=pooled, neck=neck, logits=logits)

    def stem_map(self, images: Tensor, infrared: bool) -> Tensor:
        """(B, 3, H, W) -> (B, 64, H/4, W/4), never in half precision: what is lost here, every stage amplifies."""
        stem = self.backbone.infrared_stem if infrared else self.backbone.visible_stem
        with torch.autocast(images.device.type, enabled=False):
            return stem(images)

    def by_view(self, x: Tensor) -> Tensor:
        """(views * B, …) -> (views, B, …)."""
        return x.unflatten(0, (self.views, -1))

    def features(self, images: Tensor, infrared: bool) -> tuple[Tensor, Tensor]:
        """L2-normalised pooled and neck features, each (views, B, D), of images (B, 3, H, W) of one modality."""
        check_positions(images.shape[2], images.shape[3], self.halves)
        pooled, neck = self.head.features(self.encode(self.stem_map(images, infrared)))
        return self.by_view(unit(pooled)), self.by_view(unit(neck))

    def embed(self, images: Tensor, infrared: bool, flip: bool = True) -> Tensor:
        """Pooled features of each view, then neck features of each view: E = 2 · views · D (`Network.embed`).

        flip   add the features of the horizontally flipped images
        """
        if flip:
            images = with_mirrored(images)
        parts = torch.cat(self.features(images, infrared))     # (2 * views, B or 2B, D)
        if flip:
            plain, mirrored = parts.chunk(2, dim=1)
            parts = unit(plain + mirrored) if self.unit_after_flip else plain + mirrored
        return parts.transpose(0, 1).flatten(1)

    def last_map(self, infrared: bool = False) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        return self.backbone.stages[-1], lambda last: self.by_view(self.head(last)[2])

    def keep_for_embedding(self, modality: str) -> None:
        stems = self.backbone
        if modality == "both":
            stems.visible_stem = EitherStem(stems.visible_stem, stems.infrared_stem)
        delattr(stems, "visible_stem" if modality == "infrared" else "infrared_stem")
        del self.head.classifier

    def authors_unused(self) -> list[str]:
        return UNUSED + (UNUSED_IN_THREE_STAGES if len(self.backbone.stages) == 3 else [])

    def column_scale(self, weighting: str) -> Tensor:
        width = self.views * self.head.classifier.in_features
        pooled, neck = self.weightings[weighting]
        return torch.tensor([pooled, neck]).sqrt().repeat_interleave(width)
