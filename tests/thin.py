"""A thin ResNet-18, for tests in which its width shows nothing: a ninth of the weights.

    python tests/thin.py train.py [arguments]    # a program with it, in an interpreter of its own
"""

import contextlib
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from torch import nn
from torchvision.models import _api
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet, resnet18

WIDTHS = {64: 16, 128: 64, 256: 128, 512: 192}  # of the stages; CMFN's attention has 16 heads of a quarter of one

TRUNKS = {  # of methods without MODEL.BACKBONE, one of a few layers
    "pmt": ["MODEL.PMT.DEPTH", "2", "MODEL.PMT.HEADS", "2", "MODEL.PMT.HEAD_WIDTH", "16"],
}


def small_trunk(method: str) -> list[str]:
    """Options for a small network of a method of MODEL.NAME."""
    return TRUNKS.get(method, ["MODEL.BACKBONE", "resnet18"])


SHORT = ["MODEL.HCE.ENABLED", "false", "MODEL.CSC_CMA.ENABLED", "false"]  # CMFN, too, of fewer than half the tensors


class ThinResNet(ResNet):
    def _make_layer(self, block, planes, *arguments, **options):
        return super()._make_layer(block, WIDTHS[planes], *arguments, **options)


def thin_resnet18(weights=None, num_classes=1):
    network = ThinResNet(BasicBlock, [2, 2, 2, 2])
    network.fc = nn.Linear(WIDTHS[512], num_classes)
    return network


LAYOUTS = {
    "resnet34": lambda weights=None: ThinResNet(BasicBlock, [3, 4, 6, 3]),
    "resnet50": lambda weights=None: ThinResNet(Bottleneck, [3, 4, 6, 3]),
}


@contextlib.contextmanager
def thin() -> Iterator[None]:
    """Puts it in the place of torchvision's ResNet-18."""
    with mock.patch.dict(_api.BUILTIN_MODELS, resnet18=thin_resnet18):
        yield


@contextlib.contextmanager
def all_thin() -> Iterator[None]:
    """Puts thin networks of the same layout in the place of all backbones."""
    with thin(), mock.patch.dict(_api.BUILTIN_MODELS, LAYOUTS):
        yield


@contextlib.contextmanager
def shortest() -> Iterator[None]:
    """Puts a thin network with hardly more than a block in each stage in the place of torchvision's ResNet-18."""
    with mock.patch.dict(_api.BUILTIN_MODELS, resnet18=lambda weights=None: ThinResNet(BasicBlock, [1, 2, 1, 1])):
        yield


def wide() -> contextlib.AbstractContextManager:
    """Puts torchvision's back."""
    return mock.patch.dict(_api.BUILTIN_MODELS, resnet18=resnet18)


def is_thin() -> bool:
    return _api.BUILTIN_MODELS["resnet18"] is thin_resnet18


start = subprocess.run


def start_thin(args, **options):
    """Takes the place of `subprocess.run`: programs that a program starts have the thin network, too."""
    is_program = args[0] == sys.executable and str(args[1]).endswith(".py")
    return start([sys.executable, __file__, *args[1:]] if is_program else args, **options)


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    with thin(), mock.patch("subprocess.run", start_thin):
        runpy.run_path(sys.argv[0], run_name="__main__")
