"""PMT (Lu et al., AAAI 2023): one vision transformer for both modalities, as its authors' code computes it."""

from collections.abc import Callable
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from common.batch import Batch, Output
from common.options import option
from models.network import Network, mirrored_added, with_mirrored
from models.parts.head import unit
from models.parts.vit import build_transformer, class_attention


class PMT(Network):
    """A ViT with overlapping patches, whose class token is the feature; a batch norm as neck, one classifier.

    options   the MODEL section of the configuration
    classes   C, number of training identities
    size      (H, W) of the images
    """

    options: ClassVar = {
        "PMT.PATCH": option(16, "pixels along a patch", at_least=1, at_most=16),
        "PMT.STRIDE": option(12, "pixels from one patch to the next", at_least=1, at_most=64),
        "PMT.DEPTH": option(12, "blocks", at_least=1, at_most=100),
        "PMT.HEADS": option(12, "of a block's attention", at_least=1, at_most=100),
        "PMT.HEAD_WIDTH": option(64, "numbers of a token that each head has", at_least=1, at_most=1024),
        "PMT.DROPOUT": option(0.03, "in training, of positions and after linear layers", at_least=0, below=1),
        "PMT.DROP_PATH": option(0.1, "in training, of the last block's residuals; from 0 it rises evenly",
                                at_least=0, below=1),
        "PMT.NORM_EPS": option(1e-5, "of layer norms; ImageNet's weights were trained with 1e-6", above=0, at_most=1),
    }
    weightings: ClassVar = {"neck": (1.0,)}
    paper = "Lu et al., AAAI 2023"
    parts = ("blocks",)
    packages = ("timm",)
    reads_size = True
    # What learns at the whole rate: all but the patches' convolution and the blocks.
    neck_and_classifiers = ("trunk.cls_token", "trunk.pos_embed", "trunk.norm.", "neck.", "identity_classifier.")
    authors_names = (
        (r"trunk\.", "base."),
        (r"neck\.", "bottleneck."),
        (r"identity_classifier\.", "classifier."),
    )

    def __init__(self, options: CfgNode, classes: int, size: tuple[int, int]):
        super().__init__(options, classes)
        own = options.PMT
        width = own.HEADS * own.HEAD_WIDTH                        # D
        self.trunk = build_transformer(
            size, patch=own.PATCH, stride=own.STRIDE, depth=own.DEPTH, heads=own.HEADS, width=width,
            dropout=own.DROPOUT, drop_path=own.DROP_PATH, norm_eps=own.NORM_EPS, pretrained=options.PRETRAINED,
        )
        self.neck = nn.BatchNorm1d(width)
        self.neck.bias.requires_grad_(False)
        self.identity_classifier = nn.Linear(width, classes, bias=False)
        nn.init.normal_(self.identity_classifier.weight, std=0.001)

    @classmethod
    def plain(cls, options: CfgNode, classes: int, size: tuple[int, int]) -> nn.Module:
        from timm.models.vision_transformer import VisionTransformer

        own = options.PMT
        return VisionTransformer(
            img_size=size, patch_size=own.PATCH, embed_dim=own.HEADS * own.HEAD_WIDTH, depth=own.DEPTH,
            num_heads=own.HEADS, num_classes=classes,
        )

    @classmethod
    def layout(cls, options: CfgNode) -> str:
        own = options.PMT
        return (
            f"a vision transformer for both modalities, {own.DEPTH} blocks of width {own.HEADS * own.HEAD_WIDTH}, "
            f"patches of {own.PATCH} × {own.PATCH} every {own.STRIDE} pixels"
        )

    def forward(self, batch: Batch) -> Output:
        """The training pass: pooled, neck (1, B, D) and logits (1, B, C)."""
        pooled, neck = self.features(batch.images())              # both modalities meet here
        return Output(batch.rows, pooled=pooled[None], neck=neck[None], logits=self.identity_classifier(neck)[None])

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> the class token and the neck's feature, (B, D) each."""
        tokens = self.tokens(images)
        for block in self.trunk.blocks:
            tokens = self.run("blocks", block, tokens)
        pooled = self.trunk.norm(tokens[:, 0])
        return pooled, self.neck(pooled)

    def tokens(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1 + L, D): the class token, then the patches row by row, each with its position."""
        trunk = self.trunk
        patches = trunk.patch_embed(images)
        token = cast(Tensor, trunk.cls_token).expand(patches.shape[0], -1, -1)
        return trunk.pos_drop(torch.cat([token, patches], dim=1) + cast(Tensor, trunk.pos_embed))

    def embed(self, images: Tensor, infrared: bool, flip: bool = True) -> Tensor:
        """The neck's feature of length 1: E = D. One network for both modalities (`Network.embed`).

        flip   add the feature of the mirrored images, and bring the sum to length 1
        """
        _, neck = self.features(with_mirrored(images) if flip else images)
        return unit(mirrored_added(unit(neck))) if flip else unit(neck)

    def column_scale(self, weighting: str) -> Tensor:
        return torch.ones(self.neck.num_features)

    def own_maps(self) -> dict[str, Callable[[Tensor], Tensor]]:
        def attended(images: Tensor) -> Tensor:
            *early, last = self.trunk.blocks
            tokens = self.tokens(images)
            for block in early:
                tokens = block(tokens)
            return class_attention(last, tokens).unflatten(1, self.trunk.patch_embed.grid)

        return {"class attention": attended}

    def keep_for_embedding(self, modality: str) -> None:
        del self.identity_classifier
