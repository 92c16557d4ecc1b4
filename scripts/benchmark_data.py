"""How fast the training images come, against the plain pipeline of torchvision, in one process with one thread.

    python scripts/benchmark_data.py            # the sizes of the data sets and each method's batches, a minute or two
    python scripts/benchmark_data.py --quick    # a few seconds, to see it run

Both ways make the same batches of 24 images, from uint8 arrays in memory to one float32 tensor, by the steps of
docs/method.md section 8; they take turns, and the medians over the rounds are printed. Then: reading a training image
from its JPEG file (decode, resize) and from the cache (memory map, checksum), all files being in the system's memory.
Last: whole batches of each method's paper, read and augmented, as many images as the network gets. Seconds are the
processor's, so what else the machine does counts little.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import cv2
import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision import transforms
from yacs.config import CfgNode

from assembly.recipe import body_shapes, cached_images, train_batches
from common.words import how_many
from configs.load import load_config
from data.cache import prepared
from data.dataset import open_benchmark
from data.pixels import MEAN, STD, open_image
from data.records import Benchmark, Record
from data.synthetic import write_synthetic
from data.transforms import Pipeline
from models.build import MODELS

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
BATCH = 24  # images of one modality in the paper's batch
RECIPES = {  # name: height, width, jitter, erasing area
    "SYSU-MM01": (384, 192, True, (0.2, 0.8)),
    "RegDB, LLCM": (384, 144, False, (0.02, 0.4)),
}


class FieldsErasing:
    """Random erasing as published code writes it, on one (3, H, W) tensor, in place; tries until one fits."""

    def __init__(self, area: tuple[float, float]):
        self.area = area

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if random.uniform(0, 1) >= 0.5:
            return image
        while True:
            target = random.uniform(*self.area) * image.shape[1] * image.shape[2]
            ratio = random.uniform(0.3, 1 / 0.3)
            height, width = round((target * ratio) ** 0.5), round((target / ratio) ** 0.5)
            if width < image.shape[2] and height < image.shape[1]:
                top = random.randint(0, image.shape[1] - height)
                left = random.randint(0, image.shape[2] - width)
                for channel, value in enumerate(MEAN):
                    image[channel, top:top + height, left:left + width] = value
                return image


def torchvisions(height: int, width: int, jitter: bool, area: tuple[float, float]) -> transforms.Compose:
    return transforms.Compose([
        transforms.ToPILImage(),
        *([transforms.ColorJitter(0.5, 0.5, 0.5, 0.5)] if jitter else []),
        transforms.Pad(10),
        transforms.RandomGrayscale(0.5),
        transforms.RandomCrop((height, width)),
        transforms.RandomHorizontalFlip(0.5),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
        FieldsErasing(area),
    ])


def draw_images(number: int, height: int, width: int) -> list[np.ndarray]:
    """Blurred noise, (H, W, 3) uint8."""
    generator = np.random.default_rng(0)
    return [
        np.asarray(Image.fromarray(generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )) for _ in range(number)
    ]


def take_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each way; in every round each runs once."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, run in ways.items():
            begun = time.process_time()
            run()
            if i:  # the first round warms up
                seconds[name].append(time.process_time() - begun)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def augmentation(recipe: tuple, rounds: int) -> dict[str, float]:
    """Images per second of both pipelines."""
    height, width, jitter, area = recipe
    images = draw_images(BATCH, height, width)
    field, ours = torchvisions(*recipe), Pipeline([
        *["jitter"] * jitter, "pad", "grey", "crop", "flip", "normalise", {"erase": {"area": [*area]}},
    ])

    def ours_batch() -> torch.Tensor:  # as TrainBatches.load
        batch = torch.empty(BATCH, height, width, 3)
        for image, out in zip(images, batch.numpy()):
            ours(image, out)
        return batch.permute(0, 3, 1, 2)

    def field_batch() -> torch.Tensor:
        return torch.stack([field(image) for image in images])

    return {name: BATCH / s for name, s in take_turns({"torchvision": field_batch, "ours": ours_batch}, rounds).items()}


class JPEGs(Benchmark):
    """Drawn images of 384 x 160 pixels in a folder."""

    name = "jpegs"

    def __init__(self, root: Path, number: int):
        self.root, self.train = root, [Record(f"{root}/{i}.jpg", i, 1, False) for i in range(number)]
        for record, image in zip(self.train, draw_images(number, 384, 160)):
            Image.fromarray(image).save(record.path, quality=90)


def reading(recipe: tuple, number: int, rounds: int) -> dict[str, float]:
    """Images per second from the files and from the cache."""
    height, width = recipe[:2]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "pictures"
        root.mkdir()
        jpegs = JPEGs(root, number)
        cache = prepared(Path(folder) / "cache", jpegs, height, width, workers=1, report=lambda line: None)
        paths = [record.path for record in jpegs.train]
        ways = {
            "files": lambda: [open_image(path, height, width) for path in paths],
            "cache": lambda: [cache.read(path) for path in paths],
        }
        return {name: number / seconds for name, seconds in take_turns(ways, rounds).items()}


def batches(method: str, folder: Path, rounds: int, size: tuple[int, int]) -> tuple[CfgNode, dict[str, float]]:
    """The configuration of a method on SYSU-MM01, and images per second of its batches, from the files and from the
    cache: of drawn people, so few that an image would often be drawn twice, and read once.

    size   height and width of the files' images
    """
    write_synthetic(folder / "people", 0, 20, 1, 2, *size)
    overrides = ["DATA.NAME", "synthetic", "DATA.ROOT", str(folder / "people"), "DATA.WORKERS", "1"]
    cfg = load_config(CONFIGS / f"sysu_{method}.yaml", [*overrides, "DATA.CACHE", str(folder / f"cache-{method}")])
    if cfg.SOLVER.SAMPLER == "replacement":
        cfg = load_config(overrides=["SOLVER.SAMPLER", "distinct"], base=cfg)
    benchmark = open_benchmark(cfg.DATA.NAME, cfg.DATA.ROOT)
    shapes = body_shapes(cfg, benchmark)
    files = train_batches(cfg, benchmark.train, shapes=shapes)
    cached = train_batches(cfg, benchmark.train, cache=cached_images(cfg, benchmark), shapes=shapes)
    ways = {"files": lambda: files[0, 0], "cache": lambda: cached[0, 0]}
    return cfg, {name: len(files[0, 0]) / seconds for name, seconds in take_turns(ways, rounds).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small run that only shows that all works")
    options = parser.parse_args()
    rounds, number = (3, 24) if options.quick else (60, 96)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, OpenCV {cv2.__version__}, one thread")
    print(f"images/s, medians of {how_many(rounds, 'round')} of {BATCH} images\n")
    print(f"{'augmentation':14s}{'H x W':>10s}{'torchvision':>13s}{'ours':>8s}{'ratio':>8s}")
    for name, recipe in RECIPES.items():
        speed = augmentation(recipe, rounds)
        print(f"{name:14s}{recipe[0]:>5d} x {recipe[1]}{speed['torchvision']:13.0f}{speed['ours']:8.0f}"
              f"{speed['ours'] / speed['torchvision']:7.1f}x", flush=True)
    print(f"\n{'reading':14s}{'H x W':>10s}{'files':>13s}{'cache':>8s}{'ratio':>8s}")
    for name, recipe in RECIPES.items():
        speed = reading(recipe, number, max(3, rounds // 6))
        print(f"{name:14s}{recipe[0]:>5d} x {recipe[1]}{speed['files']:13.0f}{speed['cache']:8.0f}"
              f"{speed['cache'] / speed['files']:7.1f}x", flush=True)
    print(f"\n{'batches':14s}{'H x W':>10s}{'files':>13s}{'cache':>8s}")
    with tempfile.TemporaryDirectory() as folder:
        for method in [*MODELS][:1 if options.quick else None]:
            cfg, speed = batches(method, Path(folder), max(2, rounds // 6), (64, 32) if options.quick else (384, 160))
            print(f"{method:14s}{cfg.DATA.HEIGHT:>5d} x {cfg.DATA.WIDTH}{speed['files']:13.0f}{speed['cache']:8.0f}",
                  flush=True)


if __name__ == "__main__":
    fail_clearly(main, ())
