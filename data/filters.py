"""Blurs and zooms of float32 images, as corruptions need them (data/corruptions.py, data/weather.py)."""

import cv2
import numpy as np


def blurred(x: np.ndarray, sigma: float) -> np.ndarray:
    """(H, W) or (H, W, 3): Gaussian blur that reaches four deviations far; the border is repeated."""
    side = 2 * int(4 * sigma + 0.5) + 1
    return cv2.GaussianBlur(x, (side, side), sigma, borderType=cv2.BORDER_REPLICATE)


def motion_blurred(x: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """The mean of the image and its copies moved by 1, 2, ... 2 · radius pixels along a line.

    x       (H, W) or (H, W, 3); the border is repeated
    sigma   weights of the copies fall as a Gaussian does
    angle   of the line, in degrees
    """
    distance = np.arange(2 * radius + 1)
    weight = np.exp(-(distance**2) / (2 * sigma**2))
    angle = np.deg2rad(angle)
    right, down = (np.int64(np.ceil(distance * part - 0.5)) for part in (np.cos(angle), np.sin(angle)))
    kernel = np.zeros((4 * radius + 1, 4 * radius + 1), np.float32)
    np.add.at(kernel, (2 * radius + down, 2 * radius + right), weight / weight.sum())
    return cv2.filter2D(x, -1, kernel, borderType=cv2.BORDER_REPLICATE)


def zoomed(x: np.ndarray, factor: float) -> np.ndarray:
    """(H, W) or (H, W, 3): its middle part, enlarged linearly to that size or a little more; corners stay corners."""
    inner = [-int(-size // factor) for size in x.shape[:2]]
    top, left = ((size - part) // 2 for size, part in zip(x.shape, inner))
    height, width = (round(part * factor) for part in inner)
    down, right = ((part - 1) / max(size - 1, 1) for part, size in zip(inner, (height, width)))
    return cv2.warpAffine(
        np.ascontiguousarray(x[top:top + inner[0], left:left + inner[1]]),
        np.array([[right, 0, 0], [0, down, 0]], np.float64), (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
    )
