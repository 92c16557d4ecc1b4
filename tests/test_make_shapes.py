"""scripts/make_shapes.py: body shapes by a parser, here one that takes bright pixels for a body."""

import shutil
import sys

import numpy as np
import onnx
import pytest
import torch
import torchvision
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from programs import run

from data.dataset import open_benchmark
from data.shapes import Shapes
from data.synthetic import SHAPES

CONFIG = "configs/quickstart_sefel.yaml"


def parser_file(path, weight=((0.0,) * 3, (1.0,) * 3, (-9.0,) * 3), bias=(0.0, 0.0, -9.0)):
    """Scores of each pixel by its three channels; of normalised images, brighter ones than the mean are of class 1."""
    values = {"w": np.array(weight, np.float32)[:, :, None, None], "b": np.array(bias, np.float32)}
    shapes = [["n", 3, "h", "w"], ["n", len(weight), "h", "w"]]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])], "parser",
        *([helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in zip("xy", shapes)),
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def copy(shared_data, tmp_path):
    """A data set without body shapes."""
    return shutil.copytree(shared_data, tmp_path / "data", ignore=shutil.ignore_patterns(SHAPES))


def make(data, parser, *words, check=True):
    return run("scripts/make_shapes.py", "--config", CONFIG, "--parser", parser, "--size", "64", "32", *words,
               "DATA.ROOT", data, "DEVICE", "cpu", check=check)


def test_each_training_image_gets_its_shape_once(copy, tmp_path):
    parser = parser_file(tmp_path / "parser.onnx")
    done = make(copy, parser)
    assert f"{copy / SHAPES}: 24 shapes written, 0 were there" in done.stdout
    assert done.stdout.endswith(f"{copy / SHAPES / 'sheet.jpg'}\n")
    shapes = Shapes(open_benchmark("synthetic", copy), SHAPES)                  # none is missing
    image, shape = next(iter(shapes.own.items()))
    bright = np.asarray(Image.open(image).convert("RGB"), float).mean(axis=2)
    body = np.asarray(Image.open(shape), int)[:, :, 0] > 64                     # class 1 is dark red
    assert (body & (bright < 60)).mean() < 0.05 and (body & (bright > 150)).sum() > 0.9 * (bright > 150).sum()
    (copy / SHAPES / "cam1/0001/0001.jpg").unlink()
    assert "1 shape written, 23 were there" in make(copy, parser).stdout


def test_a_parser_that_sees_nobody_is_a_warning(copy, tmp_path):
    parser = parser_file(tmp_path / "parser.onnx", bias=(99.0, 0.0, 0.0))
    assert "warning: in 24 of 24 images the parser sees hardly any body, such as /" in make(copy, parser).stdout


def test_a_network_of_torchvision(copy, tmp_path):
    network = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None, num_classes=3)
    torch.nn.init.constant_(network.classifier.high_classifier.bias, 0.0)
    with torch.no_grad():
        network.classifier.high_classifier.bias[2] = 1e6
    torch.save(network.state_dict(), tmp_path / "lraspp.pth")
    make(copy, tmp_path / "lraspp.pth", "--torchvision", "lraspp_mobilenet_v3_large", "--body", "2")
    shape = np.asarray(Image.open(copy / SHAPES / "cam3/0001/0001.jpg"), int)
    assert abs(shape - [0, 128, 0]).max() < 8                                   # all is body, of class 2


@pytest.mark.parametrize("words, said", [
    (["--body", "3"], "--body has 3, and the parser's classes are 0 to 2"),
    (["--torchvision", "resnet18"], "--torchvision is 'resnet18'; torchvision's segmentation networks are deeplab"),
    (["DATA.SHAPES", ""], "DATA.SHAPES names no folder to write to: take a configuration of sefel, and set it"),
])
def test_what_is_refused(words, said, shared_data, tmp_path):
    options, rest = (words, []) if words[0].startswith("--") else ([], words)
    done = run("scripts/make_shapes.py", "--config", CONFIG, "--parser", parser_file(tmp_path / "parser.onnx"),
               "DATA.ROOT", shared_data, "DATA.SHAPES", str(tmp_path / "shapes"), *rest, *options, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and said in done.stderr, done.stderr


def test_files_that_are_no_parser(copy, tmp_path, monkeypatch):
    def refused(parser, *words):
        done = make(copy, parser, *words, check=False)
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        return done.stderr

    assert "there is no parser nowhere.onnx: --parser is the path of its file" in refused("nowhere.onnx")
    (tmp_path / "text.onnx").write_text("no parser")
    assert "text.onnx is no ONNX file that onnxruntime can read: " in refused(tmp_path / "text.onnx")
    one = parser_file(tmp_path / "one.onnx", weight=((0.0,) * 3,), bias=(0.0,))
    assert "the parser returns [16, 1, 64, 32] for 16 images, where (images, classes, h, w) is wanted" in refused(one)
    four = parser_file(tmp_path / "four.onnx", weight=((0.0,) * 4,), bias=(0.0,))
    assert "the parser fails on 64x32 images: " in refused(four)
    torch.save({"classifier.weight": torch.zeros(3, 2)}, tmp_path / "other.pth")
    said = refused(tmp_path / "other.pth", "--torchvision", "lraspp_mobilenet_v3_large")
    assert "other.pth holds no weights of torchvision's lraspp_mobilenet_v3_large: " in said
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "one.onnx needs onnxruntime (" in refused(one) and not (copy / SHAPES).exists()
