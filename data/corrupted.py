"""Which corruption a test image gets, and in which order it is corrupted and resized (docs/robustness.md)."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image

from data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from data.pixels import RESIZES, read_image, resized

ORDERS = ("resized", "native")
VERSION = 1  # of the drawing and of the corruptions: raise it when the same seed gives other images


@dataclass(frozen=True)
class CorruptedReader:
    """Reads images as `open_image` of data/pixels.py does, and corrupts them.

    An image's corruption is drawn from (seed, repeat, its path in the data set) alone.

    root     of the data set
    order    "resized": after the resize to the network's size; "native": before it, on the file's own pixels
    only     a corruption and a severity for all images, instead of drawn ones
    """

    root: str
    order: str
    seed: int
    repeat: int = 0
    only: tuple[str, int] | None = None

    def drawn(self, path: str) -> tuple[str, int, Generator]:
        """Its corruption, evenly drawn, its severity likewise, and the generator for what the corruption draws."""
        name = path.removeprefix(f"{self.root}/")
        key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
        rng = np.random.default_rng((self.seed, self.repeat, key))
        which, severity = [*CORRUPTIONS][rng.integers(len(CORRUPTIONS))], SEVERITIES[rng.integers(len(SEVERITIES))]
        return *(self.only or (which, severity)), rng

    def __call__(self, path: str, height: int, width: int, resize: str = "lanczos") -> np.ndarray:
        """(height, width, 3) uint8.

        raises   DataError, as `open_image`
        """
        image = read_image(path)
        if self.order == "resized":
            image = image.resize((width, height), RESIZES[resize])
        found = Image.fromarray(corrupt(np.asarray(image), *self.drawn(path)))
        return resized(found, height, width, resize)
