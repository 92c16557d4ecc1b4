"""A folder of one's own images (docs/own_data.md): listed in a CSV file, or in folders by modality and person."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from common.words import how_many
from data.files import files_beside, open_root
from data.formats import endings, not_read, printable
from data.names import but_for_capitals, camera_numbers, numbers
from data.own_images import LIST, OBTAIN, Found, read_layout, read_list
from data.records import Benchmark, DataError, LayoutError, PartAbsent, Record, Trial, check_both_modalities
from data.sysu import SHOTS, TRIALS, random_draw

DIRECTIONS = {"ir-to-vis": (True, False), "vis-to-ir": (False, True)}  # whether queries, and gallery, are infrared
ONE_MODALITY = {"vis-to-vis": (False, False), "ir-to-ir": (True, True)}
FEWEST = 4  # people whom both modalities show, where a split is drawn


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


# People


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
