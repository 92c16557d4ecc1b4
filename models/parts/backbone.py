"""Two-stream ResNet: a stem for each modality, then shared stages (docs/method.md section 1)."""

import copy
import os
import re
from pathlib import Path
from typing import TypeAlias

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from common.options import option
from common.weights import WeightsFileError, described, named_tensors, read_weights_file

BACKBONES = ("resnet18", "resnet34", "resnet50")
OF_ITS_KIND = {"BACKBONE": option("resnet50", "resnet50 is the paper's", one_of=BACKBONES)}
OPTIONS = OF_ITS_KIND | {
    "STAGES": option(4, "shared ResNet stages: 4, or 3 for RegDB's shorter network", one_of=(3, 4)),
}

Block: TypeAlias = BasicBlock | Bottleneck


class PretrainedError(RuntimeError):
    """The weights that MODEL.PRETRAINED asks for cannot be had; the message says what to do."""


class Backbone(nn.Module):
    """Stems for visible and infrared images and the shared stages after them.

    name         one of BACKBONES, torchvision's layouts
    stages       how many stages to build: 4, or 3 for the shorter network of RegDB
    own          how many of them each modality has for itself, as a part of its stem
    pretrained   "imagenet" (torchvision's IMAGENET1K_V1), "none", or the path of a torchvision state dict or of a
                 checkpoint of a two-stream network
    last_stride  of stage 4: 1, or 2 as in torchvision

    visible_stem, infrared_stem   (B, 3, H, W) -> (B, stem_channels, h, w): 64, H/4 and W/4 without stages of their own
    stages[i]                     (B, C, h, w) -> (B, channels[i], h', w'), of the shared ones
    """

    def __init__(
        self, name: str = "resnet50", stages: int = 4, pretrained: str = "imagenet", last_stride: int = 1, own: int = 0
    ):
        super().__init__()
        if name not in BACKBONES:
            raise ValueError(f"MODEL.BACKBONE is {name!r}; known are {', '.join(BACKBONES)}")
        if stages not in (3, 4):
            raise ValueError(f"MODEL.STAGES is {stages}; the network has 4 stages, or 3 for RegDB")
        resnet = torchvision.models.get_model(name, weights=None)
        infrared = torchvision.models.get_model(name, weights=None)
        if last_stride == 1:
            remove_stride(resnet.layer4[0])
        if pretrained != "none":
            weights = pretrained_weights(name, pretrained)
            resnet.load_state_dict(weights, strict=False)  # the classifier, which is used nowhere, keeps its own
            infrared.load_state_dict(weights, strict=False)
        self.visible_stem: nn.Module = stem_of(resnet)
        self.infrared_stem: nn.Module = stem_of(infrared)
        every, of_infrared = stages_of(resnet)[:stages], stages_of(infrared)
        if own:
            self.visible_stem = LongStem(self.visible_stem, every[:own])
            self.infrared_stem = LongStem(self.infrared_stem, of_infrared[:own])
        self.stages = nn.ModuleList(every[own:])
        channels = [resnet.conv1.out_channels, *map(output_channels, every)]
        self.stem_channels, self.channels = channels[own], channels[own + 1:]


class EitherStem(nn.Module):
    """Both stems, of which each image takes its own.

    x         (B, 4, H, W): normalised images and, as a fourth channel, 1 where the image is infrared, else 0
    returns   (B, 64, H/4, W/4)
    """

    def __init__(self, visible: nn.Module, infrared: nn.Module):
        super().__init__()
        self.visible, self.infrared = visible, infrared

    def forward(self, x: Tensor) -> Tensor:
        images, is_infrared = x[:, :3], x[:, 3:, :1, :1] > 0
        return torch.where(is_infrared, self.infrared(images), self.visible(images))


def another_stem(stem: nn.Module, pretrained: str) -> nn.Module:
    """A stem of its own weights: those of ImageNet where `pretrained` has given them to the first, else drawn anew."""
    other = copy.deepcopy(stem)
    if pretrained == "none":
        convolution = next(module for module in other.modules() if isinstance(module, nn.Conv2d))
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
    return other


def after_last(blocks: nn.Sequential, added: nn.ModuleList, x: Tensor) -> Tensor:
    """A stage whose last blocks are each followed by one of the added modules."""
    plain = len(blocks) - len(added)
    x = blocks[:plain](x)
    for block, module in zip(blocks[plain:], added):
        x = module(block(x))
    return x


class LongStem(nn.Module):
    """A stem and the stages that its modality has for itself.

    x         (B, 3, H, W)
    returns   (B, C, h, w); the stem is never in half precision: what is lost there, every stage amplifies
    """

    def __init__(self, stem: nn.Module, stages: list[nn.Sequential]):
        super().__init__()
        self.stem, self.stages = stem, nn.ModuleList(stages)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x


def stages_of(resnet: ResNet) -> list[nn.Sequential]:
    return [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]


def stem_of(resnet: ResNet) -> nn.Sequential:
    return nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)


def output_channels(stage: nn.Sequential) -> int:
    block: Block = stage[-1]
    return (block.bn3 if hasattr(block, "bn3") else block.bn2).num_features


def remove_stride(block: Block) -> None:
    """Keep the resolution in a stage's first block; a bottleneck has its stride in conv2, a basic block in conv1."""
    strided = block.conv2 if hasattr(block, "conv3") else block.conv1
    strided.stride = block.downsample[0].stride = (1, 1)


def pretrained_weights(name: str, source: str) -> dict[str, Tensor]:
    """torchvision's state dict of the named ResNet, without its classifier.

    source   "imagenet", or a file written by torch.save: the state dict, or a dict that holds it (common/weights.py),
             such as a checkpoint of a two-stream network
    raises   PretrainedError that says which file to get and which key to set where the weights cannot be had
    """
    url = torchvision.models.get_model_weights(name).IMAGENET1K_V1.url if source == "imagenet" else ""
    with torch.device("meta"):  # names and shapes, without values
        state = torchvision.models.get_model(name, weights=None).state_dict()
    wanted = {key: value for key, value in state.items() if not key.startswith("fc.")}
    return read_pretrained(source, url, name, f"torchvision's {name}", wanted)


def as_resnet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a two-stream network of train.py's by torchvision's names, of its stems the visible one's; others
    as they are.
    """
    if "backbone.visible_stem.0.weight" not in state:
        return state
    rules = (r"backbone\.visible_stem\.0\.", "conv1."), (r"backbone\.visible_stem\.1\.", "bn1.")
    found = {}
    for name, value in state.items():
        for pattern, theirs in rules:
            name = re.sub(pattern, theirs, name)
        name = re.sub(r"backbone\.stages\.(\d)\.(blocks\.)?", lambda m: f"layer{int(m[1]) + 1}.", name)
        found[name] = value
    return found


def read_pretrained(
    source: str, url: str, name: str, whose: str, wanted: dict[str, Tensor], resized: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Those entries of a state dict that a network starts from.

    source    MODEL.PRETRAINED: "imagenet", or a file written by torch.save
    url       of ImageNet's weights, which are read from torch's cache and downloaded where they aren't there
    name      of what they are the weights, in sentences
    whose     likewise, with the library whose names the file has
    wanted    tensors of the names and shapes that are looked for
    resized   those of them that may have another shape
    raises    PretrainedError that says which file to get and which key to set where the weights cannot be had
    """
    again = ""
    if source == "imagenet":
        file = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)
        try:
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(url, str(file), hash_prefix=file.stem.rpartition("-")[2])
        except (OSError, RuntimeError) as error:  # no network, a proxy's refusal, a broken download
            raise PretrainedError(
                f"MODEL.PRETRAINED is 'imagenet', but {name}'s weights could not be downloaded ({error}). Download "
                f"{url} on a machine with a network and put it at {file}, or set MODEL.PRETRAINED to the path "
                "where you put it. To train from random weights instead, set MODEL.PRETRAINED to none"
            ) from None
        source, again = str(file), ". Remove that file, and it is downloaded again"
    if not os.path.exists(source):
        raise PretrainedError(
            f"MODEL.PRETRAINED is {source!r}, and there is no such file: set it to imagenet, to none, or to the path "
            f"of a state dict of {whose}"
        )
    try:
        content = read_weights_file(source)
    except WeightsFileError as error:
        raise PretrainedError(f"MODEL.PRETRAINED cannot be read: {error}{again}") from None
    state = as_resnet(named_tensors(content))
    wrong = [
        key for key, value in wanted.items()
        if key not in state or key not in resized and state[key].shape != value.shape
    ]
    if wrong:
        raise PretrainedError(
            f"MODEL.PRETRAINED: {source} is not a state dict of {whose}: it holds {described(content)}; "
            f"missing or of another shape are {', '.join(wrong[:5])}{' and more' if len(wrong) > 5 else ''}{again}"
        )
    return {key: state[key] for key in wanted}
