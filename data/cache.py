"""Resized training images in one memory-mapped file: made once (scripts/prepare.py), shared by all workers and ranks.

A cache is a folder with two files. `images.bin` holds (N, H, W, 3) uint8, as `open_image` gives them. `manifest.json`
says what that was made of: of each image file its path, size and time of change, and the CRC-32 of its pixels in the
cache. The manifest is written last and carries a digest of itself, so an interrupted build never looks whole.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from tqdm import tqdm

from data.parallel import in_parallel
from data.pixels import open_image
from data.records import Benchmark, DataError, Record

VERSION = 3  # of the two files: raise it when their meaning changes
IMAGES, MANIFEST, UNFINISHED = "images.bin", "manifest.json", ".unfinished"
AT_ONCE: dict[str, Any] = {"name": "images", "chunk": 32, "fewer": "--workers of scripts/prepare.py, or DATA.WORKERS"}


class StaleCache(DataError):
    """A folder holds no cache of these records; the message says why."""


class ImageCache:
    """The images of a cache by the absolute paths of their files; `prepared` or `open_cache` give one.

    A process maps the file when it first reads from it. A copy for another process carries no image.
    """

    def __init__(self, folder: Path, root: Path, manifest: dict):
        self.folder, self.height, self.width = folder, manifest["height"], manifest["width"]
        self.resize = manifest["resize"]
        self.rows = {f"{root.as_posix()}/{path}": row for row, (path, *_) in enumerate(manifest["images"])}
        self.checksums = [checksum for *_, checksum in manifest["images"]]
        self.images: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"images": None}

    def read(self, path: str) -> np.ndarray:
        """(H, W, 3) uint8, read-only.

        raises   DataError where the cache doesn't have the image, or its pixels are no longer those written
        """
        if self.images is None:
            self.images = self.map_images()
        if path not in self.rows:
            raise DataError(f"{path} is not in the cache {self.folder}; remove that folder, and it is made anew")
        row = self.rows[path]
        image = self.images[row]
        if zlib.crc32(image) != self.checksums[row]:
            raise DataError(
                f"the cache {self.folder} is damaged: its image of {path} has another checksum than when it was "
                "written. Remove that folder, and it is made anew; if this happens again, suspect the disk"
            )
        return image

    def map_images(self) -> np.ndarray:
        try:
            shape = (len(self), self.height, self.width, 3)
            return np.asarray(np.memmap(self.folder / IMAGES, np.uint8, "r", shape=shape))
        except (OSError, ValueError) as error:  # ValueError: the file is too short
            raise DataError(
                f"{self.folder / IMAGES} cannot be read ({error}); remove that folder, and it is made anew"
            ) from None

    def problems(self, workers: int = 1) -> list[str]:
        """Compare every image with its checksum and with its file, decoded again; a sentence for each difference."""
        found = []
        for path in tqdm(self.rows, "checksums", disable=None):
            try:
                self.read(path)
            except DataError as error:
                found.append(str(error))
        decode = partial(decoded_checksum, self.height, self.width, self.resize)
        again = in_parallel(decode, [*self.rows], workers, **AT_ONCE)
        for path, checksum, decoded in zip(self.rows, self.checksums, again):
            if decoded != checksum:
                found.append(f"{path} holds another image than the cache {self.folder}; remove that folder")
        return found


def cache_folder(base: str | Path, benchmark: Benchmark, height: int, width: int, resize: str) -> Path:
    """Where in DATA.CACHE the training images of a data set lie; each of RegDB's splits has its own."""
    split = f"-split{benchmark.split}" if hasattr(benchmark, "split") else ""
    resized = "" if resize == "lanczos" else f"-{resize}"
    return Path(base) / f"{benchmark.name}-{height}x{width}{resized}{split}"


def prepared(
    base: str | Path, benchmark: Benchmark, height: int, width: int, workers: int,
    report: Callable[[str], None] = print, alone: Callable[[Path], AbstractContextManager] = nullcontext,
    resize: str = "lanczos",
) -> ImageCache:
    """The cache of a data set's training images: as it is if that is valid, else built first.

    base      DATA.CACHE
    workers   processes that decode
    report    gets a sentence that says why a cache is built
    resize    how images get their size (data/pixels.py)
    alone     keeps other processes from building in a folder meanwhile, such as `only_one` of utils/lock.py
    raises    DataError where it cannot be built
    """
    folder = cache_folder(base, benchmark, height, width, resize)
    open_it = partial(open_cache, folder, benchmark.train, benchmark.root, height, width, resize)
    try:
        return open_it()
    except StaleCache as reason:
        report(f"{reason}: building it")
    try:
        with alone(folder):
            try:
                return open_it()  # another process has built it meanwhile
            except StaleCache:
                build_cache(folder, benchmark.train, benchmark.root, height, width, workers, resize)
    except OSError as error:
        raise DataError(
            f"no cache can be built in {folder} ({error.strerror}); choose another DATA.CACHE"
        ) from None
    return open_it()


def open_cache(
    folder: Path, records: Sequence[Record], root: Path, height: int, width: int, resize: str = "lanczos"
) -> ImageCache:
    """The cache in the folder, after a check of everything but the pixels, which `read` checks.

    raises   StaleCache where it is missing, cut off, or made of other files than the records now name
    """
    manifest = read_manifest(folder)
    for name, value in settings(height, width, resize).items():
        if manifest.get(name) != value:
            raise StaleCache(f"the cache {folder} was made with {name} {manifest.get(name)}, not {value}")
    paths, cached = relative_paths(records, root), [path for path, *_ in manifest["images"]]
    if paths != cached:
        added, removed = len({*paths} - {*cached}), len({*cached} - {*paths})
        raise StaleCache(f"the cache {folder} is of another list of images ({added} are new, {removed} are gone)")
    size, expected = size_and_time(folder / IMAGES)[0], len(paths) * height * width * 3
    if size != expected:
        raise StaleCache(f"{folder / IMAGES} has {size} bytes, not {expected}")
    for path, *found, _ in manifest["images"]:
        if size_and_time(root / path) != found:
            raise StaleCache(f"{root / path} has changed since the cache {folder} was made")
    return ImageCache(folder, root, manifest)


def build_cache(
    folder: Path, records: Sequence[Record], root: Path, height: int, width: int, workers: int = 1,
    resize: str = "lanczos",
) -> None:
    """Decode and resize all images of the records into the folder; an older cache there stays until all is done.

    Whoever else might build there at the same time must be kept out (`locked`).

    raises   DataError naming a broken image, or the folder where the disk is full or not writable
    """
    paths = relative_paths(records, root)
    needed = len(paths) * height * width * 3
    images, manifest = folder / IMAGES, folder / MANIFEST
    new_images, new_manifest = folder / (IMAGES + UNFINISHED), folder / (MANIFEST + UNFINISHED)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        new_images.unlink(missing_ok=True)  # of a build that was killed
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise DataError(
                f"the cache {folder} needs {needed / 1e9:.1f} GB, and its disk has {free / 1e9:.1f} GB left; make "
                "room, choose another DATA.CACHE, or train without one"
            )
        new_images.touch()
        write = partial(write_image, new_images, root, height, width, resize)
        written = list(in_parallel(write, [*enumerate(paths)], workers, **AT_ONCE))
        content = settings(height, width, resize) | {"images": [[path, *what] for path, what in zip(paths, written)]}
        new_manifest.write_text(json.dumps(content | {"digest": digest(content)}), encoding="utf-8")
        for path in (new_images, new_manifest):
            flush_to_disk(path)
        manifest.unlink(missing_ok=True)  # from here to the end of the last line, there is no valid cache
        os.replace(new_images, images)
        os.replace(new_manifest, manifest)
        flush_to_disk(folder)
    except OSError as error:
        raise DataError(
            f"the cache {folder} cannot be written ({error.strerror}): {needed / 1e9:.1f} GB are needed; choose "
            "another DATA.CACHE, or train without one"
        ) from None
    finally:
        for path in (new_images, new_manifest):
            path.unlink(missing_ok=True)


def settings(height: int, width: int, resize: str) -> dict:
    """What the pixels depend on beside the files."""
    return {"version": VERSION, "Pillow": PIL.__version__, "height": height, "width": width, "resize": resize}


def read_manifest(folder: Path) -> dict:
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        stated = content.pop("digest")
    except FileNotFoundError:
        raise StaleCache(f"there is no cache in {folder}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no JSON, or no object with a digest
        raise StaleCache(f"{folder / MANIFEST} is no whole manifest") from None
    if stated != digest(content):
        raise StaleCache(f"{folder / MANIFEST} is no whole manifest")
    return content


def digest(content: dict) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def relative_paths(records: Sequence[Record], root: Path) -> list[str]:
    """Each file once, in the order of the records."""
    return list(dict.fromkeys(record.path.removeprefix(f"{root.as_posix()}/") for record in records))


def size_and_time(path: Path) -> list[int | None]:
    """Bytes, and nanoseconds at the last change; none of a file that isn't there."""
    try:
        state = os.stat(path)
    except OSError:
        return [None, None]
    return [state.st_size, state.st_mtime_ns]


def write_image(
    file: Path, root: Path, height: int, width: int, resize: str, numbered: tuple[int, str]
) -> tuple[int | None, int | None, int]:
    """Write one image to its place in the file; returns the file's size and time of change, and a checksum."""
    row, path = numbered
    size, changed = size_and_time(root / path)  # before it is read: what changes meanwhile will be noticed
    image = open_image(f"{root}/{path}", height, width, resize)
    with open(file, "r+b") as opened:
        opened.seek(row * image.size)
        opened.write(image.data)
    return size, changed, zlib.crc32(image.data)


def decoded_checksum(height: int, width: int, resize: str, path: str) -> int:
    return zlib.crc32(open_image(path, height, width, resize).data)


def flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
