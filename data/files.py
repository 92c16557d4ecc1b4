"""Folders, lists and images of a data set on disk, as people's copies have them (docs/protocols.md, section Copies).

What a copy has otherwise than the data set's owners is read where that changes no figure; else it is named, with what
should be there.
"""

import os
import posixpath
import re
from collections.abc import Collection, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain, islice
from pathlib import Path

from data.formats import is_systems
from data.records import PICTURES, DataError, LayoutError, PartAbsent

ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".tgz", ".gz")
LOOKED_AT = 1000  # folders, for a hint


def absolute(root: str | Path) -> Path:
    """The absolute path of DATA.ROOT, in which ~ is a user's home.

    raises   DataError where that cannot be said
    """
    if not is_utf8(str(root)):
        raise DataError(f"DATA.ROOT is {str(root)!a}, which is not UTF-8: rename that folder")
    try:
        return Path(root).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, an unknown user, a zero byte
        raise DataError(f"DATA.ROOT is {str(root)!r}, which leads nowhere: {error}") from None


def open_root(root: str | Path, what: str, obtain: str) -> Path:
    """`absolute`, where there is such a folder.

    what     should be in it
    obtain   a sentence that says where the data set comes from
    raises   DataError
    """
    path = absolute(root)
    if path.is_file():
        raise DataError(f"DATA.ROOT is the file {path}: unpack the data set, and set DATA.ROOT to its folder")
    require_folder(path, what, obtain)
    return path


def require_folder(path: Path, what: str, obtain: str) -> None:
    """
    raises   LayoutError
    """
    if not os.path.isdir(path):
        found = meant(path.parent, path.name)
        hint = f", but {found}: rename it" if found else ""
        raise LayoutError(
            f"there is no folder {path}, where {what} should be{hint}. {obtain} Then set DATA.ROOT to its folder."
        )
    if not os.access(path, os.R_OK | os.X_OK):
        raise DataError(f"the folder {path} may not be read: change its permissions")


def listing(folder: Path) -> list[Path]:
    """What is in a folder but for hidden files and those of macOS; [] where that cannot be told."""
    try:
        return sorted(folder / name for name in os.listdir(folder) if not name.startswith((".", "__MACOSX")))
    except OSError:
        return []


def shows(folder: Path, signs: Sequence[AbstractSet[str]]) -> bool:
    """Whether a folder seems to be a data set, by the names of what is in it (`Benchmark.signs`)."""
    names = {path.name.lower() for path in listing(folder)}
    return bool(signs) and all(names & group for group in signs)


def nearby(root: Path, signs: Sequence[AbstractSet[str]], never: str = "") -> Path | None:
    """The data set with these signs in the root, above it or beside it.

    never   a file that it doesn't hold, by which another data set of the same layout is known
    """
    inside = listing(root)
    deeper = (path for folder in inside for path in listing(folder))
    places = chain((root.parent, root.parent.parent), inside, listing(root.parent), deeper)
    found = (path for path in islice(places, LOOKED_AT) if shows(path, signs))
    return next((path for path in found if not (never and (path / never).exists())), None)


def archive_of(root: Path) -> Path | None:
    """An archive in the root, or one of its name beside it."""
    beside = (path for path in listing(root.parent) if path.name.startswith(root.name))
    return next((path for path in chain(listing(root), beside) if path.name.lower().endswith(ARCHIVES)), None)


def names_in(folder: str | Path) -> list[str]:
    """Names of a folder's files and folders, sorted; [] if there is no such folder.

    raises   DataError where it is no folder, or not a readable one
    """
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{folder} should be a readable folder, but: {error.strerror}") from None


def list_images(folder: str | Path, endings: tuple[str, ...] = PICTURES) -> list[str]:
    """The names of the images in a folder, sorted; [] if there is no such folder.

    Other files, such as the Thumbs.db of a file manager, would change the galleries that are drawn.

    endings   of images' names, in small letters

    raises   DataError where it is no readable folder, and naming what has an image's name and is no file
    """
    try:
        with os.scandir(folder) as entries:
            files = {
                entry.name: entry.is_file() for entry in entries
                if entry.name.lower().endswith(endings) and not entry.name.startswith(".")
            }
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{folder} should be a readable folder of images, but: {error.strerror}") from None
    for name, is_file in files.items():
        if not is_file:
            raise DataError(f"{folder}/{name} should be an image, and is a folder or a broken link")
        if not name.isascii() and not is_utf8(name):
            raise DataError(f"{folder} has the file {name!a}, whose name is not UTF-8: rename it")
    return sorted(files)


def files_beside(root: Path, listed: set[str]) -> list[str]:
    """Absolute paths of the files in a root and its folders that are not listed, sorted."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not is_systems(name)]
        found += [f"{Path(folder).as_posix()}/{name}" for name in names if not is_systems(name)]
    return sorted({*found} - listed)


def is_utf8(name: str) -> bool:
    """Whether a file's name is text; bytes that aren't stand in it as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def numbered(folder: Path, prefix: str = "") -> dict[int, Path]:
    """What a folder has under a prefix and a number, by number: cam1 as well as Cam1 and cam01, 0001 as well as 1.

    raises   DataError where two names have the same number
    """
    pattern = re.compile(rf"{prefix}([0-9]+)", re.IGNORECASE)
    found: dict[int, Path] = {}
    for name in names_in(folder):
        match = pattern.fullmatch(name)
        if match is None:
            continue
        if not os.path.isdir(folder / name):
            raise DataError(f"{folder / name} should be a readable folder of images, and is a file or a broken link")
        number = int(match[1])
        if number in found:
            raise DataError(
                f"{folder} has both {found[number].name} and {name}, of which one alone can be {prefix}{number}: join "
                "them, or remove the one that doesn't belong there"
            )
        found[number] = folder / name
    return found


def images_by_camera(folder: Path, ids: Collection[int]) -> dict[tuple[int, int], list[str]]:
    """Paths of the images in the folder's cam1/0001 and so on, by (camera, identity), sorted by file name."""
    return {
        (camera, identity): [f"{place.as_posix()}/{name}" for name in list_images(place)]
        for camera, people in numbered(folder, "cam").items()
        for identity, place in numbered(people).items() if identity in ids
    }


def read_ids(path: Path) -> list[int]:
    """Identities as SYSU-MM01 and LLCM list them, between commas, spaces or line ends; ascending.

    raises   DataError naming file and line
    """
    ids = set()
    for number, line in enumerate(read_lines(path), start=1):
        for part in filter(None, re.split(r"[\s,;]+", line)):
            if not part.isdecimal():
                raise DataError(f"{path}, line {number}: {part!r} is not an identity number")
            ids.add(int(part))
    if not ids:
        raise DataError(f"{path} names no identity; it comes with the data set: is the copy complete?")
    return sorted(ids)


def read_indices(root: Path, *indices: Path) -> list[list[tuple[str, int]]]:
    """(absolute path, label) for each line `relative/path label` of each file, as RegDB and LLCM list images.

    raises   PartAbsent where none of these files is there, or none of their images; DataError naming file and line,
             where a line doesn't parse, its image isn't there, or was listed with another label
    """
    require_lists(root, *indices)
    present: dict[str, set[str]] = {}  # names by folder: one listing is cheaper than asking for each file
    labels: dict[str, int] = {}
    read: list[list[tuple[str, int]]] = []
    missing = []
    for index in indices:
        read.append([])
        for number, line in enumerate(read_lines(index), start=1):
            words = line.rsplit(maxsplit=1)
            if len(words) != 2 or not words[1].isdecimal():
                raise DataError(f"{index}, line {number}: {line!r} is not 'relative/path label'")
            image, label = f"{root.as_posix()}/{posixpath.normpath(words[0])}", int(words[1])
            folder, _, base = image.rpartition("/")
            if folder not in present:
                present[folder] = set(list_images(folder))
            if base not in present[folder]:
                missing.append((index, number, words[0]))
            if labels.setdefault(image, label) != label:
                other = labels[image]
                raise DataError(f"{index}, line {number}: {image} is listed with label {label}, and with {other} too")
            read[-1].append((image, label))
    if missing:
        index, number, name = missing[0]
        found = meant(root, name)
        if len(missing) == sum(len(listed) for listed in read) and not found:
            raise PartAbsent(f"none of the images that {' and '.join(map(str, indices))} list is there")
        hint = f" There is {found}: the line should say {found.relative_to(root).as_posix()}" if found else ""
        raise DataError(f"{index}, line {number}: there is no image {root}/{name}; is the copy complete?{hint}")
    return read


def require_lists(root: Path, *lists: Path) -> None:
    """
    raises   PartAbsent where none of the files is there, LayoutError where some are, or are elsewhere
    """
    missing = [path for path in lists if not path.exists()]
    if not missing:
        return
    name = missing[0].name
    inside = (folder / name for folder in sorted(root.iterdir()) if os.path.exists(folder / name))
    found = meant(root, missing[0].relative_to(root).as_posix()) or next(inside, None)
    kind = LayoutError if found or len(missing) < len(lists) else PartAbsent
    hint = f", but {found}: move or rename it if it is the right one" if found else ""
    raise kind(f"there is no index file {missing[0]}{hint}; it comes with the data set: is the copy complete?")


def meant(root: Path, wanted: str) -> Path | None:
    """What the root has in the place of a path that isn't there, which may come from another system or machine.

    Small and capital letters are taken for one, backslashes for slashes; folders at the path's beginning may be absent.
    """
    parts = [part for part in wanted.replace("\\", "/").split("/") if part not in ("", ".")]
    found = (in_other_letters(root, parts[first:]) for first in range(len(parts)))
    return next((path for path in found if path is not None and path != root / wanted), None)


def in_other_letters(folder: Path, parts: list[str]) -> Path | None:
    """What is there by these names, one in the other, but for small and capital letters; None of several."""
    for part in parts:
        if not os.path.isdir(folder) or not os.access(folder, os.R_OK | os.X_OK):
            return None
        same = [name for name in os.listdir(folder) if name.lower() == part.lower()]
        if part in same:
            same = [part]
        if len(same) != 1:
            return None
        folder = folder / same[0]
    return folder


def read_lines(path: Path) -> list[str]:
    """At least one line; blank ones at the file's end are left out."""
    try:
        content = path.read_bytes()
        if b"\0" in content:
            raise DataError(f"{path} is UTF-16 text, as some programs on Windows write it, or none: save it as UTF-8")
        lines = content.decode("utf-8-sig").rstrip().splitlines()
    except FileNotFoundError:
        raise DataError(f"there is no index file {path}; it comes with the data set: is the copy complete?") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} could not be read as text: {error}; save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path} could not be read as text: {error}") from None
    if not lines:
        raise DataError(f"{path} is empty; it comes with the data set: is the copy complete?")
    return lines
