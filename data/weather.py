"""Fog, frost, snow, spatter and rain on an image: the corruptions of data/corruptions.py that are weather."""

from functools import cache

import cv2
import numpy as np
from numpy.random import Generator

from data.filters import blurred, motion_blurred, zoomed

WATER, MUD = np.array([175, 238, 238], np.float32) / 255, np.array([63, 42, 20], np.float32) / 255
FROSTS = (  # mean colour and deviation of grey of the five photographs of ImageNet-C, of which two are one
    ((0.31, 0.59, 0.65), 0.07), ((0.79, 0.81, 0.84), 0.09), ((0.79, 0.81, 0.84), 0.09), ((0.54, 0.60, 0.65), 0.11),
    ((0.44, 0.48, 0.53), 0.17),
)
PANE = 512  # pixels of a side of a drawn one


def plasma(size: int, decay: float, rng: Generator) -> np.ndarray:
    """(size, size) in [0, 1], by diamonds and squares on a torus; the noise's range falls by decay² with each halving.

    size   a power of 2
    """
    heights, far, step = np.zeros((size, size), np.float32), 1.0, size
    while step >= 2:
        half = step // 2
        corners, middles = heights[::step, ::step], heights[half::step, half::step]

        pairs = corners + np.roll(corners, -1, axis=0)
        middles[:] = noisy(pairs, np.roll(pairs, -1, axis=1), far, rng)
        heights[::step, half::step] = noisy(
            middles + np.roll(middles, 1, axis=0), corners + np.roll(corners, -1, axis=1), far, rng
        )
        heights[half::step, ::step] = noisy(
            middles + np.roll(middles, 1, axis=1), corners + np.roll(corners, -1, axis=0), far, rng
        )
        step, far = half, far / decay**2
    heights -= heights.min()
    return heights / max(heights.max(), np.finfo(np.float32).tiny)


def noisy(a: np.ndarray, b: np.ndarray, far: float, rng: Generator) -> np.ndarray:
    """The mean of four heights, whose sums by two are given, and noise in [-far, far)."""
    return (a + b) / 4 + rng.uniform(-far, far, a.shape)


def fog(x: np.ndarray, rng: Generator, weight: float, decay: float) -> np.ndarray:
    height, width = x.shape[:2]
    size = 1 << (max(height, width) - 1).bit_length()
    brightest = x.max()
    cloud = plasma(size, decay, rng)[:height, :width, None]
    return (x + weight * cloud) * (brightest / (brightest + weight))


@cache
def frosted(number: int) -> np.ndarray:
    """(PANE, PANE, 3): a pane with needles of ice, drawn so that nothing needs to be downloaded."""
    rng, (colour, deviation) = np.random.default_rng((2019, number)), FROSTS[number]
    pane = 3 * plasma(PANE, 1.5, rng)
    for needles, blur in ((300, 2.0), (700, 1.0), (1500, 0.5)):
        layer = np.zeros((PANE, PANE), np.float32)
        start = rng.uniform(0, PANE, (needles, 1, 2))
        angle = rng.choice(6, (needles, 1)) * np.pi / 3 + rng.normal(0, 0.25, (needles, 1))  # ice has six directions
        along = np.stack([np.cos(angle), np.sin(angle)], axis=-1) * rng.exponential(25, (needles, 1, 1))
        lines = np.int32(np.concatenate([start, start + along], axis=1))
        pane += blurred(cv2.polylines(layer, [*lines], False, 1.0, 1), blur)
    pane += 0.7 * blurred(rng.standard_normal((PANE, PANE), np.float32), 0.7)  # grain: photographs are less smooth
    pane = (pane - pane.mean()) / pane.std()
    return np.clip(np.array(colour, np.float32) + deviation * pane[:, :, None], 0, 1)


def frost(x: np.ndarray, rng: Generator, kept: float, added: float) -> np.ndarray:
    height, width = x.shape[:2]
    pane = frosted(int(rng.integers(len(FROSTS))))
    side = max(PANE, height, width)
    if side > PANE:
        pane = cv2.resize(pane, (side, side), interpolation=cv2.INTER_CUBIC)
    top, left = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
    return kept * x + added * pane[top:top + height, left:left + width]


def snow(
    x: np.ndarray, rng: Generator, mean: float, sigma: float, zoom: float, least: float, radius: int, motion: float,
    kept: float,
) -> np.ndarray:
    height, width = x.shape[:2]
    flakes = zoomed(np.float32(rng.normal(mean, sigma, (height, width))), zoom)
    flakes = np.clip(np.where(flakes < least, 0, flakes), 0, 1)
    flakes = motion_blurred(flakes, radius, motion, rng.uniform(-135, -45))[:height, :width]
    flakes = np.rint(flakes * 255)[:, :, None] / 255
    pale = np.maximum(x, cv2.cvtColor(x, cv2.COLOR_RGB2GRAY)[:, :, None] * 1.5 + 0.5)
    return kept * x + (1 - kept) * pale + flakes + flakes[::-1, ::-1]


def spatter(
    x: np.ndarray, rng: Generator, mean: float, sigma: float, blur: float, least: float, strength: float, mud: bool
) -> np.ndarray:
    liquid = blurred(np.float32(rng.normal(mean, sigma, x.shape[:2])), blur)
    if mud:
        covered = blurred(np.float32(liquid > least), strength)[:, :, None]
        covered[covered < 0.8] = 0
        return x * (1 - covered) + MUD * covered
    drops = np.uint8(np.where(liquid < least, 0, np.clip(liquid, 0, 1)) * 255)
    depth = cv2.distanceTransform(255 - cv2.Canny(drops, 50, 150), cv2.DIST_L2, 5)
    depth = cv2.equalizeHist(np.uint8(cv2.blur(np.minimum(depth, 20), (3, 3))))
    from_above_left = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)
    light = cv2.filter2D(depth, cv2.CV_8U, from_above_left)
    wet = drops * cv2.blur(light, (3, 3)).astype(np.float32)
    return x + np.clip(strength * wet[:, :, None] / max(wet.max(), 1) * WATER, 0, 1)


def rain(x: np.ndarray, rng: Generator, area: int, length: int, blur: int, darker: float) -> np.ndarray:
    """Grey lines, as many as `area` goes into the image's area, then a box blur.

    returns   (H, W, 3); of at most 60 rows, it is first enlarged to 65, so that the longest drops have room
    """
    if len(x) <= 60:
        x = cv2.resize(x, (max(1, int(x.shape[1] * 65 / len(x))), 65), interpolation=cv2.INTER_LINEAR)
    height, width = x.shape[:2]
    slant, drops = int(rng.integers(-10, 11)), height * width // area
    left = rng.integers(max(-slant, 0), max(width - max(slant, 0), max(-slant, 0) + 1), drops)
    top = rng.integers(0, max(height - length, 1), drops)
    lines = np.stack([left, top, left + slant, top + length], axis=1).reshape(-1, 2, 2).astype(np.int32)
    wet = cv2.polylines(x.copy(), [*lines], False, (200 / 255,) * 3, 1)
    return cv2.blur(wet, (blur, blur)) - darker
