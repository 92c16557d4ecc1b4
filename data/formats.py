"""Which files of a folder of one's own are images, and in words what the others are."""

import os
from collections.abc import Iterable
from functools import cache

from common.words import how_many
from data.records import PICTURES

PLAIN = (*PICTURES, ".webp", ".tif", ".tiff")
HEIF = (".heic", ".heif")  # phones'
CONTENTS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")  # of files, whatever their names; Pillow's other readers see none
MORE = "pip install -r requirements-optional.txt"
SYSTEM = ("thumbs.db", "desktop.ini", "__macosx")  # left by file managers, beside hidden files


@cache
def reads_heif() -> bool:
    """Whether pillow-heif is installed; from then on, Pillow opens its images in this process."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def endings() -> tuple[str, ...]:
    """In small letters, of the files that are read."""
    return PLAIN + HEIF * reads_heif()


def contents() -> tuple[str, ...]:
    """Pillow's names of what is read, by a file's content."""
    return CONTENTS + ("HEIF",) * reads_heif()


def is_systems(name: str) -> bool:
    """Whether a file or folder is hidden, or one that a system leaves beside images: nobody misses it."""
    return name.startswith(".") or name.lower() in SYSTEM


def not_read(names: Iterable[str]) -> str:
    """A sentence that counts files which are not read; "" of none."""
    names = [*names]
    return f"{how_many(len(names), 'file is', 'files are')} not read: {by_kind(names)}" if names else ""


def by_kind(names: Iterable[str]) -> str:
    """How many files there are of each kind, with an example."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(os.path.splitext(name)[1].lower(), []).append(name)
    return ", ".join(
        f"{len(found)} {printable(kind) or 'without an ending'} (such as {printable(min(found))}"
        f"{f'; to read them: {MORE}' if kind in HEIF else ''})"
        for kind, found in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
    )


def printable(name: str) -> str:
    return name if name.isprintable() else ascii(name)
