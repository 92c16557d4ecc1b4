"""A vision transformer of timm's blocks with overlapping patches, and ImageNet's weights for it."""

import math
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.parts.backbone import PretrainedError, read_pretrained

if TYPE_CHECKING:  # an optional library
    from timm.models.vision_transformer import VisionTransformer

# The first weights of timm's vit_base_patch16_224.
IMAGENET = (
    "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-vitjx/jx_vit_base_p16_224-80ecf9dd.pth"
)


class OverlappingPatches(nn.Module):
    """A convolution whose stride is less than its width; what doesn't fill a patch at the right and bottom is left out.

    size      (H, W) of the images

    x         (B, 3, H, W)
    returns   (B, L, D), for L = `grid[0]` · `grid[1]` patches row by row
    """

    def __init__(self, size: tuple[int, int], patch: int, stride: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride)
        self.grid = tuple((length - patch) // stride + 1 for length in size)
        self.num_patches = self.grid[0] * self.grid[1]  # timm asks for it

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


def build_transformer(
    size: tuple[int, int], *, patch: int, stride: int, depth: int, heads: int, width: int, dropout: float,
    drop_path: float, norm_eps: float, pretrained: str,
) -> "VisionTransformer":
    """timm's VisionTransformer without a head: `patch_embed`, `cls_token`, `pos_embed`, `pos_drop`, `blocks`, `norm`.

    size         (H, W) of the images
    patch        pixels along a patch, and `stride` from one to the next
    width        D, numbers of a token, which `heads` share evenly
    dropout      after the position embedding and each linear layer but those that make queries, keys and values
    drop_path    of the last block's two residuals; those of the first are never dropped
    pretrained   "imagenet", "none", or the path of a state dict by timm's names
    raises       PretrainedError
    """
    from timm.models.vision_transformer import VisionTransformer  # seconds, and only some methods need it

    transformer = VisionTransformer(
        num_classes=0, weight_init="skip", img_size=size, patch_size=patch, embed_dim=width, depth=depth,
        num_heads=heads, pos_drop_rate=dropout, proj_drop_rate=dropout, drop_path_rate=drop_path,
        norm_layer=partial(nn.LayerNorm, eps=norm_eps),
        embed_layer=lambda **_: OverlappingPatches(size, patch, stride, width),
    )
    if pretrained == "none":
        start(transformer)
    else:
        load(transformer, pretrained)
    return transformer


def class_attention(block: Any, tokens: Tensor) -> Tensor:
    """How much the class token attends to each patch, as a multiple of what it would if it did to all tokens alike.

    block     of a transformer of `build_transformer`
    tokens    (B, 1 + L, D) that it gets
    returns   (B, L), mean over heads
    """
    attention = block.attn
    qkv = attention.qkv(block.norm1(tokens)).unflatten(2, (3, attention.num_heads, -1))
    query, key, _ = qkv.permute(2, 0, 3, 1, 4)                                      # (B, heads, 1 + L, D/heads)
    received = (query[:, :, :1] @ key.mT * attention.scale).softmax(dim=-1)         # (B, heads, 1, 1 + L)
    return received[:, :, 0, 1:].mean(dim=1) * tokens.shape[1]


@torch.no_grad()
def start(transformer: "VisionTransformer") -> None:
    """Tokens, positions and linear layers normal with deviation 0.02, the patches' convolution by its outputs' fan."""
    for token in (transformer.cls_token, transformer.pos_embed):
        nn.init.normal_(cast(Tensor, token), std=0.02)
    for module in transformer.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    patches = transformer.patch_embed.proj
    nn.init.kaiming_normal_(patches.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(patches.bias)


def load(transformer: "VisionTransformer", source: str) -> None:
    """Fill the transformer from a file (`read_pretrained`), with its position embedding resized.

    raises   PretrainedError
    """
    name = "ViT-B/16"
    state = read_pretrained(
        source, IMAGENET, name, f"timm's {name}", transformer.state_dict(), resized=("pos_embed",)
    )
    positions = state["pos_embed"]
    width = cast(Tensor, transformer.pos_embed).shape[2]
    number = positions.numel() // width - 1
    if positions.shape != (1, number + 1, width) or number < 1 or math.isqrt(number) ** 2 != number:
        raise PretrainedError(
            f"MODEL.PRETRAINED: {source} has a pos_embed of {[*positions.shape]}, which is no class token and a square "
            f"grid, {width} numbers each: name a state dict of timm's {name}"
        )
    state["pos_embed"] = resize_positions(positions, transformer.patch_embed.grid)
    transformer.load_state_dict(state)


def resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """The position embedding of another grid, bilinear and not antialiased; the class token's stays.

    positions   (1, 1 + g · g, D)
    returns     (1, 1 + rows · columns, D), for a grid of (rows, columns)
    """
    token, patches = positions[:, :1], positions[:, 1:]
    side = math.isqrt(patches.shape[1])
    square = patches.transpose(1, 2).unflatten(2, (side, side))                          # (1, D, g, g)
    resized = F.interpolate(square, grid, mode="bilinear", align_corners=False)
    return torch.cat([token, resized.flatten(2).transpose(1, 2)], dim=1)
