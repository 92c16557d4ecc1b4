"""One's own images as they are found (docs/own_data.md): listed in a CSV file, or in folders by modality and person."""

import csv
import difflib
import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from common.words import how_many
from data.files import is_utf8, list_images, meant, names_in, read_lines
from data.formats import HEIF, MORE, endings, is_systems
from data.records import DataError, LayoutError

LIST = "images.csv"
COLUMNS = ("path", "identity", "modality", "camera", "split")
NEEDED = COLUMNS[:3]
MODALITIES = {
    "visible": ("visible", "vis", "rgb", "day", "color", "colour"),
    "infrared": ("infrared", "ir", "nir", "thermal", "night"),
}
SPLITS = {"train": ("train", "training"), "val": ("val", "validation"), "test": ("test", "testing")}
OBTAIN = "docs/own_data.md says how to lay out one's own images."


class Found(NamedTuple):
    """An image and what is said of it."""

    path: str      # absolute
    identity: str  # as written
    infrared: bool
    camera: str    # "": not said
    split: str     # of SPLITS; "": not said


# A list


def read_list(root: Path, place: Path) -> list[Found]:
    """The images of a CSV file with a line of column names; commas, semicolons or tabs between the cells.

    raises   DataError naming file and line
    """
    if not os.path.lexists(place):
        raise DataError(f"there is no {place}, which DATA.FOLDER.LIST names: write it, or leave that option empty")
    lines = read_lines(place)
    columns, between = header(lines[0], place)
    found, missing = [], []
    seen: dict[str, int] = {}
    present: dict[str, set[str]] = {}
    for number, cells in rows_of(lines, between, place):
        where = f"{place}, line {number}"
        if len(cells) != len(columns):
            raise DataError(
                f"{where}: {how_many(len(cells), 'cell')}, where the first line names {len(columns)} columns"
            )
        row = dict.fromkeys(COLUMNS, "") | dict(zip(columns, cells))
        for column in NEEDED:
            if not row[column]:
                raise DataError(f"{where}: there is no {column}")
        image = inside(root, row["path"], where)
        if image in seen:
            raise DataError(f"{where}: {row['path']} is listed in line {seen[image]} already; an image comes once")
        seen[image] = number
        folder, _, base = image.rpartition("/")
        if folder not in present:
            present[folder] = {*list_images(folder, endings())}
        if base not in present[folder]:
            missing.append((where, row["path"], image))
        infrared = known(row["modality"], MODALITIES, "modality", where) == "infrared"
        split = known(row["split"], SPLITS, "split", where) if row["split"] else ""
        found.append(Found(image, row["identity"], infrared, row["camera"], split))
    if missing:
        raise DataError(why_missing(root, *missing[0], len(missing)))
    for column in ("camera", "split"):
        said = {bool(getattr(image, column)) for image in found}
        if len(said) > 1:
            first = next(image for image in found if not getattr(image, column))
            raise DataError(
                f"{place}, line {seen[first.path]}: there is no {column}, as other lines have: fill in all, or none"
            )
    return found


def header(line: str, place: Path) -> tuple[list[str], str]:
    """The column names of a list, and what stands between cells.

    raises   DataError
    """
    between = max(",;\t", key=line.count)
    columns = [cell.strip().strip('"').lower() for cell in line.split(between)]
    absent = [column for column in NEEDED if column not in columns]
    if absent:
        raise DataError(
            f"{place}, line 1: there is no column {absent[0]}; it names the columns, such as {','.join(COLUMNS)}, and "
            f"the last two may be absent, but it is {line[:100]!r}"
        )
    for column in columns:
        if column not in COLUMNS:
            near = difflib.get_close_matches(column, COLUMNS, n=1, cutoff=0.0)[0]
            raise DataError(
                f"{place}, line 1: the column {column!r} is unknown; rename it, perhaps to {near}, or remove it"
            )
        if columns.count(column) > 1:
            raise DataError(f"{place}, line 1: the column {column} comes twice: remove one")
    return columns, between


def rows_of(lines: Sequence[str], between: str, place: Path) -> Iterable[tuple[int, list[str]]]:
    """(line number, cells) after the first line, without empty lines.

    raises   DataError where quotes don't end
    """
    reader = csv.reader(lines, delimiter=between, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{place}, line {first}: its quotes are not a CSV file's ({error}): fix them") from None
        if first > 1 and any(cells):
            yield first, cells


def inside(root: Path, path: str, where: str) -> str:
    """The absolute path of an image of a list.

    raises   DataError where it is no path from the root on
    """
    if path.startswith(("/", "\\", "~")) or re.match(r"[A-Za-z]:[\\/]", path):
        found = meant(root, path)
        hint = f": write {found.relative_to(root).as_posix()}" if found else ""
        raise DataError(f"{where}: {path} is an absolute path, where one from DATA.ROOT on is wanted{hint}")
    plain = posixpath.normpath(path)
    if plain.split("/")[0] == "..":
        raise DataError(f"{where}: {path} leads out of DATA.ROOT, which is {root}: move the image into it")
    return f"{root.as_posix()}/{plain}"


def why_missing(root: Path, where: str, path: str, image: str, number: int) -> str:
    """What is wrong with an image of a list that cannot be read, and how many there are of them."""
    more = f" ({number} such lines)" if number > 1 else ""
    if os.path.isfile(image):
        heif = image.lower().endswith(HEIF)
        fix = f"to read it, {MORE}" if heif else "convert it, to .jpg or .png for instance"
        return f"{where}: {path} is of a kind that is not read, {', '.join(endings())} are; {fix}{more}"
    found = meant(root, path)
    hint = f" There is {found}: the line should say {found.relative_to(root).as_posix()}" if found else ""
    return f"{where}: there is no image {path} in {root}{more}.{hint}"


def known(word: str, names: Mapping[str, Sequence[str]], what: str, where: str) -> str:
    """What a word is called here.

    raises   DataError
    """
    for name, words in names.items():
        if word.lower() in words:
            return name
    listed = "; ".join(f"{name} ({', '.join(words[1:])})" for name, words in names.items())
    raise DataError(f"{where}: {word!r} is no {what}; known are {listed}")


# Folders


def read_layout(root: Path, others: list[str]) -> list[Found]:
    """The images of [SPLIT/]MODALITY/PERSON/[CAMERA/]IMAGE.

    others   gets the paths of the files that are not read
    raises   LayoutError, DataError naming what lies where it shouldn't
    """
    folders, images, beside = contents(root)
    refuse_images(root, images)
    others += beside
    if not folders:
        raise LayoutError(f"there is neither {LIST} nor a folder of images in {root}. {OBTAIN}")
    if not any(folder.name.lower() in words for folder in folders for words in SPLITS.values()):
        return read_modalities(root, "", others)
    found = []
    for split, folder in called(folders, SPLITS, "split").items():
        _, images, beside = contents(folder)
        refuse_images(folder, images)
        others += beside
        found += read_modalities(folder, split, others)
    return found


def read_modalities(place: Path, split: str, others: list[str]) -> list[Found]:
    found = []
    for modality, folder in called(contents(place)[0], MODALITIES, "modality").items():
        people, images, beside = contents(folder)
        refuse_images(folder, images)
        others += beside
        for person in people:
            found += [
                Found(path, person.name, modality == "infrared", camera, split)
                for path, camera in images_of(person, others)
            ]
    return found


def images_of(person: Path, others: list[str]) -> list[tuple[str, str]]:
    """(path, camera) of each image of a person in a modality; the camera is "" where they have no folders by camera."""
    cameras, images, beside = contents(person)
    others += beside
    if cameras and images:
        raise DataError(
            f"{person} has images both beside folders ({images[0]}) and in them ({cameras[0].name}): with a folder for "
            "each camera, each image lies in one"
        )
    found = [(f"{person.as_posix()}/{name}", "") for name in images]
    for camera in cameras:
        deeper, images, beside = contents(camera)
        others += beside
        if deeper:
            raise DataError(f"{deeper[0]} is a folder in a camera's folder, one too deep: move its images up")
        found += [(f"{camera.as_posix()}/{name}", camera.name) for name in images]
    return found


def contents(folder: Path) -> tuple[list[Path], list[str], list[str]]:
    """Folders, names of images and paths of other files in a folder; what systems leave there is left out.

    raises   DataError naming what cannot be read
    """
    images = [name for name in list_images(folder, endings()) if not is_systems(name)]
    rest = sorted({*names_in(folder)} - {*images})
    rest = [name for name in rest if not is_systems(name)]
    folders = [name for name in rest if os.path.isdir(folder / name)]
    for name in folders:
        if not is_utf8(name):
            raise DataError(f"{folder} has the folder {name!a}, whose name is not UTF-8: rename it")
    others = [f"{folder.as_posix()}/{name}" for name in sorted({*rest} - {*folders})]
    return [folder / name for name in folders], images, others


def refuse_images(folder: Path, images: Sequence[str]) -> None:
    if images:
        raise DataError(
            f"{folder / images[0]} is in no person's folder: images lie in MODALITY/PERSON/ or MODALITY/PERSON/CAMERA/"
        )


def called(folders: Sequence[Path], names: Mapping[str, Sequence[str]], what: str) -> dict[str, Path]:
    """The folders by what they are called here.

    raises   DataError where one is unknown, or two are of one name
    """
    found: dict[str, Path] = {}
    for folder in folders:
        name = known(folder.name, names, what, f"{folder.parent}")
        if name in found:
            both = f"{found[name].name} and {folder.name}"
            raise DataError(f"{folder.parent} has {both}, which both mean {name}: join them")
        found[name] = folder
    return found
