"""What every data set is made of: records of images, and protocols that say who searches whom."""

import difflib
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PICTURES = (".jpg", ".jpeg", ".png", ".bmp")


class DataError(ValueError):
    """Something is wrong with the data on disk; the message names the file and the mend."""


@dataclass(frozen=True, slots=True)
class Record:
    path: str        # absolute
    identity: int    # as on disk
    camera: int
    infrared: bool


@dataclass(frozen=True)
class Trial:
    query: np.ndarray    # (Q,) int64 rows into the records
    gallery: np.ndarray  # (G,) int64 rows into the records, in gallery order: ties go to the earlier one


@dataclass(frozen=True)
class Protocol:
    """Who searches whom, and how it is counted.

    A gallery entry is ignored by a query where query_ignores[query] == gallery_group[gallery].
    """

    name: str                     # in full, e.g. "sysu/all/single-shot/random"
    trials: tuple[Trial, ...]
    counts: str                   # what CMC counts: "identities" or "images"
    query_ignores: np.ndarray     # (records,) int64: the group that a record ignores as a query; -1 none
    gallery_group: np.ndarray     # (records,) int64 >= 0


@dataclass(frozen=True)
class Expected:
    """A count that the data set is known to have; `part` chooses it among the found ones."""

    split: str       # "train" or "test"
    modality: str    # "visible", "infrared" or "both"
    what: str        # "identities", "images" or "cameras"
    number: int


class Benchmark:
    """A data set: training records, test records, protocols. Its readers are the subclasses.

    name    as in the protocols' names
    root    the folder that the data set's owners ship
    train   records to learn from
    test    every image that any protocol needs, once
    """

    name: str
    root: Path
    train: list[Record]
    test: list[Record]
    expected: Sequence[Expected] = ()
    counts = "identities"

    def protocol_names(self) -> list[str]:
        raise NotImplementedError

    def default_protocols(self) -> list[str]:
        """Those that test.py runs when none is named."""
        raise NotImplementedError

    def available_protocols(self) -> list[str]:
        """Those whose files are there: what test.py runs for `--protocol all`."""
        return self.protocol_names()

    def trials(self, name: str) -> tuple[Trial, ...]:
        raise NotImplementedError

    def ignored_group(self, record: Record) -> int:
        """The group of gallery images that this record ignores as a query; -1 for none."""
        return -1

    def group(self, record: Record) -> int:
        return 0

    def protocol(self, name: str) -> Protocol:
        """
        raises   DataError for an unknown name, naming the nearest
        """
        known = self.protocol_names()
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            listed = ", ".join(known)
            raise DataError(f"{self.name} has no protocol {name!r}; the nearest is {near!r}, all are {listed}")
        trials = self.trials(name)
        for number, trial in enumerate(trials):
            for side, rows in (("query", trial.query), ("gallery", trial.gallery)):
                if not len(rows):
                    raise DataError(f"{self.root}: trial {number} of {name} has an empty {side}; is the copy complete?")
        return self._protocol(name, trials, self.test)

    def validation(self, records: Sequence[Record]) -> Protocol:
        """Held-out training records: all infrared ones search all visible ones, by this data set's rules."""
        infrared = np.array([r.infrared for r in records])
        trial = Trial(query=np.flatnonzero(infrared), gallery=np.flatnonzero(~infrared))
        return self._protocol(f"{self.name}/validation", (trial,), records)

    def _protocol(self, name: str, trials: tuple[Trial, ...], records: Sequence[Record]) -> Protocol:
        ignores = np.array([self.ignored_group(r) for r in records], dtype=np.int64)
        groups = np.array([self.group(r) for r in records], dtype=np.int64)
        return Protocol(name, trials, self.counts, ignores, groups)

    def fingerprint(self) -> str:
        """SHA-256 over the relative paths and sizes of all images, sorted: tells copies apart without decoding them."""
        digest = hashlib.sha256()
        for path in sorted({record.path for record in [*self.train, *self.test]}):
            try:
                size = os.path.getsize(path)
            except OSError as error:
                reason = error.strerror
                raise DataError(f"{path} was listed, but is not readable ({reason}); is the copy complete?") from None
            digest.update(f"{path.removeprefix(f'{self.root}/')} {size}\n".encode())
        return digest.hexdigest()

    def summary(self) -> str:
        """A table of what was found beside what the data set should have, and a warning where they differ."""
        rows = [("split", "modality", "identities", "images", "cameras")]
        wrong = []
        for split, records in (("train", self.train), ("test", self.test)):
            for modality in ("visible", "infrared", "both"):
                chosen = [r for r in records if modality == "both" or r.infrared == (modality == "infrared")]
                found = {
                    "identities": len({r.identity for r in chosen}),
                    "images": len(chosen),
                    "cameras": len({r.camera for r in chosen}),
                }
                known = {e.what: e.number for e in self.expected if (e.split, e.modality) == (split, modality)}
                wrong += [
                    f"{split}, {modality}: {found[what]} {what}, not {number}"
                    for what, number in known.items() if found[what] != number
                ]
                rows.append((split, modality, *(
                    f"{number} ({known.get(what, '-')})" if self.expected else str(number)
                    for what, number in found.items()
                )))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        table = "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
        known_note = " (in brackets: what the data set should have, where that is known)" if self.expected else ""
        text = f"{self.name} in {self.root}{known_note}\n{table}"
        if wrong:
            text += (
                f"\nwarning: this copy differs from the published data set: {'; '.join(wrong)}. Fewer mean that it is "
                "incomplete, more that it holds files of another origin; figures measured on it cannot be compared "
                "with published ones"
            )
        return text


def require_folder(path: Path, what: str, obtain: str) -> None:
    if not path.is_dir():
        raise DataError(f"there is no folder {path}, where {what} should be. {obtain} Then set DATA.ROOT")


def list_pictures(folder: str | Path) -> list[str]:
    """The names of the pictures in a folder, sorted; [] if there is no such folder.

    Other files, such as the Thumbs.db of a file manager, would change the galleries that are drawn.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{folder} should be a readable folder of pictures, but: {error.strerror}") from None
    return sorted(name for name in names if name.lower().endswith(PICTURES) and not name.startswith("."))


def read_ids(path: Path) -> list[int]:
    """Comma-separated identities, as SYSU-MM01 and LLCM list them, ascending.

    raises   DataError naming file and line
    """
    ids = set()
    for number, line in enumerate(read_lines(path), start=1):
        for part in line.rstrip(", ").split(","):
            if not part.strip().isdecimal():
                raise DataError(f"{path}, line {number}: {part.strip()!r} is not an identity number")
            ids.add(int(part))
    return sorted(ids)


def read_index(path: Path, root: Path) -> list[tuple[str, int]]:
    """Lines `relative/path label`, as RegDB and LLCM list images: (absolute path, label), one for each line.

    raises   DataError naming file and line, where a line doesn't parse or its picture isn't there
    """
    present: dict[str, set[str]] = {}  # names by folder: one listing is cheaper than asking for each file
    pairs = []
    for number, line in enumerate(read_lines(path), start=1):
        words = line.rsplit(maxsplit=1)
        if len(words) != 2 or not words[1].isdecimal():
            raise DataError(f"{path}, line {number}: {line!r} is not 'relative/path label'")
        picture, label = f"{root}/{words[0]}", int(words[1])
        folder, _, base = picture.rpartition("/")
        if folder not in present:
            present[folder] = set(list_pictures(folder))
        if base not in present[folder]:
            raise DataError(f"{path}, line {number}: there is no picture {picture}; is the copy complete?")
        pairs.append((picture, label))
    return pairs


def read_lines(path: Path) -> list[str]:
    """At least one line; blank ones at the file's end are left out."""
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except FileNotFoundError:
        raise DataError(f"there is no index file {path}; it comes with the data set: is the copy complete?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} could not be read as text: {error}") from None
    if not lines:
        raise DataError(f"{path} is empty; it comes with the data set: is the copy complete?")
    return lines


def check_both_modalities(records: Iterable[Record], source: Path) -> None:
    """
    raises   DataError naming an identity that only one modality shows: no batch could be made of it
    """
    seen: dict[int, Record] = {}
    both = set()
    for record in records:
        other = seen.setdefault(record.identity, record)
        if other.infrared != record.infrared:
            both.add(record.identity)
    for identity, record in seen.items():
        if identity not in both:
            only, missing = ("infrared", "visible") if record.infrared else ("visible", "infrared")
            raise DataError(
                f"{source}: identity {identity} has {only} images only (such as {record.path}) and no {missing} one; "
                "complete the copy, or take the identity out of the index"
            )
