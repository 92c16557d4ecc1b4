"""What happens to a rectangle of a training image: it is erased, or filled from another channel."""

import cv2
import numpy as np
import torch

from data.pixels import MEAN, STD, chance
from data.records import DataError


class RandomErasing:
    """Fills a rectangle of the normalised image with a constant per channel.

    Its part of the area and its aspect ratio (height over width) are drawn uniformly, until it fits into the image.
    (That of torchvision draws the ratio's logarithm uniformly.)

    p         probability that it does
    area      smallest and largest part of the image's area
    fill      by channel
    aspect    smallest and largest aspect ratio
    before_normalise
              the fill is that of an image in [0, 1], erased before it is normalised
    tries     after so many the image stays as it is; 0: after a thousand, an error
    even_log  draw the ratio's logarithm uniformly
    raises    DataError for an area that no image has, and where nothing fits in a thousand tries
    """

    def __init__(
        self, p: float, area: list[float], fill: list[float], aspect: list[float], tries: int, even_log: bool = False,
        before_normalise: bool = False,
    ):
        self.p, self.area, self.fill, self.tries = p, area, fill, tries
        self.aspect, self.even_log = (np.log(aspect).tolist() if even_log else aspect), even_log
        if before_normalise:  # no level of uint8 is such a fill, so its value after normalisation is left
            self.fill = [(value - mean) / std for value, mean, std in zip(fill, MEAN, STD)]
        if not 0 < area[0] <= area[1] < 1:
            raise DataError(f"erase has the area {list(area)}; it needs 0 < smallest <= largest < 1")

    def __call__(self, image: np.ndarray, out: np.ndarray) -> np.ndarray:
        if chance(self.p):
            place = self.place(*image.shape[:2])
            if place is not None:
                top, left, height, width = place
                bottom_right = (left + width - 1, top + height - 1)  # inclusive
                cv2.rectangle(image, (left, top), bottom_right, self.fill, cv2.FILLED)
        return image

    def place(self, rows: int, columns: int) -> tuple[int, int, int, int] | None:
        """Top, left, height and width of the rectangle, in an image of so many pixels."""
        for _ in range(self.tries or 1000):  # six in ten tries fit at the paper's sizes
            ranges, drawn = (self.area, self.aspect), torch.rand(2).tolist()
            area, ratio = (low + part * (high - low) for (low, high), part in zip(ranges, drawn))
            area, ratio = area * rows * columns, np.exp(ratio).item() if self.even_log else ratio
            height, width = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if 0 < height < rows and 0 < width < columns:
                top = int(torch.randint(rows - height + 1, (1,)))
                left = int(torch.randint(columns - width + 1, (1,)))
                return top, left, height, width
        if self.tries:
            return None
        raise DataError(f"erase has the area {self.area}, and no such part fits into {rows}x{columns} pixels")


class ChannelCutMix:
    """A rectangle of one channel is pasted into another one, which then is all three (MCJA).

    swapped   as in its authors' code, the rectangle is drawn for an image of exchanged height and width: in an upright
              one it lies in the upper part, and what is beyond the right edge is cut off
    """

    def __init__(self, p: float, area: list[float], aspect: list[float], tries: int, swapped: bool):
        self.p, self.swapped = p, swapped
        self.rectangle = RandomErasing(1.0, area, [], aspect, tries, even_log=True)

    def __call__(self, image: np.ndarray, out: np.ndarray) -> np.ndarray:
        if not chance(self.p):
            return image
        under, over = torch.randperm(3)[:2].tolist()
        channel, (rows, columns) = image[:, :, under].copy(), image.shape[:2]
        place = self.rectangle.place(*((columns, rows) if self.swapped else (rows, columns)))
        if place is not None:
            top, left, height, width = place
            inside = slice(top, top + height), slice(left, left + width)
            channel[inside] = image[:, :, over][inside]
        return cv2.cvtColor(channel, cv2.COLOR_GRAY2RGB)
