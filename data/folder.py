"""A folder of one's own images (docs/own_data.md): listed in a CSV file, or in folders by modality and person."""

import csv
import difflib
import hashlib
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.words import how_many
from data.files import files_beside, is_utf8, list_images, meant, names_in, open_root, read_lines
from data.formats import HEIF, MORE, endings, is_systems, not_read, printable
from data.records import Benchmark, DataError, LayoutError, PartAbsent, Record, Trial, check_both_modalities
from data.sysu import SHOTS, TRIALS, random_draw

LIST = "images.csv"
COLUMNS = ("path", "identity", "modality", "camera", "split")
NEEDED = COLUMNS[:3]
MODALITIES = {
    "visible": ("visible", "vis", "rgb", "day", "color", "colour"),
    "infrared": ("infrared", "ir", "nir", "thermal", "night"),
}
SPLITS = {"train": ("train", "training"), "val": ("val", "validation"), "test": ("test", "testing")}
DIRECTIONS = {"ir-to-vis": (True, False), "vis-to-ir": (False, True)}  # whether queries, and gallery, are infrared
ONE_MODALITY = {"vis-to-vis": (False, False), "ir-to-ir": (True, True)}
FEWEST = 4  # people whom both modalities show, where a split is drawn
LARGEST = 10 ** 9  # a name of a greater number is no number: products of two must fit into int64
OBTAIN = "docs/own_data.md says how to lay out one's own images."


class Found(NamedTuple):
    """An image and what is said of it."""

    path: str      # absolute
    identity: str  # as written
    infrared: bool
    camera: str    # "": not said
    split: str     # of SPLITS; "": not said


class Folder(Benchmark):
    """Images of one's own.

    protocol names   NAME/ir-to-vis|vis-to-ir/single-shot|multi-shot: all images of the one modality search one image,
                     or ten, of each (person, camera) of the other, drawn anew in each of ten trials. Within a modality,
                     NAME/vis-to-vis|ir-to-ir/... likewise. A query ignores its person's images by its own camera. Where
                     the split was drawn, its number stands after NAME

    name               folder, or folder-SOMETHING
    split              the number of the split that is drawn where none is given
    listed             the CSV file in the root; "": images.csv if that is there, else folders by modality and person
    test_share         of the people, where a split is drawn
    validation_share   of the people to train on, where none are given for validation
    strict             refuse training people whom only one modality shows
    """

    def __init__(
        self, root: str | Path, split: int = 1, name: str = "folder", listed: str = "", test_share: float = 0.5,
        validation_share: float = 0.1, strict: bool = True,
    ):
        self.name, self.root = name, open_root(root, f"{LIST}, or folders such as visible and infrared", OBTAIN)
        self.notes: list[str] = []
        place, others = self.root / (listed or LIST), []
        if listed or os.path.lexists(place):
            found, self.source = read_list(self.root, place), place
            beside = files_beside(self.root, {place.as_posix(), *(image.path for image in found)})
            others = [path for path in beside if not path.lower().endswith(endings())]
            unlisted = sorted({*beside} - {*others})
            if unlisted:
                self.notes.append(
                    f"{how_many(len(unlisted), 'image is', 'images are')} not in {place.name}, such as {unlisted[0]}"
                )
        else:
            found, self.source = read_layout(self.root, others), self.root
        left = not_read(path.removeprefix(f"{self.root.as_posix()}/") for path in others)
        self.notes += [left] if left else []
        if not found:
            more = f"; {left}" if left else ""
            raise LayoutError(f"nothing in {self.source} is an image that is read{more}. {OBTAIN}")
        self.people = numbers({image.identity for image in found}, "identities", self.source)
        alike = but_for_capitals(self.people)
        if alike:
            self.notes.append(f"names that differ in capital letters are taken for different people: {some(alike)}")
        self.records_of(found, split, test_share, validation_share)
        if strict:
            check_both_modalities(self.records("train"), self.source)

    def records_of(self, found: Sequence[Found], split: int, test_share: float, validation_share: float) -> None:
        """Fill the parts."""
        part_of = parts(found, self.source)
        if not part_of and test_share < 1:
            self.split = split
            part_of = self.draw(found, test_share)
        elif split != 1:
            raise DataError(f"DATA.SPLIT is {split}, and nothing is drawn of {self.source}: set DATA.SPLIT to 1")
        elif not part_of:
            self.notes.append("no split is given: all people are for the test (DATA.FOLDER.TEST_SHARE 1)")
            part_of = dict.fromkeys(self.people, "test")
        self.hold_out(found, part_of, split, validation_share)
        cameras = camera_numbers({image.camera for image in found})
        read: dict[str, list[Record]] = {"train": [], "test": []}
        for image in found:
            camera = cameras[image.camera] if image.camera else 1 + image.infrared  # else one for each modality
            record = Record(image.path, self.people[image.identity], camera, image.infrared)
            read["test" if part_of[image.identity] == "test" else "train"].append(record)
        self.cameras = 1 + max(record.camera for records in read.values() for record in records)

        def sorted_part(part: str) -> list[Record]:
            if not read[part]:
                raise PartAbsent(f"{self.source} says of no image that it is for {part}")
            return sorted(read[part], key=lambda record: (record.identity, record.camera, record.path))

        self.read_parts(train=lambda: sorted_part("train"), test=lambda: sorted_part("test"))

    def draw(self, found: Sequence[Found], share: float) -> dict[str, str]:
        """The part of each identity, of which a share is drawn for the test; so are those of one modality alone."""
        both, alone = by_modality(found)
        if len(both) < FEWEST:
            raise DataError(
                f"{self.source} gives no split, and has {how_many(len(both), 'person', 'people')} whom both "
                f"modalities show: too few to draw one, {FEWEST} at least; say of each image whether it is for train "
                "or test, or set DATA.FOLDER.TEST_SHARE to 1 for a test alone"
            )
        number = min(max(round(share * len(both)), FEWEST // 2), len(both) - FEWEST // 2)
        test = drawn(both, number, f"test {self.split}")
        self.notes.append(
            f"no split is given: {len(both) - number} people are drawn for training and {number} for the test "
            f"(DATA.SPLIT {self.split}, DATA.FOLDER.TEST_SHARE {share:g}), who are {some(test)}"
        )
        if alone:
            self.notes.append(
                f"{how_many(len(alone), 'person is', 'people are')} for the test, too, whom one modality alone shows: "
                f"{some(alone)}"
            )
        return {name: "test" if name in test or name in alone else "train" for name in (*both, *alone)}

    def hold_out(self, found: Sequence[Found], part_of: dict[str, str], split: int, share: float) -> None:
        """Say whom a training doesn't see, by whom it chooses the best epoch."""
        given = {name for name, part in part_of.items() if part == "val"}
        if given and "train" not in part_of.values():
            raise DataError(f"{self.source} has people for validation, and none to train on: call them train")
        both, _ = by_modality(found)
        train = sorted(name for name in both if part_of[name] == "train")
        number = round(share * len(train))
        if not given and number >= 2:  # one person is found by anything
            given = drawn(train, number, f"validation {split}")
            self.notes.append(
                f"{number} of {how_many(len(train), 'person', 'people')} to train on are held out for validation "
                f"(DATA.FOLDER.VALIDATION_SHARE {share:g}): {some(given)}"
            )
        self.held_out = frozenset(self.people[name] for name in given)

    @property
    def prefix(self) -> str:
        return f"{self.name}/{self.split}" if hasattr(self, "split") else self.name

    def protocol_names(self) -> list[str]:
        return [f"{self.prefix}/{direction}/{shots}" for shots in SHOTS for direction in DIRECTIONS]

    def default_protocols(self) -> list[str]:
        return self.protocol_names()[:len(DIRECTIONS)]

    def one_modality_protocols(self) -> list[str]:
        return [f"{self.prefix}/{kind}/{shots}" for shots in SHOTS for kind in ONE_MODALITY]

    def ignored_group(self, record: Record) -> int:
        return self.group(record)

    def group(self, record: Record) -> int:
        return record.identity * self.cameras + record.camera  # images of the same person by the same camera

    def trials(self, name: str) -> tuple[Trial, ...]:
        kind, shots = name.split("/")[-2:]
        asking, shown = (DIRECTIONS | ONE_MODALITY)[kind]
        infrared = np.array([record.infrared for record in self.test])
        query, rows = np.flatnonzero(infrared == asking), np.flatnonzero(infrared == shown)
        groups: dict[int, list[int]] = {}
        for row in rows.tolist():
            groups.setdefault(self.group(self.test[row]), []).append(row)
        galleries = (random_draw(groups, SHOTS[shots], trial) for trial in range(TRIALS))
        return tuple(Trial(query, np.array(gallery, dtype=np.int64)) for gallery in galleries)

    def fingerprint(self) -> str:
        """Over what is said of the images, too: a list can change while the files stay."""
        digest = hashlib.sha256(super().fingerprint().encode())
        root = f"{self.root.as_posix()}/"
        for part in ("train", "test"):
            for r in self.records(part):
                held = part == "train" and r.identity in self.held_out
                said = r.path.removeprefix(root), r.identity, r.camera, r.infrared, part, held
                digest.update(f"{said}\n".encode())
        return digest.hexdigest()

    def summary(self) -> str:
        return "\n".join([super().summary(), *(f"note: {note}" for note in self.notes)])


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


# People


def numbers(names: set[str], what: str, source: Path) -> dict[str, int]:
    """A number for each name: its own where all are numbers, else its place in their order, from 1.

    raises   DataError where two names are one number, or look alike
    """
    spelt: dict[str, str] = {}
    for name in sorted(names):
        other = spelt.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise DataError(
                f"{source} has the {what} {other!a} and {name!a}, which are one name in two spellings of Unicode, as "
                "macOS and other systems write it: write it in one way"
            )
    if not all(name.isascii() and name.isdecimal() and int(name) < LARGEST for name in names):
        return {name: place for place, name in enumerate(sorted(names), start=1)}
    found: dict[int, str] = {}
    for name in sorted(names):
        other = found.setdefault(int(name), name)
        if other != name:
            raise DataError(f"{source} has the {what} {other} and {name}, which are one number: write it in one way")
    return {name: number for number, name in found.items()}


def camera_numbers(names: set[str]) -> dict[str, int]:
    """Likewise, of cam1, Camera 01 or c1 the number is 1: they are one camera, and so are Door and door."""
    matches = {name: re.fullmatch(r"(?:camera|cam|c)?[-_ ]?([0-9]{1,9})", name.lower()) for name in names if name}
    found = {name: int(match[1]) for name, match in matches.items() if match}
    if len(found) == len(matches):
        return found
    one: dict[object, list[str]] = {}
    for name in sorted(matches):
        one.setdefault(found.get(name, unicodedata.normalize("NFC", name).casefold()), []).append(name)
    return {name: place for place, same in enumerate(one.values(), start=1) for name in same}


def but_for_capitals(names: Iterable[str]) -> list[str]:
    """Those of the names that another one is but for small and capital letters."""
    same: dict[str, list[str]] = {}
    for name in names:
        same.setdefault(name.casefold(), []).append(name)
    return [name for alike in same.values() if len(alike) > 1 for name in alike]


def parts(found: Sequence[Found], source: Path) -> dict[str, str]:
    """The split of each identity, {} where none is given.

    raises   DataError where an identity is in two
    """
    seen: dict[str, Found] = {}
    for image in found:
        other = seen.setdefault(image.identity, image)
        if other.split != image.split:
            raise DataError(
                f"{source}: identity {image.identity} is in {other.split} ({other.path}) and in {image.split} "
                f"({image.path}): a person is in one split, and two people have two names"
            )
    return {name: image.split for name, image in seen.items() if image.split}


def by_modality(found: Sequence[Found]) -> tuple[list[str], list[str]]:
    """The identities that both modalities show, and those that one alone shows; sorted."""
    shown = [{image.identity for image in found if image.infrared == infrared} for infrared in (False, True)]
    return sorted(shown[0] & shown[1]), sorted(shown[0] ^ shown[1])


def some(names: Iterable[str], most: int = 10) -> str:
    """In their order; of many the first, and where all can be had."""
    known = sorted(map(printable, names))
    return ", ".join(known[:most]) + (" ... (scripts/describe_data.py --list writes all down)" if known[most:] else "")


def drawn(names: Sequence[str], number: int, seed: str) -> set[str]:
    """So many of the names, the same on every machine; of one name more or less, the draw hardly changes."""
    return {*sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())[:number]}
