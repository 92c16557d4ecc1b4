"""What every network of this house is to the programs: a training pass, an embedding, and what it does otherwise."""

import re
from collections.abc import Callable
from importlib import import_module
from typing import ClassVar, cast

import torch
import torchvision
from torch import Tensor, nn
from yacs.config import CfgNode

from common.batch import Batch, Output
from common.options import Option
from models.adversary import Adversary
from models.parts.layers import recompute

Names = tuple[tuple[str, str | Callable[[re.Match], str]], ...]  # patterns of our names, theirs


class MethodError(ValueError):
    """The configuration asks for a network, or a part of one, that there isn't."""


class Network(nn.Module):
    """A method's network. A subclass writes `forward`, `embed` and `column_scale`, and the rest where it differs.

    options      the MODEL section of the configuration
    classes      number of training identities
    """

    options: ClassVar[dict[str, Option]] = {}  # what this network reads of MODEL beyond NAME, PRETRAINED and RECOMPUTE
    weightings: ClassVar[dict[str, tuple]] = {}  # ways to weigh the parts of an embedding, the reported one first
    parts: tuple[str, ...] = ()  # what `run` is told, for MODEL.RECOMPUTE
    paper = ""                         # in a table of methods; "": it isn't in this repository
    # (pattern of our name's start, theirs) for what models/authors_checkpoint.py doesn't know
    authors_names: Names = ()
    authors_lack: tuple[str, ...] = ()  # starts of the names of ours that no checkpoint of the authors' has
    only_across = ""  # the setting by which embeddings compare with those of the other modality alone; "": with any
    one_modality = False               # whether images of one modality alone can train it, by its total
    reads_size = False                 # whether it has weights by position: then the images' (H, W) is a third argument
    packages: tuple[str, ...] = ()     # of requirements-optional.txt, what this network is built of
    reads_modality = False             # whether an embedding depends on which modality the image is
    reads_shapes = False               # whether it is trained on body-shape images too (DATA.SHAPES)
    in_pairs = False                   # whether row r of its visible and infrared images must be of one identity
    # Starts of the names of what learns at the whole rate.
    neck_and_classifiers: tuple[str, ...] = ("head.neck.", "head.classifier.")

    def __init__(self, options: CfgNode, classes: int):
        super().__init__()
        self.classes = classes
        self.adversary: Adversary | None = None  # what it is trained against, by an optimiser of its own
        self.recomputed = frozenset(options.RECOMPUTE)
        unknown = self.recomputed - {*self.parts}
        if unknown:
            raise MethodError(
                f"MODEL.RECOMPUTE has {', '.join(sorted(unknown))}; the parts of {options.NAME} are "
                f"{', '.join(self.parts)}"
            )

    @classmethod
    def check_installed(cls) -> None:
        """
        raises   MethodError where one of `packages` cannot be imported
        """
        for package in cls.packages:
            try:
                import_module(package)
            except ImportError as error:
                raise MethodError(
                    f"{cls.__name__} needs {package} ({error}): pip install -r requirements-optional.txt"
                ) from None

    @classmethod
    def title(cls, options: dict) -> str:
        """What tables and pages call the network of these options, which may be those of another version."""
        return cls.__name__

    @classmethod
    def layout(cls, options: CfgNode) -> str:
        """What model cards say of the trunk.

        options   the MODEL section of the configuration
        """
        return cls.title(options)

    @classmethod
    def plain(cls, options: CfgNode, classes: int, size: tuple[int, int]) -> nn.Module:
        """A library's own network of the same trunk, images (B, 3, H, W) -> logits: what a step is measured against."""
        return torchvision.models.get_model(options.BACKBONE, weights=None, num_classes=classes)

    @classmethod
    def check_images(cls, options: CfgNode, size: tuple[int, int], views: tuple[int, int]) -> None:
        """Refuse images that the network of these options cannot take; called before any work.

        size     height and width in pixels
        views    of each visible and of each infrared image, in training
        raises   ImageSizeError, MethodError
        """

    @classmethod
    def check_cameras(cls, options: CfgNode, cameras: int) -> None:
        """Refuse training images of more cameras than the network of these options knows; called before any work.

        raises   MethodError
        """

    def forward(self, batch: Batch) -> Output:
        """The training pass: all streams of a batch together, rows in the order of its streams."""
        raise NotImplementedError

    def embed(self, images: Tensor, infrared: bool, flip: bool = True) -> Tensor:
        """The test-time embedding. `column_scale` makes one inner product of it the whole similarity.

        images     (B, 3, H, W), normalised, of one modality
        infrared   which modality
        flip       take the mirrored images up too
        returns    (B, E)
        """
        raise NotImplementedError

    def column_scale(self, weighting: str) -> Tensor:
        """(E,): embeddings multiplied by it have the similarity of the named weighting as their inner product."""
        raise NotImplementedError

    def parameter_groups(self, base_lr: float, factor: float) -> list[dict]:
        """What the optimiser trains: neck and classifiers at the base rate, everything else at a fraction of it, an
        adversary not at all.

        base_lr   SOLVER.BASE_LR
        factor    SOLVER.BACKBONE_LR_FACTOR
        returns   groups for torch's optimisers, each with its "base_lr", which the schedule changes by epoch
        """
        groups: list[dict] = [{"params": [], "base_lr": base_lr}, {"params": [], "base_lr": base_lr * factor}]
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and not name.startswith("adversary."):
                groups[not name.startswith(self.neck_and_classifiers)]["params"].append(parameter)
        return groups

    def before_update(self, epoch: int) -> None:
        """Called once before the forward passes of an update: running means of the network's own move here.

        epoch   from 0
        """

    def after_update(self, epoch: int) -> None:
        """Called once after an update of the weights: a teacher, a running mean of the network, moves here.

        epoch   from 0
        """

    def last_map(self, infrared: bool = False) -> tuple[nn.Module, Callable[[Tensor], Tensor]] | None:
        """For Grad-CAM: the module whose output is the last map (V · B, D, h, w), and what makes logits (V, B, classes)
        of it. None: the network has no such map.

        infrared   of which modality the images are
        """
        return None

    def own_maps(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """For pictures, by title: what makes maps (B, h, w) of images (B, 3, H, W), in evaluation mode."""
        return {}

    def keep_for_embedding(self, modality: str) -> None:
        """Drop what no embedding needs, such as classifiers; of a copy that is exported.

        modality   visible, infrared, or both: then, where the network `reads_modality`, `embed` takes images of four
                   channels, of which the last is 1 where the image is infrared
        """

    def authors_unused(self) -> list[str]:
        """Patterns of entries in the authors' checkpoints that never influence an output."""
        return []

    def run(self, part: str, module: nn.Module, *inputs: Tensor) -> Tensor:
        """module(*inputs), in training computed again in the backward pass where MODEL.RECOMPUTE has the part."""
        return recompute(module, *inputs) if part in self.recomputed and self.training else module(*inputs)


def with_mirrored(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (2B, 3, H, W): the images, then they mirrored."""
    return torch.cat([images, images.flip(-1)])


def mirrored_added(features: Tensor) -> Tensor:
    """(2B, D) of images `with_mirrored` -> (B, D): an image's feature plus its mirror image's."""
    return cast(Tensor, sum(features.chunk(2, dim=0)))  # from 0 on, in Python's eyes
