"""A tree of SYSU-MM01's true shape with a tiny stand-in for each image, from one's own split files.

    python scripts/make_sysu_stub.py --split SYSU-MM01/exp --output datasets/sysu_stub

To check protocols and readers without the images: galleries, queries and counts are those of the real data set.
--split is a folder with rand_perm_cam.mat, train_id.txt and test_id.txt. The permutations tell how many images each
camera has of each identity; all of them share one image by hard links. Without a val_id.txt, the identities that
both modalities show and no list names are taken for it: with the original files, these are just its 99.
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import numpy as np
from PIL import Image
from scipy.io import loadmat

from common.words import how_many
from utils.output import OutputError, require_folder

CAMERAS = range(1, 7)
INFRARED = {3, 6}
NEEDED = ("rand_perm_cam.mat", "train_id.txt", "test_id.txt")


def count_images(mat: Path) -> dict[tuple[int, int], int]:
    """How many images there are, by (camera, identity); folders without any are left out."""
    cameras = loadmat(mat)["rand_perm_cam"].ravel()
    counts = {
        (camera, identity): np.atleast_2d(permutations).shape[1]
        for camera in CAMERAS
        for identity, permutations in enumerate(cameras[camera - 1].ravel(), start=1)
    }
    return {folder: count for folder, count in counts.items() if count}


def read_ids(path: Path) -> set[int]:
    return {int(identity) for identity in path.read_text().strip().split(",")}


def validation_ids(counts: dict[tuple[int, int], int], named: set[int]) -> set[int]:
    cameras: dict[int, set[int]] = {}
    for camera, identity in counts:
        cameras.setdefault(identity, set()).add(camera)
    return {i for i, seen in cameras.items() if i not in named and seen & INFRARED and seen - INFRARED}


class StubError(ValueError):
    """The split files are absent, or the folder exists already."""


def make_stub(split: Path, output: Path) -> int:
    """Write the tree, whole or not at all; returns the number of images."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=output.parent))
    try:
        number = write_tree(split, unfinished)
        os.chmod(unfinished, 0o755)  # mkdtemp's is for its owner only
        os.rename(unfinished, output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return number


def write_tree(split: Path, output: Path) -> int:
    counts = count_images(split / "rand_perm_cam.mat")
    exp = output / "exp"
    exp.mkdir(parents=True)
    for name in (*NEEDED, "val_id.txt"):
        if (split / name).exists():
            shutil.copyfile(split / name, exp / name)
    if not (exp / "val_id.txt").exists():
        train, test = (read_ids(exp / f"{part}_id.txt") for part in ("train", "test"))
        ids = validation_ids(counts, train | test) or train  # the reader joins train and val, and wants no empty list
        (exp / "val_id.txt").write_text(",".join(map(str, sorted(ids))) + "\n")

    image = output / "stub.jpg"
    Image.new("RGB", (8, 16), (96, 96, 96)).save(image)
    for (camera, identity), count in counts.items():
        folder = output / f"cam{camera}" / f"{identity:04d}"
        folder.mkdir(parents=True)
        for number in range(1, count + 1):
            os.link(image, folder / f"{number:04d}.jpg")
    return sum(counts.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    for name in NEEDED:
        if not (args.split / name).is_file():
            raise StubError(f"there is no {args.split / name}; it comes with SYSU-MM01 and its evaluation code")
    if os.path.lexists(args.output):
        raise StubError(f"{args.output} exists already; remove it or choose another --output")
    require_folder(args.output, fix="choose another --output")
    print(f"{how_many(make_stub(args.split, args.output), 'image')} in {args.output}")


if __name__ == "__main__":
    fail_clearly(main, (OSError, OutputError, StubError))
