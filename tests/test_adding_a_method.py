"""What docs/adding_a_method.md shows is the code, and what it promises of a new method holds."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from configs.load import load_config
from models import build
from models.two_stream import TwoStreamNetwork
from train import build_loss

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", (ROOT / "docs/adding_a_method.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_block_stands_in_its_file(number):
    file, code = BLOCKS[number]
    assert code in (ROOT / file).read_text(), f"{file} has no longer:\n{code}"


def test_the_page_shows_the_whole_of_the_method():
    assert [file for file, _ in BLOCKS].count("models/deen.py") == 5
    assert {"models/build.py", "configs/sysu_deen.yaml", "configs/defaults.py"} <= {file for file, _ in BLOCKS}


class Plain(TwoStreamNetwork):
    """The least that a method has to say."""

    def __init__(self, options, classes: int):
        super().__init__(options)
        self.build_head(classes, views=1)

    def encode(self, x: Tensor) -> Tensor:
        for stage in self.backbone.stages:
            x = stage(x)
        return x


def test_a_class_and_a_line_make_a_method(monkeypatch):
    monkeypatch.setitem(build.MODELS, "plain", Plain)
    cfg = load_config(overrides=["MODEL.NAME", "plain", "MODEL.BACKBONE", "resnet18", "MODEL.PRETRAINED", "none"])
    model = build.build_model(cfg.MODEL, classes=3)
    visible, infrared = torch.randn(2, 4, 3, 64, 32)
    terms = build_loss(cfg)(model(visible, infrared), torch.tensor([0, 0, 1, 2] * 2), epoch=0)
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert model.eval().embed(visible, infrared=False).shape == (4, 2 * 512)
    assert isinstance(model.head.neck, nn.BatchNorm1d)
