"""Where a network looks, on visible and infrared images of the same people side by side."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from data.dataset import EvalImages
from data.pixels import open_image
from data.records import Record
from models.deen import DEEBranch
from models.network import Network
from models.parts.csc_cma import SpatialAttention
from models.parts.hce import HCE, DilatedBottleneck
from models.parts.layers import WindowAttention
from models.parts.non_local import SelfNonLocal
from utils.reporting.drawing import plain_matplotlib
from utils.reporting.sheets import Cell, sheet

GRAD_CAM = "Grad-CAM"
HEIGHT, WIDTH, BETWEEN = 160, 80, 4  # of an image on the sheet, and between the two of a pair; in pixels


def energy(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The output's mean magnitude over channels."""
    return y.abs().mean(dim=1)


def change(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The mean magnitude of what a residual module adds."""
    return (y - x).abs().mean(dim=1)


def gate(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The weight of each position, where y is weight · x in every channel."""
    return (x * y).sum(dim=1) / x.square().sum(dim=1).clamp(min=torch.finfo(x.dtype).tiny)


def attention_received(module: WindowAttention, x: Tensor, y: Tensor | None = None) -> Tensor:
    """The attention that each position receives, as a multiple of what it would if its window's all received the same.

    Mean over heads and over the queries of its window; positions that only fill up windows ask nothing.

    x         (B, H, W, C)
    returns   (B, H, W)
    """
    even = copy.deepcopy(module).requires_grad_(False)
    even.bias_table.zero_()
    for parameter in (even.qkv.weight, even.qkv.bias):
        parameter[: 2 * x.shape[3]] = 0  # queries and keys
    return summed_attention(module, x) / summed_attention(even, x)


@torch.enable_grad()
def summed_attention(module: WindowAttention, x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, H, W): attention to each position, summed over queries, mean over heads.

    What is gathered is linear in the values, so the gradient of its sum by a value is that value's summed attention,
    however the module cuts its windows.
    """
    seen = {}

    def make_leaf(_: object, inputs: object, projected: Tensor) -> Tensor:
        seen["qkv"] = projected.detach().requires_grad_()
        return seen["qkv"]

    def note(_: object, inputs: tuple[Tensor, ...]) -> None:
        seen["gathered"], = inputs

    with module.qkv.register_forward_hook(make_leaf), module.project.register_forward_pre_hook(note):
        module.forward(x)  # not module(x): its own hooks are not to run again
    gradient, = torch.autograd.grad(seen["gathered"].sum(), seen["qkv"])
    return gradient[..., -x.shape[3]:].mean(dim=3)


class Kind(NamedTuple):
    """What is shown of a module: a map (B, h, w) from its input and its output."""

    name: str
    map_of: Callable[[Any, Tensor, Tensor], Tensor]


KINDS = {
    HCE: Kind("HCE", energy),
    DilatedBottleneck: Kind("HCE", energy),
    WindowAttention: Kind("window attention", attention_received),
    SpatialAttention: Kind("spatial attention", gate),
    DEEBranch: Kind("DEE branch", energy),
    SelfNonLocal: Kind("non-local", change),
}
OF_THE_METHOD = ("HCE", "window attention", "spatial attention")


def titled_modules(model: Network) -> dict[str, nn.Module]:
    """The network's modules that can be shown, in its order: "HCE 1", "HCE 2", ..."""
    titled: dict[str, nn.Module] = {}
    numbers: dict[str, int] = {}
    for module in model.modules():
        if type(module) in KINDS:
            name = KINDS[type(module)].name
            numbers[name] = numbers.get(name, 0) + 1
            titled[f"{name} {numbers[name]}"] = module
    return titled


def attention_maps(model: Network, images: Tensor, infrared: bool) -> tuple[dict[str, Tensor], Tensor | None]:
    """Maps by title, each (B, h, w), and the training class (B,) that Grad-CAM speaks of; None without Grad-CAM.

    model    in evaluation mode
    images   (B, 3, H, W), of one modality
    """
    maps: dict[str, Tensor] = {}
    last: list[Tensor] = []

    def showing(title: str) -> Callable:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            maps[title] = KINDS[type(module)].map_of(module, inputs[0], output)
        return keep

    hooks = [module.register_forward_hook(showing(title)) for title, module in titled_modules(model).items()]
    mapped = model.last_map(infrared)
    if mapped is not None:
        hooks.append(mapped[0].register_forward_hook(lambda _, inputs, output: last.append(output)))
    try:
        with torch.no_grad():
            model.embed(images, infrared, flip=False)
            maps |= {title: map_of(images) for title, map_of in model.own_maps().items()}
    finally:
        for hook in hooks:
            hook.remove()

    if mapped is None:
        return maps, None
    maps[GRAD_CAM], predicted = grad_cam(mapped[1], last[0])
    return maps, predicted


def grad_cam(logits_of: Callable[[Tensor], Tensor], last: Tensor) -> tuple[Tensor, Tensor]:
    """Which positions of the last map speak for the training class that is predicted (Selvaraju et al., ICCV 2017).

    The channels are weighted by the mean gradient of that class' logit (the mean of the views'); of their sum the
    positive part, then the mean over views.

    logits_of   of `Network.last_map`
    last        (V * B, D, h, w)
    returns     (B, h, w) and the class (B,)
    """
    last = last.detach().requires_grad_()
    logits, predicted = logits_of(last).mean(dim=0).max(dim=1)
    gradient, = torch.autograd.grad(logits.sum(), last)
    cam = (gradient.mean(dim=(2, 3), keepdim=True) * last.detach()).sum(dim=1).relu()
    return cam.unflatten(0, (-1, len(predicted))).mean(dim=0), predicted


def attention_picture(
    model: Network, pairs: Sequence[Sequence[Record]], trained_on: Sequence[int], height: int, width: int,
    device: torch.device, title: str, resize: str = "lanczos",
) -> Image.Image:
    """A row for each person, a column for each kind of map; in each cell the visible image, then the infrared one.

    pairs           a visible and an infrared record of the same identity, or one of the only modality there is
    trained_on      identity of each training class
    height, width   of the network's input; `resize` says how images get that size
    """
    rows, columns = [], []
    for pair in pairs:
        images = [Image.fromarray(open_image(record.path, HEIGHT, WIDTH)) for record in pair]
        shown = []
        for i, record in enumerate(pair):
            image, _ = EvalImages(pair, [i], height, width, resize)[0]
            shown.append(attention_maps(model, image[None].to(device), record.infrared))
        columns = [*shown[0][0]]
        cells = [Cell(side_by_side(images), " | ".join("IR" if record.infrared else "VIS" for record in pair))]
        for column in columns:
            maps = [maps[column][0].cpu() for maps, _ in shown]
            overlays = [overlay(image, values) for image, values in zip(images, maps)]
            caption = " | ".join(map(extent, maps))
            if column == GRAD_CAM:
                people = [trained_on[int(predicted)] for _, predicted in shown if predicted is not None]
                caption += "\ntraining identity " + " | ".join(map(str, people))
            cells.append(Cell(side_by_side(overlays), caption))
        cameras = " | ".join(str(record.camera) for record in pair)
        rows.append((f"identity {pair[0].identity}\ncamera {cameras}", cells))
    return sheet(rows, ["pictures", *columns], title, HEIGHT, 2 * WIDTH + BETWEEN, apart={1})


def extent(values: Tensor) -> str:
    """A map's least and its greatest value."""
    return f"{values.min():.3g}-{values.max():.3g}" if values.any() else "zero everywhere"


def overlay(image: Image.Image, values: Tensor) -> Image.Image:
    """The image in grey under the map (h, w): purple where that is least, yellow where it is greatest."""
    low, high = values.min(), values.max()
    values = (values - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny)
    size = image.height, image.width
    values = F.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    colours = Image.fromarray(plain_matplotlib().colormaps["viridis"](values.numpy(), bytes=True)).convert("RGB")
    return Image.blend(image.convert("L").convert("RGB"), colours, 0.6)


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    canvas = Image.new("RGB", (len(images) * (WIDTH + BETWEEN) - BETWEEN, HEIGHT), "white")
    for i, image in enumerate(images):
        canvas.paste(image, (i * (WIDTH + BETWEEN), 0))
    return canvas
