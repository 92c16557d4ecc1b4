"""A tree of SYSU-MM01's true shape with one tiny picture for each image, from one's own split files.

    python scripts/make_sysu_stub.py --split SYSU-MM01/exp --output datasets/sysu_stub

To check protocols and readers without the pictures: galleries, queries and counts are those of the real data set.
--split is a folder with rand_perm_cam.mat and test_id.txt (train_id.txt and val_id.txt too, if they are there). The
permutations tell how many images each camera has of each identity; all of them share one picture by hard links.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat

CAMERAS = range(1, 7)


def make_stub(split: Path, output: Path) -> int:
    """Write the tree; returns the number of images."""
    cameras = loadmat(split / "rand_perm_cam.mat")["rand_perm_cam"].ravel()
    output.mkdir(parents=True)
    picture = output / "stub.jpg"
    Image.new("RGB", (8, 16), (96, 96, 96)).save(picture)
    count = 0
    for camera in CAMERAS:
        for identity, matrix in enumerate(cameras[camera - 1].ravel(), start=1):
            images = np.atleast_2d(matrix).shape[1]
            folder = output / f"cam{camera}" / f"{identity:04d}"
            if images:
                folder.mkdir(parents=True)
            for number in range(1, images + 1):
                os.link(picture, folder / f"{number:04d}.jpg")
            count += images
    (output / "exp").mkdir()
    for file in ("rand_perm_cam.mat", "train_id.txt", "val_id.txt", "test_id.txt"):
        if (split / file).exists():
            shutil.copy(split / file, output / "exp" / file)
    if not (output / "exp" / "val_id.txt").exists():  # the reader joins both lists
        shutil.copy(output / "exp" / "train_id.txt", output / "exp" / "val_id.txt")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    if not (args.split / "rand_perm_cam.mat").exists():
        sys.exit(f"error: there is no {args.split}/rand_perm_cam.mat; it comes with SYSU-MM01's evaluation code")
    if args.output.exists():
        sys.exit(f"error: {args.output} exists already; remove it or choose another --output")
    print(f"{make_stub(args.split, args.output)} images in {args.output}")


if __name__ == "__main__":
    main()
