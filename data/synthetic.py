"""The embedded data set: drawn people on disk in SYSU-MM01's layout (docs/protocols.md, last section).

    python -m data.synthetic --root datasets/synthetic --seed 0

It exists to run the whole system anywhere in minutes, not to publish numbers.
"""

import argparse
import inspect
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    from utils.stop import fail_clearly, stop_in_one_line

    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import numpy as np

from data.figure import Person
from data.parallel import in_parallel
from data.photograph import Camera, render
from data.records import DataError

CAMERAS = (1, 2, 3, 4, 5, 6)
INFRARED = (3, 6)
VERSION = 2            # of the drawings: raise it when the same seed gives other images
MANIFEST = "synthetic.json"
SHAPES = "shapes"      # folder of the training images' body shapes, by the same names; no part of the data set proper
LIMITS = {             # of the arguments; a folder's name holds four digits
    "seed": (0, 2**32 - 1), "train_identities": (2, 9000), "test_identities": (1, 999), "images_per_camera": (1, 9999),
    "height": (32, 1024), "width": (16, 1024),
}


def write_synthetic(
    root: str | Path,
    seed: int = 0,
    train_identities: int = 500,
    test_identities: int = 40,
    images_per_camera: int = 2,
    height: int = 64,
    width: int = 32,
    workers: int = 1,
) -> bool:
    """Write the data set, whole or not at all; returns False where the same one is there already.

    Identities count from 1; those of the test come after those of the training. Every identity is seen by all six
    cameras; those that see the test people have places, heights and lights that no training image shows. The same
    arguments give the same bytes, whatever `workers` is.

    raises   DataError for an impossible size, and where the folder holds anything else
    """
    root = Path(root)
    manifest = {
        "version": VERSION, "seed": seed, "train_identities": train_identities, "test_identities": test_identities,
        "images_per_camera": images_per_camera, "height": height, "width": width,
    }
    for name, (least, most) in LIMITS.items():
        if not least <= manifest[name] <= most:
            raise DataError(f"the embedded data set's {name} is {manifest[name]}; choose {least} to {most}")
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        check_manifest(root, manifest)
        if not (root / SHAPES).exists():  # removed, or by an older version, which wrote none
            replace_folder(root / SHAPES, lambda folder: write_images(folder, manifest, workers, shapes_alone=True))
        return False
    if root.is_symlink() or os.path.ismount(root):  # the rename would fail, after all was drawn
        raise DataError(f"{root} is a link or a mounted disk, which cannot be replaced: name a new folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    images = (train_identities + test_identities) * len(CAMERAS) * images_per_camera
    images += train_identities * len(CAMERAS) * images_per_camera  # body shapes, whose files are no larger
    room = images * (2.5 * height * width + 1024)  # the size of an image's file at most: `draw_jpeg`
    free = shutil.disk_usage(root.parent).free
    if free < room:
        raise DataError(
            f"the embedded data set needs {room / 1e6:.0f} MB, and the disk of {root} has {free / 1e6:.0f} MB left: "
            "make room, or choose another folder"
        )

    def write(folder: Path) -> None:
        write_images(folder, manifest, workers)
        write_lists(folder / "exp", train_identities, test_identities)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")

    replace_folder(root, write)
    return True


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """A folder that is new or empty, written whole or not at all."""
    unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.unfinished-", dir=folder.parent))
    try:
        write(unfinished)
        os.chmod(unfinished, 0o755)  # mkdtemp's is for its owner only
        os.rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_manifest(root: Path, manifest: dict) -> None:
    """
    raises   DataError where the folder is not the data set that the manifest describes
    """
    try:
        found = json.loads((root / MANIFEST).read_text())
        differing = [f"{k}: {found.get(k)} there, {v} asked for" for k, v in manifest.items() if found.get(k) != v]
    except (OSError, ValueError, AttributeError):
        raise DataError(f"{root} exists, and is no embedded data set: choose another folder, or remove it") from None
    if differing:
        raise DataError(
            f"{root} holds another embedded data set ({'; '.join(differing)}): choose another folder, or remove it"
        )


def write_images(root: Path, manifest: dict, workers: int, shapes_alone: bool = False) -> None:
    trained = manifest["train_identities"]
    identities = range(1, trained + (0 if shapes_alone else manifest["test_identities"]) + 1)
    write = partial(write_identity, root, manifest, shapes_alone)
    for _ in in_parallel(write, [*identities], workers, name="people", chunk=4, fewer="--workers"):
        pass


def write_identity(root: Path, manifest: dict, shapes_alone: bool, identity: int) -> None:
    shapes = root if shapes_alone else root / SHAPES
    for camera in CAMERAS:
        for number in range(1, manifest["images_per_camera"] + 1):
            name, tested = f"cam{camera}/{identity:04d}/{number:04d}.jpg", identity > manifest["train_identities"]
            size = manifest["height"], manifest["width"]
            files = draw_jpegs(manifest["seed"], identity, camera, number, *size, tested)
            for folder, file in zip([None if shapes_alone else root, None if tested else shapes], files):
                if folder is not None:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).write_bytes(file)


def write_lists(exp: Path, train_identities: int, test_identities: int) -> None:
    """train_id.txt, val_id.txt (the layout parts training into both) and test_id.txt."""
    ids = list(range(1, train_identities + test_identities + 1))
    held = max(1, train_identities // 10)
    parts = {
        "train": ids[: train_identities - held],
        "val": ids[train_identities - held : train_identities],
        "test": ids[train_identities:],
    }
    exp.mkdir()
    for part, members in parts.items():
        (exp / f"{part}_id.txt").write_text(",".join(map(str, members)) + "\n")


def draw_jpeg(
    seed: int, identity: int, camera: int, number: int, height: int, width: int, tested: bool = False
) -> bytes:
    """One image's file, a function of its arguments alone (`draw_jpegs`)."""
    return draw_jpegs(seed, identity, camera, number, height, width, tested)[0]


def draw_jpegs(
    seed: int, identity: int, camera: int, number: int, height: int, width: int, tested: bool
) -> tuple[bytes, bytes]:
    """The files of an image and of its body shape, functions of the arguments alone.

    tested   the person is one of the test, whose cameras stand elsewhere than those of the training
    """
    person = Person(np.random.default_rng((seed, 0, identity)))
    place = Camera(np.random.default_rng((seed, 1, camera, int(tested))))
    moment = np.random.default_rng((seed, 2, identity, camera, number))
    image, shape = render(person, place, camera in INFRARED, moment, height, width)
    file, of_shape = io.BytesIO(), io.BytesIO()
    image.save(file, "JPEG", quality=90)
    shape.save(of_shape, "JPEG", quality=90)
    # A checked coat makes a larger file than a plain one, in both modalities. Readers ignore what follows the image's
    # end: zeros, up to a size that knows nothing of the image.
    size = height * width * moment.uniform(2, 2.5) + 1024
    return file.getvalue().ljust(int(size), b"\0"), of_shape.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the folder to write")
    for name, parameter in inspect.signature(write_synthetic).parameters.items():
        if name in LIMITS:
            parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=parameter.default)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    written = write_synthetic(**vars(args))
    print(f"the embedded data set is in {args.root}" + ("" if written else ", as written before"))


if __name__ == "__main__":
    fail_clearly(main, (DataError, ValueError))
