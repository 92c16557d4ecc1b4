"""MSCMNet (Hua et al., Pattern Recognition 2025): four stems, four correlation blocks, as in its authors' code."""

from collections.abc import Callable
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from common.batch import Batch, Output
from common.options import option
from models.network import MethodError, Network, mirrored_added, with_mirrored
from models.parts import backbone, non_local
from models.parts.backbone import Backbone, EitherStem, another_stem
from models.parts.head import Head, unit
from models.parts.mimb import MIMB, check_positions
from models.parts.non_local import add_non_locals


class Stems(nn.ModuleList):
    """The stems of a modality; called, the mean of what they make of the same images.

    images    (B, 3, H, W)
    returns   (B, 64, H/4, W/4)
    """

    def forward(self, images: Tensor) -> Tensor:
        return sum(stem(images) for stem in self) / len(self)


class MSCMNet(Network):
    """QFE: a stem for each of two views of both modalities. Then AGW's trunk, with four MIMBs before its last stage.

    In training each view passes its own stem; an embedding has the mean of both stems' maps.

    options   the MODEL section of the configuration
    classes   C, number of training identities
    size      (H, W) of the images: the blocks' weights are as many as the last map has positions
    raises    ImageSizeError, MethodError
    """

    options = backbone.OF_ITS_KIND | non_local.OPTIONS | {
        "MSCMNET.STEMS": option(2, "of each modality: one for each view of an image, or one for all", one_of=(2, 1)),
        "MSCMNET.CORRELATION": option(True, "correlation blocks (MIMB) after stage 3"),
        "MSCMNET.RESIDUAL": option(False, "what a correlation block returns is added to its input"),
    }
    weightings: ClassVar = {"neck": (1.0,)}
    paper = "Hua et al., Pattern Recognition 2025"
    parts = ("early", "mimb", "last")
    reads_size = reads_modality = True
    authors_names = (
        (r"(visible|infrared)_stems\.(\d)\.(\d)\.", lambda m: theirs_of_stem(*m.groups())),
        (r"stages\.(\d)\.non_local\.(\d)\.g\.", lambda m: f"NL_{int(m[1]) + 1}.{m[2]}.g.0."),
        (r"stages\.(\d)\.non_local\.(\d)\.out\.", lambda m: f"NL_{int(m[1]) + 1}.{m[2]}.W."),
        (r"stages\.(\d)\.non_local\.(\d)\.", lambda m: f"NL_{int(m[1]) + 1}.{m[2]}."),
        (r"stages\.(\d)\.(blocks\.)?", lambda m: f"base_resnet.base.layer{int(m[1]) + 1}."),
        (r"mimb\.(\d)\.reduce\.", r"layerATT\1.ATT_narrow."),
        (r"mimb\.(\d)\.expand\.", r"layerATT\1.ATT_broad."),
        (r"mimb\.([01])\.side\.", r"layerATT\1.ATT_narrow1."),
        (r"mimb\.2\.side\.", r"layerATT2.ATT_narrow2."),
        (r"mimb\.(\d)\.norm\.", r"layerATT\1.ln_1."),
        (r"mimb\.(\d)\.side_norm\.", r"layerATT\1.ln_1o."),
        (r"mimb\.(\d)\.mlp_norm\.", r"layerATT\1.ln_2."),
        (r"mimb\.(\d)\.attention\.in_proj\.", r"layerATT\1.attn.in_proj_"),
        (r"mimb\.(\d)\.attention\.", r"layerATT\1.attn."),
        (r"mimb\.(\d)\.mlp\.0\.", r"layerATT\1.mlp.c_fc."),
        (r"mimb\.(\d)\.mlp\.2\.", r"layerATT\1.mlp.c_proj."),
    )

    visible_stems: nn.Module
    infrared_stems: nn.Module

    def __init__(self, options: CfgNode, classes: int, size: tuple[int, int]):
        super().__init__(options, classes)
        own = options.MSCMNET
        positions = check_positions(*size) if own.CORRELATION else 0
        resnet = Backbone(options.BACKBONE, stages=4, pretrained=options.PRETRAINED)
        self.visible_stems, self.infrared_stems = (
            Stems([stem, *(another_stem(stem, options.PRETRAINED) for _ in range(own.STEMS - 1))])
            for stem in (resnet.visible_stem, resnet.infrared_stem)
        )
        self.stages = resnet.stages
        add_non_locals(self.stages, resnet.channels, options.NON_LOCAL)
        first, second, third, last = resnet.channels
        finer = ((resnet.stem_channels, 4), (first, 4), (second, 2), None) if own.CORRELATION else ()
        self.mimb = nn.ModuleList(MIMB(third, positions, source, own.RESIDUAL) for source in finer)
        self.head = Head(last, classes, pool="gem")

    @classmethod
    def check_images(cls, options: CfgNode, size: tuple[int, int], views: tuple[int, int]) -> None:
        if options.MSCMNET.CORRELATION:
            check_positions(*size)
        stems = options.MSCMNET.STEMS
        if stems > 1 and views != (stems, stems):
            raise MethodError(
                f"MODEL.MSCMNET.STEMS is {stems}, one for each view of an image, and DATA.VISIBLE and DATA.INFRARED "
                f"have {views[0]} and {views[1]} views: give both {stems}, or set MODEL.MSCMNET.STEMS to 1"
            )

    def forward(self, batch: Batch) -> Output:
        """The training pass: pooled and neck (1, B, D) and logits (1, B, C) of all rows."""
        x = torch.cat([*self.stem_maps(batch, infrared=False), *self.stem_maps(batch, infrared=True)])
        pooled, neck, logits = self.head(self.encode(x))
        return Output(batch.rows, pooled=pooled[None], neck=neck[None], logits=logits[None])

    def stem_maps(self, batch: Batch, infrared: bool) -> list[Tensor]:
        """(B_s, 64, H/4, W/4) of the streams of a modality, never in half precision: what is lost here, every stage
        amplifies."""
        stems = cast(Stems, self.infrared_stems if infrared else self.visible_stems)
        streams = [stream for stream in batch.streams if stream.kind.infrared == infrared]
        with torch.autocast(streams[0].images.device.type, enabled=False):
            if len(stems) == 1:
                return [stems[0](batch.images(infrared))]         # one batch norm sees all views
            return [stems[stream.kind.view](stream.images) for stream in streams]

    def encode(self, x: Tensor) -> Tensor:
        """Stem output (B, 64, H/4, W/4) -> last map (B, D, H/16, W/16)."""
        *early, last = self.stages
        maps = [x]
        for stage in early:
            maps.append(self.run("early", stage, maps[-1]))
        y = maps.pop()                                            # (B, C', H/16, W/16)
        for block, finer in zip(self.mimb, (*([source] for source in maps), [])):
            y = self.run("mimb", block, y, *finer)
        return self.run("last", last, y)

    def embed(self, images: Tensor, infrared: bool, flip: bool = True) -> Tensor:
        """The neck's feature of length 1: E = D (`Network.embed`).

        flip   add the feature of the mirrored images before
        """
        stems = self.infrared_stems if infrared else self.visible_stems
        _, neck = self.head.features(self.encode(stems(with_mirrored(images) if flip else images)))
        return unit(mirrored_added(neck) if flip else neck)

    def column_scale(self, weighting: str) -> Tensor:
        return torch.ones(self.head.classifier.in_features)

    def last_map(self, infrared: bool = False) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        return self.stages[-1], lambda last: self.head(last)[2][None]

    def keep_for_embedding(self, modality: str) -> None:
        if modality == "both":
            self.visible_stems = EitherStem(self.visible_stems, self.infrared_stems)
        delattr(self, "visible_stems" if modality == "infrared" else "infrared_stems")
        del self.head.classifier

    def authors_unused(self) -> list[str]:
        return [
            r"\d+$",
            r"(visible|thermal)_moduleA?\.(visible|thermal)\.layer[1-4]\.",
            r"base_resnet\.base\.(conv1|bn1)\.",
            r"(local_conv|feat_bn2d)\.",
            r"layerATT[01]\.ATT_narrow2\.|layerATT2\.ATT_narrow1\.|layerATT3\.(ATT_narrow[12]|ln_1o)\.",
        ]


def theirs_of_stem(modality: str, view: str, layer: str) -> str:
    """The authors' name of a convolution (layer 0) or a batch norm (1) of a stem."""
    name = {"visible": "visible", "infrared": "thermal"}[modality]
    return f"{name}_module{'A' * int(view)}.{name}.{('conv1', 'bn1')[int(layer)]}."
