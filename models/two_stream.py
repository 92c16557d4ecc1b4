"""What the two-stream networks share: stems, the training pass, the test-time embedding."""

import torch
from torch import Tensor, nn

from models.parts.backbone import Backbone
from models.parts.head import Head, Output, unit
from models.parts.layers import recompute
from models.parts.mfa import MFA, check_positions


class MethodError(ValueError):
    """The configuration asks for a network, or a part of one, that there isn't."""


class TwoStreamNetwork(nn.Module):
    """A stem for each modality, a trunk that they share, one head.

    A method is a subclass that builds its trunk, then its head (`build_head`), and says in `encode` what the trunk
    computes.

    options   the MODEL section of the configuration (configs/defaults.py explains each key)
    """

    # The test-time similarity is the sum over views of a·<pooled, pooled'> + b·<neck, neck'>; the first is reported.
    weightings = {"equal": (1.0, 1.0), "neck": (0.1, 0.9)}
    unit_after_flip = False  # whether the sum of an image's and its mirror image's features is normalised again
    parts = ("early", "last")  # what `run` is told, for MODEL.RECOMPUTE
    authors_names = ()  # (pattern of our name's start, theirs) for what models/authors_checkpoint.py doesn't know
    halves = 0  # how many stages have an MFA that cuts their positions in halves

    def __init__(self, options):
        super().__init__()
        self.backbone = Backbone(options.BACKBONE, options.STAGES, options.PRETRAINED)
        self.recomputed, self.pool = frozenset(options.RECOMPUTE), options.POOL
        unknown = self.recomputed - {*self.parts}
        if unknown:
            raise MethodError(
                f"MODEL.RECOMPUTE has {', '.join(sorted(unknown))}; the parts of {options.NAME} are "
                f"{', '.join(self.parts)}"
            )

    def build_head(self, classes: int, views: int) -> None:
        """
        classes   number of training identities
        views     embeddings of each image, stacked on the batch axis after the trunk
        """
        self.views = views
        self.head = Head(self.backbone.channels[-1], classes, self.pool)

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

    def forward(self, visible: Tensor, infrared: Tensor) -> Output:
        """The training pass.

        visible, infrared   (B_vis, 3, H, W) and (B_ir, 3, H, W), normalised images
        returns             Output of B = B_vis + B_ir rows, visible before infrared
        """
        check_positions(*visible.shape[2:], self.halves)
        visible_map = self.stem_map(visible, infrared=False)
        infrared_map = self.stem_map(infrared, infrared=True)
        x = torch.cat([visible_map, infrared_map])              # (B, 64, H/4, W/4): here the modalities meet
        pooled, neck, logits = (self.by_view(y) for y in self.head(self.encode(x)))
        is_infrared = torch.arange(len(x), device=x.device) >= len(visible_map)
        return Output(pooled, neck, logits, is_infrared)

    def stem_map(self, images: Tensor, infrared: bool) -> Tensor:
        """(B, 3, H, W) -> (B, 64, H/4, W/4), never in half precision: what is lost here, every stage amplifies."""
        stem = self.backbone.infrared_stem if infrared else self.backbone.visible_stem
        with torch.autocast(images.device.type, enabled=False):
            return stem(images)

    def run(self, part: str, module: nn.Module, *inputs: Tensor) -> Tensor:
        return recompute(module, *inputs) if part in self.recomputed and self.training else module(*inputs)

    def by_view(self, x: Tensor) -> Tensor:
        """(views * B, …) -> (views, B, …)."""
        return x.unflatten(0, (self.views, -1))

    def features(self, images: Tensor, infrared: bool) -> tuple[Tensor, Tensor]:
        """L2-normalised pooled and neck features, each (views, B, D), of images (B, 3, H, W) of one modality."""
        check_positions(*images.shape[2:], self.halves)
        pooled, neck = self.head.features(self.encode(self.stem_map(images, infrared)))
        return self.by_view(unit(pooled)), self.by_view(unit(neck))

    def embed(self, images: Tensor, infrared: bool, flip: bool = True) -> Tensor:
        """The test-time embedding. `column_scale` makes one inner product of it the whole similarity.

        images     (B, 3, H, W), of one modality
        infrared   which modality
        flip       add the features of the horizontally flipped images
        returns    (B, E), E = 2 · views · D: pooled features of each view, then neck features of each view
        """
        if flip:
            images = torch.cat([images, images.flip(-1)])
        parts = torch.cat(self.features(images, infrared))     # (2 * views, B or 2B, D)
        if flip:
            plain, mirrored = parts.chunk(2, dim=1)
            parts = unit(plain + mirrored) if self.unit_after_flip else plain + mirrored
        return parts.transpose(0, 1).flatten(1)

    def column_scale(self, weighting: str) -> Tensor:
        """(E,): embeddings multiplied by it have the similarity of the named weighting as their inner product."""
        width = self.views * self.head.classifier.in_features
        pooled, neck = self.weightings[weighting]
        return torch.tensor([pooled, neck]).sqrt().repeat_interleave(width)
