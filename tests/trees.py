"""Small trees in the layouts of SYSU-MM01, RegDB and LLCM, with tiny images."""

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SYSU_CAMERAS = (1, 2, 3, 4, 5, 6)


def coloured(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 6, 3), dtype=np.uint8))


def write_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coloured(seed).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def sysu_tree(root: Path, train=(1, 2, 3), val=(4,), test=(5, 6), images=2, cameras=SYSU_CAMERAS) -> Path:
    for part, ids in (("train", train), ("val", val), ("test", test)):
        text(root / "exp" / f"{part}_id.txt", ",".join(map(str, ids)) + "\n")
    for camera in cameras:
        for identity in (*train, *val, *test):
            for number in range(1, images + 1):
                path = root / f"cam{camera}" / f"{identity:04d}" / f"{number:04d}.jpg"
                write_image(path, seed=camera * 10_000 + identity * 100 + number)
    return root


def regdb_tree(root: Path, split=1, identities=3, images=2) -> Path:
    for part in ("train", "test"):
        for modality in ("visible", "thermal"):
            lines = []
            for label in range(identities):
                for number in range(images):
                    name = f"{modality.title()}/{part}{label}/{number}.bmp"
                    write_image(root / name, seed=label * 10 + number)
                    lines.append(f"{name} {label}")
            text(root / "idx" / f"{part}_{modality}_{split}.txt", "\n".join(lines) + "\n")
    return root


def llcm_tree(root: Path, train=(1, 2), test=(7, 8, 12), images=2) -> Path:
    for modality in ("vis", "nir"):
        lines = []
        for label, identity in enumerate(train):
            for number in range(images):
                name = f"{modality}/{identity:04d}/{identity:04d}_c03_s{number:03d}_f{number}_{modality}.jpg"
                write_image(root / name)
                lines.append(f"{name} {label}")
        text(root / "idx" / f"train_{modality}.txt", "\n".join(lines) + "\n")
        for camera in (1, 2) if modality == "vis" else (2, 4):
            for identity in test:
                for number in range(images):
                    name = f"{identity:04d}_c{camera:02d}_s{number:03d}_f{number}_{modality}.jpg"
                    write_image(root / f"test_{modality}" / f"cam{camera}" / f"{identity:04d}" / name)
    text(root / "idx" / "test_id.txt", ",".join(map(str, test)))
    return root


def folder_tree(root: Path, people=("anna", "ben", "cleo", "dan"), images=2, cameras=(), split: str = "") -> Path:
    """Folders of one's own: [split/]day|night/PERSON/[camera/]IMAGE, every camera seeing by day and by night."""
    for modality in ("day", "night"):
        for person in people:
            for camera in cameras or ("",):
                for number in range(images):
                    place = Path(split, modality, person, camera, f"{number}.jpg")
                    write_image(root / place, seed=zlib.crc32(str(place).encode()))
    return root


def market_tree(root: Path, train=(2, 7, 10), test=(1, 3), images=2) -> Path:
    """The queries are the first images of each person and camera; beside them, junk and a distractor."""
    for folder, people, cameras in (("bounding_box_train", train, (1, 2)), ("bounding_box_test", test, (1, 3))):
        for identity in people:
            for camera in cameras:
                for number in range(images):
                    name = f"{identity:04d}_c{camera}s1_{number:06d}_01.jpg"
                    write_image(root / folder / name, seed=identity * 100 + camera * 10 + number)
    for identity in test:
        for camera in (1, 3):
            write_image(root / "query" / f"{identity:04d}_c{camera}s1_000099_00.jpg", seed=identity * 100 + camera)
    for name in ("-1_c1s1_000001_01.jpg", "0000_c3s1_000002_01.jpg"):
        write_image(root / "bounding_box_test" / name, seed=9)
    return root
