"""Body-shape images of a data set's training images, by a human parser that you have.

    python scripts/make_shapes.py --parser parser.onnx --config configs/sysu_sefel.yaml DATA.ROOT datasets/SYSU-MM01
    python scripts/make_shapes.py --parser deeplab.pth --torchvision deeplabv3_resnet50 --body 15 \\
        --config configs/regdb_sefel.yaml DATA.ROOT datasets/RegDB

A parser tells for each pixel what it shows: background, or which part of a body. It is an ONNX file that takes images
(B, 3, h, w), normalised as ImageNet's, and returns scores (B, classes, h', w'); or, with --torchvision, a state dict of
one of torchvision's segmentation networks. What is no body becomes black, each class a colour of its own.
The images are written to DATA.SHAPES by the names of the training images; those that are there stay. The last line
names a sheet of images beside their shapes: look at it before you train.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from assembly.errors import EXPECTED_ERRORS
from common.weights import WeightsFileError, named_tensors, read_weights_file
from common.words import how_many
from configs.load import ConfigError, load_config
from data.dataset import open_data
from data.files import absolute
from data.pixels import eval_transform, read_image, resized
from data.shapes import path_in
from utils.arguments import count
from utils.output import replacing, require_folder
from utils.reporting.sheets import Cell, SheetError, save, sheet
from utils.training.run import select_device

SHEET = "sheet.jpg"
SHOWN = 24  # images on the sheet
BARE = 0.02  # of an image: less body than that is probably none
Parser = Callable[[Tensor], Tensor]  # (B, 3, h, w) -> scores (B, classes, h', w')


class ParserError(ValueError):
    """The parser cannot be read, or isn't one."""


def onnx_parser(path: Path) -> Parser:
    try:
        import onnxruntime
    except ImportError as error:
        raise ParserError(f"{path} needs onnxruntime ({error}): pip install -r requirements-optional.txt") from None
    try:
        session = onnxruntime.InferenceSession(path)
    except Exception as error:  # noqa: BLE001 - onnxruntime's own, of many kinds
        raise ParserError(f"{path} is no ONNX file that onnxruntime can read: {str(error).splitlines()[0]}") from None
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def torchvision_parser(path: Path, name: str, device: torch.device) -> Parser:
    if name not in torchvision.models.list_models(torchvision.models.segmentation):
        known = ", ".join(torchvision.models.list_models(torchvision.models.segmentation))
        raise ParserError(f"--torchvision is {name!r}; torchvision's segmentation networks are {known}")
    state = named_tensors(read_weights_file(path))
    last = [value for key, value in state.items() if key.startswith("classifier.") and key.endswith(".weight")]
    number = len(last[-1]) if last else 21
    network = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=number,
        aux_loss=any(key.startswith("aux_classifier.") for key in state),
    )
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ParserError(f"{path} holds no weights of torchvision's {name}: {str(error).splitlines()[1]}") from None
    network.eval().to(device)
    return lambda images: network(images.to(device))["out"].cpu()


def parsed(parser: Parser, images: Sequence[Image.Image], height: int, width: int, body: Sequence[int]) -> list:
    """The body shape of each image, of its own size: the class of each pixel by its colour, black where none of `body`.

    height, width   in which the parser sees the images
    body            classes; none: all but the first
    raises          ParserError
    """
    batch = torch.stack([eval_transform(resized(image, height, width, "bilinear")) for image in images])
    with torch.inference_mode():
        try:
            scores = parser(batch)
        except Exception as error:  # noqa: BLE001 - of onnxruntime or torch
            raise ParserError(f"the parser fails on {height}x{width} images: {str(error).splitlines()[0]}") from None
    if scores.ndim != 4 or len(scores) != len(images) or scores.shape[1] < 2:
        raise ParserError(
            f"the parser returns {[*scores.shape]} for {how_many(len(images), 'image')}, where (images, classes, h, "
            "w) is wanted"
        )
    shown = body or range(1, scores.shape[1])
    if max(shown) >= scores.shape[1]:
        raise ParserError(f"--body has {max(shown)}, and the parser's classes are 0 to {scores.shape[1] - 1}")
    colors = np.zeros((scores.shape[1], 3), np.uint8)
    colors[[*shown]] = [color_of(i) for i in shown]
    found = []
    for image, of_image in zip(images, scores.float()):
        size = image.height, image.width
        full = torch.nn.functional.interpolate(of_image[None], size, mode="bilinear", align_corners=False)
        found.append(Image.fromarray(colors[full[0].argmax(dim=0).numpy()]))
    return found


def color_of(number: int) -> tuple[int, int, int]:
    """Of a class: Pascal VOC's palette, in which classes that are near each other have colours that are not."""
    color = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            color[channel] |= (number >> 3 * bit + channel & 1) << 7 - bit
    red, green, blue = color
    return red, green, blue


def classes(text: str) -> list[int]:
    """Of a list with commas."""
    return [count(0)(number) for number in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a yaml file of configs/ with DATA.SHAPES")
    parser.add_argument("--parser", type=Path, required=True, help="the parser's file")
    parser.add_argument("--torchvision", metavar="NAME", default="", help="its network, where the file is a state dict")
    parser.add_argument("--body", type=classes, default=[], metavar="1,2,...", help="default: all but 0")
    parser.add_argument("--size", type=count(16), nargs=2, default=[512, 256], help="height and width that it sees")
    parser.add_argument("--batch", type=count(1), default=16, help="images at once")
    parser.add_argument("--device", default="auto", help="auto (CUDA if there is one), cpu, cuda or cuda:N")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the file's")
    args = parser.parse_intermixed_args()
    cfg = load_config(args.config, args.overrides)
    if not cfg.DATA.SHAPES:
        raise ConfigError("DATA.SHAPES names no folder to write to: take a configuration of sefel, and set it")
    if not args.parser.is_file():
        raise ParserError(f"there is no parser {args.parser}: --parser is the path of its file")
    benchmark = open_data(cfg.DATA)
    folder = absolute(benchmark.root / cfg.DATA.SHAPES)
    require_folder(folder, "choose another DATA.SHAPES")
    device = select_device(args.device)
    file, name = args.parser, args.torchvision
    network = torchvision_parser(file, name, device) if name else onnx_parser(file)
    places = {image.path: path_in(folder, benchmark.root, image.path) for image in benchmark.train}
    wanted = [path for path, place in places.items() if not os.path.exists(place)]
    bare = []
    height, width = args.size
    for first in tqdm(range(0, len(wanted), args.batch), "shapes", disable=None):
        paths = wanted[first:first + args.batch]
        for path, shape in zip(paths, parsed(network, [*map(read_image, paths)], height, width, args.body)):
            if (np.asarray(shape).any(axis=2)).mean() < BARE:
                bare.append(path)
            write(shape, Path(places[path]))
    if bare:
        print(
            f"warning: in {len(bare)} of {how_many(len(wanted), 'image')} the parser sees hardly any body, such as "
            f"{bare[0]}"
        )
    print(f"{folder}: {how_many(len(wanted), 'shape')} written, {len(places) - len(wanted)} were there")
    chosen = [*places][::max(1, len(places) // SHOWN)][:SHOWN]
    cells = [Cell(read_image(file)) for path in chosen for file in (path, places[path])]
    rows = [("", cells[i:i + 8]) for i in range(0, len(cells), 8)]
    save(sheet(rows, ["image", "shape"] * 4, f"body shapes of {benchmark.name}"), folder / SHEET, 88)
    print(folder / SHEET)


def write(shape: Image.Image, place: Path) -> None:
    """Whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with replacing(place) as unfinished:
        shape.save(unfinished, quality=95)


if __name__ == "__main__":
    fail_clearly(main, (*EXPECTED_ERRORS, ParserError, SheetError, WeightsFileError))
