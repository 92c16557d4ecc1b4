"""Body-shape images: beside each training image, the person cut out of it (scripts/make_shapes.py)."""

import os
from dataclasses import replace
from pathlib import Path

from data.files import absolute
from data.records import Benchmark, DataError

WHERE_FROM = (
    "a body-shape image is the person cut out of a training image by a human parser. SEFEL's authors offer those of "
    "SYSU-MM01 by link; scripts/make_shapes.py makes them with a parser that you have; python -m data.synthetic draws "
    "those of the embedded data set"
)


class Shapes(Benchmark):
    """The body-shape images of a data set's training images, as a data set of their own: a cache can hold them.

    folder   in which they have the paths that the images have in the data set; from the data set's root on
    own      path of an image -> path of its body shape, both absolute
    raises   DataError that counts those that are missing
    """

    def __init__(self, benchmark: Benchmark, folder: str | Path):
        self.name, self.root = f"{benchmark.name}-shapes", absolute(benchmark.root / folder)
        if hasattr(benchmark, "split"):
            self.split = benchmark.split
        images = benchmark.train
        self.own = {image.path: path_in(self.root, benchmark.root, image.path) for image in images}
        missing = [path for path in self.own.values() if not os.path.exists(path)]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(self.own)} training images have no body shape in {self.root}, such as "
                f"{missing[0]}: {WHERE_FROM}. Set DATA.SHAPES to the folder that has them all"
            )
        self.train = [replace(image, path=self.own[image.path]) for image in images]
        self.test = []


def path_in(folder: Path, root: Path, image: str) -> str:
    """Where the body shape of an image of the data set in `root` lies."""
    return f"{folder.as_posix()}/{image.removeprefix(f'{root.as_posix()}/')}"
