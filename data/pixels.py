"""From an image on disk to the network's input, and what is done to pixels on the way.

docs/method.md section 8. Images are resized by Pillow (Lanczos, as a rule); from there on they are (H, W, 3) uint8
arrays in RGB, on which OpenCV is several times faster than Pillow, until one table lookup normalises them. Random
numbers come from torch's default generator, in the order in which torchvision's transforms draw them.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from data.formats import HEIF, MORE, contents, reads_heif
from data.records import DataError

ImageFile.LOAD_TRUNCATED_IMAGES = False
cv2.setNumThreads(0)  # a loader has one process for each core already, and OpenCV's threads do not survive a fork
RESIZES = {"lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR}  # antialiased, both
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
LEVELS = np.arange(256, dtype=np.float32)[:, None, None] / 255
NORMALISED = (LEVELS - np.array(MEAN, np.float32)) / np.array(STD, np.float32)  # (256, 1, 3)


def open_image(path: str, height: int, width: int, resize: str = "lanczos") -> np.ndarray:
    """(height, width, 3) uint8: the image in RGB, resized without keeping its aspect ratio.

    resize   one of RESIZES

    It is turned as its EXIF tag says. Grey values of more than 8 bits (16- or 32-bit integers, floats) are scaled
    linearly, the image's least to 0 and its greatest to 255.

    raises   DataError naming a file that is missing, unreadable, empty, truncated or no image
    """
    return resized(read_image(path), height, width, resize)


def read_image(path: str) -> Image.Image:
    """The image in RGB, in the size that it has; `open_image` says the rest.

    raises   DataError
    """
    if path.lower().endswith(HEIF) and not reads_heif():
        raise DataError(f"{path} is a HEIF image, for which pillow-heif is needed: {MORE}")
    try:
        with Image.open(path, formats=contents()) as image:
            return in_rgb(image)
    except FileNotFoundError:
        raise DataError(f"there is no image {path}; where a data set lists it, is the copy complete?") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder, not an image: name the images in it") from None
    except Exception as error:  # noqa: BLE001 - Pillow raises many kinds for broken files
        if isinstance(error, OSError) and error.errno is not None:  # the system's own, not Pillow's
            raise DataError(f"{path} could not be read ({error.strerror}); look at its permissions and disk") from None
        other = isinstance(error, UnidentifiedImageError)
        why = f"its content is none of {', '.join(contents())}" if other else error
        raise DataError(f"{path} is broken or no image ({why}); replace it from the original data set") from None


def in_rgb(image: Image.Image) -> Image.Image:
    """An image, which this may change, turned and in 8 bits as `open_image` says; Pillow's errors come through."""
    ImageOps.exif_transpose(image, in_place=True)  # costs nothing where there is no tag
    if image.mode.startswith(("I", "F")):
        image = in_8_bits(np.asarray(image, np.float64))
    return image.convert("RGB")


def resized(image: Image.Image, height: int, width: int, resize: str) -> np.ndarray:
    """(height, width, 3) uint8; an image of that size already stays as it is."""
    return np.asarray(image.resize((width, height), RESIZES[resize]))


def in_8_bits(values: np.ndarray) -> Image.Image:
    """(H, W) -> a grey image, the least value black and the greatest white; black where all are equal."""
    low, high = values.min(), values.max()
    if not np.isfinite(high - low):
        raise ValueError("some of its grey values are not finite")
    return Image.fromarray(np.uint8(np.rint((values - low) * (255 / ((high - low) or 1)))))


def eval_transform(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32; the mirrored image is the network's business."""
    out = torch.empty(image.shape)
    normalise(image, out.numpy())
    return out.permute(2, 0, 1)


def chance(probability: float) -> bool:
    return torch.rand(1).item() < probability


def uniform(low: float, high: float) -> float:
    return low + torch.rand(1).item() * (high - low)


def normalise(image: np.ndarray, out: np.ndarray) -> None:
    """uint8 to [0, 1], then ImageNet's normalisation: (H, W, 3) into `out`, float32 of the same shape."""
    cv2.LUT(image, NORMALISED, dst=out)


def to_grey(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W) uint8."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def jitter_colours(image: np.ndarray) -> np.ndarray:
    """Brightness, contrast, saturation and hue in a random order, each by a random factor."""
    order = torch.randperm(4).tolist()
    brightness, contrast, saturation, hue = torch.rand(4).tolist()
    steps = (
        (adjust_brightness, 0.5 + brightness), (adjust_contrast, 0.5 + contrast), (adjust_saturation, 0.5 + saturation),
        (adjust_hue, hue - 0.5),
    )
    for i in order:
        adjust, factor = steps[i]
        image = adjust(image, factor)
    return image


def jitter_light(image: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    """Brightness and contrast in a random order, each by a factor that differs from 1 by so much at most."""
    steps = (adjust_brightness, brightness), (adjust_contrast, contrast)
    for i in torch.randperm(2).tolist():
        adjust, most = steps[i]
        image = adjust(image, uniform(1 - most, 1 + most))
    return image


def gaussian_blur(image: np.ndarray, radius: int, sigma: float) -> np.ndarray:
    """(H, W, 3) uint8, mirrored at its border without repeating the outermost pixels."""
    return cv2.GaussianBlur(image, (2 * radius + 1, 2 * radius + 1), sigma, borderType=cv2.BORDER_REFLECT_101)


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """The image blended with black."""
    return cv2.addWeighted(image, factor, image, 0, 0)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """The image blended with the mean of its grey version."""
    return cv2.addWeighted(image, factor, image, 0, (1 - factor) * round(cv2.mean(to_grey(image))[0]))


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """The image blended with its grey version."""
    return cv2.addWeighted(image, factor, cv2.cvtColor(to_grey(image), cv2.COLOR_GRAY2RGB), 1 - factor, 0)


def adjust_hue(image: np.ndarray, turn: float) -> np.ndarray:
    """The image with all hues moved along their circle, by a part of it."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[:, :, 0] += np.uint8(round(turn * 256) % 256)  # the circle has 256 steps, so uint8 goes round it
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def mix_channels(image: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """(H, W, 3) -> (H, W, 3) uint8: all channels become their weighted mean. Not all weights are 0."""
    mix = np.array([weights]) / max(sum(weights), np.finfo(np.float32).tiny)
    return cv2.transform(image, np.repeat(mix, 3, axis=0))


def random_crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    top = torch.randint(image.shape[0] - height + 1, (1,)).item()
    left = torch.randint(image.shape[1] - width + 1, (1,)).item()
    return image[top:top + height, left:left + width]


def exchange_channels(image: np.ndarray, grey: bool = False) -> None:
    """CAJ's channel exchange: all channels become one of them, drawn evenly, or (where asked for) their grey.

    image   (H, W, 3), is changed
    """
    channel = int(torch.randint(4 if grey else 3, (1,)))
    image[:] = grey_level(image) if channel == 3 else image[:, :, channel, None].copy()


def adapt_channels(image: np.ndarray) -> None:
    """CAJ's channel adaption with grey, for infrared images: each channel or the rest, a quarter each; half of the rest
    becomes grey, half stays as it is.

    image   (H, W, 3), is changed
    """
    channel = int(torch.randint(4, (1,)))
    if channel < 3:
        image[:] = image[:, :, channel, None].copy()
    elif chance(0.5):
        image[:] = grey_level(image)


def grey_level(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W, 1), of values as they are: here of normalised ones, as in CAJ's code."""
    return image @ np.array([[0.2989], [0.5870], [0.1140]], dtype=image.dtype)
