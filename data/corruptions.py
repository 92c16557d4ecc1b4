"""Twenty corruptions of an image, each in five severities (docs/robustness.md has their numbers).

Nineteen are those of ImageNet-C (Hendrycks and Dietterich, ICLR 2019), as the package imagecorruptions-imaug 1.1.5
computes them for images of any shape; rain is that of CIL (Chen et al., NeurIPS 2021). A corruption takes an image
(H, W, 3) of float32 in [0, 1], a generator and the numbers of its severity, and returns an image of the same kind,
whose values may be outside [0, 1]. Those of the weather are in data/weather.py.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy.ndimage import gaussian_filter

from data import weather
from data.filters import blurred, motion_blurred, zoomed

SEVERITIES = (1, 2, 3, 4, 5)


def gaussian_noise(x: np.ndarray, rng: Generator, sigma: float) -> np.ndarray:
    return x + sigma * rng.standard_normal(x.shape, np.float32)


def shot_noise(x: np.ndarray, rng: Generator, photons: float) -> np.ndarray:
    return rng.poisson(x * photons) / photons


def impulse_noise(x: np.ndarray, rng: Generator, share: float) -> np.ndarray:
    drawn = rng.random(x.shape, np.float32)  # salt and pepper, half of the share each, channel by channel
    return np.where(drawn < share / 2, 0, np.where(drawn < share, 1, x))


def speckle_noise(x: np.ndarray, rng: Generator, sigma: float) -> np.ndarray:
    return x + x * sigma * rng.standard_normal(x.shape, np.float32)


def gaussian_blur(x: np.ndarray, rng: Generator, sigma: float) -> np.ndarray:
    return blurred(x, sigma)


def glass_blur(x: np.ndarray, rng: Generator, sigma: float, far: int, rounds: int) -> np.ndarray:
    """Each pixel becomes one near it, from below to above and from right to left, between two blurs.

    ImageNet-C's code says that two pixels are exchanged; what it does, as numpy's rows are views, is to copy one.
    """
    height, width = x.shape[:2]
    places = np.arange(height - far, far, -1)[:, None] * width + np.arange(width - far, far, -1)
    source = [*range(height * width)]
    for _ in range(rounds):
        down, right = rng.integers(-far, far, (2, *places.shape))
        nearby = places + down * width + right
        for place, near in zip(places.ravel().tolist(), nearby.ravel().tolist()):
            source[place] = source[near]  # in this order, as one pixel may move many times; a list is fast
    return blurred(blurred(x, sigma).reshape(-1, 3)[source].reshape(x.shape), sigma)


def defocus_blur(x: np.ndarray, rng: Generator, radius: int, alias: float) -> np.ndarray:
    reach, side = (8, 3) if radius <= 8 else (radius, 5)
    along = np.arange(-reach, reach + 1)
    disk = np.float32(along[:, None] ** 2 + along**2 <= radius**2)
    return cv2.filter2D(x, -1, cv2.GaussianBlur(disk / disk.sum(), (side, side), alias))


def motion_blur(x: np.ndarray, rng: Generator, radius: int, sigma: float) -> np.ndarray:
    return motion_blurred(x, radius, sigma, rng.uniform(-45, 45))


def zoom_blur(x: np.ndarray, rng: Generator, stop: float, step: float) -> np.ndarray:
    height, width = x.shape[:2]
    factors = np.arange(1, stop, step)
    return (x + sum(zoomed(x, factor)[:height, :width] for factor in factors)) / (len(factors) + 1)


def brightness(x: np.ndarray, rng: Generator, more: float) -> np.ndarray:
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)
    hsv[:, :, 2] = np.clip(hsv[:, :, 2] + more, 0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def contrast(x: np.ndarray, rng: Generator, factor: float) -> np.ndarray:
    mean = x.mean(axis=(0, 1))  # of each channel
    return (x - mean) * factor + mean


def saturate(x: np.ndarray, rng: Generator, factor: float, more: float) -> np.ndarray:
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)
    hsv[:, :, 1] = np.clip(hsv[:, :, 1] * factor + more, 0, 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def jpeg_compression(x: np.ndarray, rng: Generator, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(levels(x)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), np.float32) / 255


def pixelate(x: np.ndarray, rng: Generator, share: float) -> np.ndarray:
    height, width = x.shape[:2]
    small = max(1, int(width * share)), max(1, int(height * share))
    coarse = Image.fromarray(levels(x)).resize(small, Image.Resampling.BOX)
    return np.asarray(coarse.resize((width, height), Image.Resampling.NEAREST), np.float32) / 255


def elastic_transform(x: np.ndarray, rng: Generator, strength: float) -> np.ndarray:
    """Each pixel comes from a place that is moved by smooth noise; .005 and .01 are parts of the image's size."""
    height, width = x.shape[:2]
    most, sigma = 0.005 * height, (0.01 * height, 0.01 * width)
    noise = rng.uniform(-most, most, (2, height, width))
    right, down = (250 * strength * gaussian_filter(moved, sigma, mode="reflect", truncate=3) for moved in noise)
    from_x, from_y = np.float32(np.arange(width) + right), np.float32(np.arange(height)[:, None] + down)
    return cv2.remap(x, from_x, from_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


class Corruption(NamedTuple):
    """What is done to an image, and its numbers at severity 1, 2, 3, 4 and 5."""

    change: Callable[..., np.ndarray]
    numbers: tuple[tuple, tuple, tuple, tuple, tuple]


def of_one(*numbers: object) -> tuple:
    return tuple((number,) for number in numbers)


CORRUPTIONS = {
    "gaussian_noise": Corruption(gaussian_noise, of_one(0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": Corruption(shot_noise, of_one(60, 25, 12, 5, 3)),
    "impulse_noise": Corruption(impulse_noise, of_one(0.03, 0.06, 0.09, 0.17, 0.27)),
    "speckle_noise": Corruption(speckle_noise, of_one(0.15, 0.2, 0.35, 0.45, 0.6)),
    "gaussian_blur": Corruption(gaussian_blur, of_one(1, 2, 3, 4, 6)),
    "glass_blur": Corruption(glass_blur, ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))),
    "defocus_blur": Corruption(defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "motion_blur": Corruption(motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": Corruption(zoom_blur, ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))),
    "fog": Corruption(weather.fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "frost": Corruption(weather.frost, ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))),
    "snow": Corruption(weather.snow, (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )),
    "spatter": Corruption(weather.spatter, (
        (0.65, 0.3, 4, 0.69, 0.6, False), (0.65, 0.3, 3, 0.68, 0.6, False), (0.65, 0.3, 2, 0.68, 0.5, False),
        (0.65, 0.3, 1, 0.65, 1.5, True), (0.67, 0.4, 1, 0.65, 1.5, True),
    )),
    "rain": Corruption(weather.rain, (
        (770, 10, 3, 0.1), (600, 30, 4, 0.15), (600, 30, 5, 0.2), (500, 60, 6, 0.25), (500, 60, 7, 0.3),
    )),
    "brightness": Corruption(brightness, of_one(0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Corruption(contrast, of_one(0.4, 0.3, 0.2, 0.1, 0.05)),
    "saturate": Corruption(saturate, ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))),
    "jpeg_compression": Corruption(jpeg_compression, of_one(25, 18, 15, 10, 7)),
    "pixelate": Corruption(pixelate, of_one(0.6, 0.5, 0.4, 0.3, 0.25)),
    "elastic_transform": Corruption(elastic_transform, of_one(0.05, 0.065, 0.085, 0.1, 0.12)),
}


def levels(x: np.ndarray) -> np.ndarray:
    """[0, 1] -> uint8, the nearest level."""
    return np.uint8(np.rint(np.clip(x, 0, 1) * 255))


def corrupt(image: np.ndarray, name: str, severity: int, rng: Generator) -> np.ndarray:
    """
    image      (H, W, 3) uint8
    name       of CORRUPTIONS
    severity   1 to 5
    returns    (H, W, 3) uint8, of at least 65 rows for rain
    """
    corruption = CORRUPTIONS[name]
    found = corruption.change(np.float32(image) / 255, rng, *corruption.numbers[severity - 1])
    return np.uint8(np.clip(found, 0, 1) * 255 + 1e-3)  # fractions are cut off, as in ImageNet-C; float32's error isn't
