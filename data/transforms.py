"""From a picture on disk to the network's input: the training and the test pipeline side by side.

docs/method.md section 8. Pictures are resized by Pillow (Lanczos); from there on they are (H, W, 3) uint8 arrays in
RGB, on which OpenCV is several times faster than Pillow, until one table lookup normalises them. Random numbers come
from torch's default generator, in the order in which torchvision's transforms draw them.
"""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from data.records import DataError

ImageFile.LOAD_TRUNCATED_IMAGES = False
cv2.setNumThreads(0)  # a loader has one process for each core already, and OpenCV's threads do not survive a fork
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
PADDING = 10  # pixels
NORMALISED = (np.arange(256, dtype=np.float32)[:, None, None] / 255 - np.float32(MEAN)) / np.float32(STD)  # (256, 1, 3)


def open_image(path: str, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: the picture in RGB, resized without keeping its aspect ratio.

    It is turned as its EXIF tag says. Grey values of more than 8 bits (16- or 32-bit integers, floats) are scaled
    linearly, the picture's least to 0 and its greatest to 255.

    raises   DataError naming a file that is missing, unreadable, empty, truncated or no picture
    """
    try:
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)  # costs nothing where there is no tag
            if image.mode.startswith(("I", "F")):
                image = in_8_bits(np.asarray(image, np.float64))
            resized = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    except FileNotFoundError:
        raise DataError(f"there is no image {path}, although the data set lists it; is the copy complete?") from None
    except Exception as error:  # Pillow raises many kinds for broken files
        if isinstance(error, OSError) and error.errno is not None:  # the system's own, not Pillow's
            raise DataError(f"{path} could not be read ({error.strerror}); look at its permissions and disk") from None
        raise DataError(f"{path} is broken or no image ({error}); replace it from the original data set") from None
    return np.asarray(resized)


def in_8_bits(values: np.ndarray) -> Image.Image:
    """(H, W) -> a grey picture, the least value black and the greatest white; black where all are equal."""
    low, high = values.min(), values.max()
    if not np.isfinite(high - low):
        raise ValueError("some of its grey values are not finite")
    return Image.fromarray(np.uint8(np.rint((values - low) * (255 / ((high - low) or 1)))))


class RandomErasing:
    """Fills a rectangle with a constant per channel, with probability 1/2.

    Its part of the area and its aspect ratio (0.3 to 1/0.3) are drawn uniformly, until it fits into the image. (That
    of torchvision draws the ratio from another distribution and gives up after ten tries.)

    image     (H, W, 3) float32, normalised; is changed
    area      smallest and largest part of the image's area
    raises    DataError for an area that no image has, and where nothing fits in a thousand tries
    """

    def __init__(self, area: tuple[float, float], fill: tuple[float, float, float] = MEAN, probability: float = 0.5):
        self.low, self.high = area
        self.fill, self.probability = fill, probability
        if not 0 < self.low <= self.high < 1:
            raise DataError(f"DATA.ERASING_AREA is {list(area)}; it needs 0 < smallest <= largest < 1")

    def __call__(self, image: np.ndarray) -> None:
        if not chance(self.probability):
            return
        rows, columns = image.shape[:2]
        for _ in range(1000):  # six in ten tries fit at the paper's sizes
            area, ratio = torch.rand(2).tolist()
            area = (self.low + area * (self.high - self.low)) * rows * columns
            ratio = 0.3 + ratio * (1 / 0.3 - 0.3)  # height over width
            height, width = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if 0 < height < rows and 0 < width < columns:
                break
        else:
            area = [self.low, self.high]
            raise DataError(f"DATA.ERASING_AREA is {area}, and no such part fits into {rows}x{columns} pixels")
        top = torch.randint(rows - height + 1, (1,)).item()
        left = torch.randint(columns - width + 1, (1,)).item()
        bottom_right = (left + width - 1, top + height - 1)  # inclusive
        cv2.rectangle(image, (left, top), bottom_right, self.fill, cv2.FILLED)


class TrainTransform:
    """The training pipeline.

    image       (H, W, 3) uint8
    out         (H, W, 3) float32, is overwritten

    jitter      change the colours at random
    grey        probability that the image loses its colours
    erase       what erases a part of the normalised image, if anything
    exchange    what changes the channels of the normalised, erased image, if anything
    """

    def __init__(
        self,
        *,
        jitter: bool = False,
        grey: float = 0.5,
        erase: RandomErasing | None = None,
        exchange: Callable[[np.ndarray], None] | None = None,
    ):
        self.jitter, self.grey, self.erase, self.exchange = jitter, grey, erase, exchange

    def __call__(self, image: np.ndarray, out: np.ndarray) -> None:
        height, width = image.shape[:2]
        if self.jitter:
            image = jitter_colours(image)
        image = cv2.copyMakeBorder(image, *[PADDING] * 4, cv2.BORDER_CONSTANT)
        if self.grey and chance(self.grey):
            image = cv2.cvtColor(to_grey(image), cv2.COLOR_GRAY2RGB)
        image = random_crop(image, height, width)
        if chance(0.5):
            image = cv2.flip(image, 1)
        normalise(image, out)
        if self.erase:
            self.erase(out)
        if self.exchange:
            self.exchange(out)


def train_transforms(options) -> tuple[list[TrainTransform], TrainTransform]:
    """The pipelines of each showing of a visible image (once, or plain and exchanged) and of an infrared image.

    options   the DATA section of the configuration
    """
    erase = None
    if options.ERASING:
        erase = RandomErasing(options.ERASING_AREA, options.ERASING_FILL, options.ERASING)
    pipeline = partial(TrainTransform, jitter=options.JITTER, grey=options.GREY, erase=erase)
    if options.EXCHANGE == "none":
        return [pipeline()], pipeline()
    exchange = partial(exchange_channels, grey=options.EXCHANGE == "channels_and_grey")
    return [pipeline(), pipeline(exchange=exchange)], pipeline(exchange=adapt_channels)


def eval_transform(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32; the mirrored image is the network's business."""
    out = torch.empty(image.shape)
    normalise(image, out.numpy())
    return out.permute(2, 0, 1)


def chance(probability: float) -> bool:
    return torch.rand(1).item() < probability


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


def random_crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    top = torch.randint(image.shape[0] - height + 1, (1,)).item()
    left = torch.randint(image.shape[1] - width + 1, (1,)).item()
    return image[top:top + height, left:left + width]


def exchange_channels(image: np.ndarray, grey: bool = False) -> None:
    """CAJ's channel exchange: all channels become one of them, drawn evenly, or (where asked for) their grey.

    image   (H, W, 3), is changed
    """
    channel = torch.randint(4 if grey else 3, (1,)).item()
    image[:] = grey_level(image) if channel == 3 else image[:, :, channel, None].copy()


def adapt_channels(image: np.ndarray) -> None:
    """CAJ's channel adaption with grey, for infrared images: each channel or the rest, a quarter each; half of the rest
    becomes grey, half stays as it is.

    image   (H, W, 3), is changed
    """
    channel = torch.randint(4, (1,)).item()
    if channel < 3:
        image[:] = image[:, :, channel, None].copy()
    elif chance(0.5):
        image[:] = grey_level(image)


def grey_level(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W, 1), of values as they are: here of normalised ones, as in CAJ's code."""
    return image @ np.array([[0.2989], [0.5870], [0.1140]], dtype=image.dtype)
