"""CMFN: the method's figure as code (docs/method.md sections 1 to 6 and 9)."""

import torch
from torch import Tensor, nn

from models.backbone import Backbone
from models.hce import context_stages
from models.head import Head, Output, unit
from models.layers import recompute
from models.mbue import MBUE
from models.mfa import MFA, check_positions


class CMFN(nn.Module):
    """Two-stream ResNet with context (HCE) fused in (MFA), three views (MBUE) and one head.

    options   the MODEL section of the configuration (configs/defaults.py explains each key)
    classes   number of training identities
    """

    # The test-time similarity is the sum over views of a·<pooled, pooled'> + b·<neck, neck'>.
    weightings = {"equal": (1.0, 1.0), "neck": (0.1, 0.9)}

    def __init__(self, options, classes: int):
        super().__init__()
        self.backbone = Backbone(options.BACKBONE, options.STAGES, options.PRETRAINED)
        *early, last = self.backbone.channels
        self.context, self.mfa = nn.ModuleList(), nn.ModuleList()
        if options.HCE.ENABLED:
            stem = self.backbone.stem_channels
            self.context = context_stages(stem, early, tuple(options.HCE.DILATIONS), options.HCE.THIRD)
            self.mfa = nn.ModuleList(
                MFA(high, low, downsample=i > 0, positions=options.MFA.POSITIONS)
                for i, (high, low) in enumerate(zip(early, [stem, *early]))
            )
        self.mbue = None
        if options.MBUE.ENABLED:
            self.mbue = MBUE(
                early[-1],
                separate_compressions=options.MBUE.SEPARATE_COMPRESSIONS,
                dropout=options.MBUE.DROPOUT,
                layout=options.MBUE.TOKEN_LAYOUT,
                fusion="csc_cma" if options.CSC_CMA.ENABLED else "average",
                keys=options.CSC_CMA.KEYS,
                context_path=options.MBUE.CONTEXT_PATH,
                drop_path=options.MBUE.DROP_PATH,
            )
        self.views = 1 if self.mbue is None else MBUE.views
        self.head = Head(last, classes)
        self.recomputed = frozenset(options.RECOMPUTE)
        self.halves = len(self.mfa) if options.MFA.POSITIONS == "halves" else 0

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

    def encode(self, x: Tensor) -> Tensor:
        """Stem output (B, 64, H/4, W/4) -> last map (views * B, D, H/16, W/16); RegDB's network ends at the same."""
        *early, last = self.backbone.stages
        for i, stage in enumerate(early):
            high = self.run("early", stage, x)
            x = self.run("mfa", self.mfa[i], high, self.run("hce", self.context[i], x)) if self.mfa else high
        if self.mbue is not None:
            x = self.run("mbue", self.mbue, x)                  # (3B, C, H/16, W/16)
        return self.run("last", last, x)

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
        """The test-time embedding, in which one inner product is the whole similarity (weighting "equal").

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
            parts = plain + mirrored
        return parts.transpose(0, 1).flatten(1)

    def column_scale(self, weighting: str) -> Tensor:
        """(E,): embeddings multiplied by it have the similarity of the named weighting as their inner product."""
        width = self.views * self.head.classifier.in_features
        pooled, neck = self.weightings[weighting]
        return torch.tensor([pooled, neck]).sqrt().repeat_interleave(width)
