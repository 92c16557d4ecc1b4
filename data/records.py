"""What every data set is made of: records of images, and protocols that say who searches whom."""

import difflib
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.words import how_many

PICTURES = (".jpg", ".jpeg", ".png", ".bmp")


class DataError(ValueError):
    """Something is wrong with the data on disk; the message names the file and how to fix it."""


class LayoutError(DataError):
    """A folder isn't laid out as the data set is; perhaps another one was meant."""


class PartAbsent(LayoutError):
    """A copy has nothing of the training part, or nothing of the test part."""


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


class Part:
    """An attribute of a Benchmark that holds the records of a part; reading it where there are none is an error."""

    def __init__(self, what: str, used: str):
        self.what, self.used = what, used

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __set__(self, benchmark: "Benchmark", records: list[Record]) -> None:
        vars(benchmark)[self.name] = records

    def __get__(self, benchmark: "Benchmark", owner: type) -> list[Record]:
        records = benchmark.records(self.name)
        if not records:
            why = benchmark.absent.get(self.name, "its reader found none")
            raise DataError(
                f"the copy of {benchmark.name} in {benchmark.root} has no {self.what} images, which {self.used} need: "
                f"{why}"
            )
        return records


class Benchmark:
    """A data set: training records, test records, protocols. Its readers are the subclasses.

    name       as in the protocols' names
    root       the folder that the data set's owners ship
    train      records to learn from; DataError where the copy has none
    test       every image that any protocol needs, once; DataError where the copy has none
    absent     for "train" or "test", why the copy has none
    held_out   training identities that the data set itself keeps for validation
    signs      groups of names, in small letters, of each of which the root has one
    """

    name: str
    root: Path
    train = Part("training", "training, DATA.CACHE and EMBEDDING.DIM")
    test = Part("test", "protocols")
    absent: Mapping[str, str] = {}
    held_out: AbstractSet[int] = frozenset()
    expected: Sequence[Expected] = ()
    signs: Sequence[AbstractSet[str]] = ()
    counts = "identities"

    def read_parts(self, **readers: Callable[[], list[Record]]) -> None:
        """Fill `train` and `test`, one of which may raise PartAbsent: the other serves alone.

        raises   LayoutError where both are absent, DataError where they share an image
        """
        self.absent = {}
        for part, read in readers.items():
            try:
                setattr(self, part, read())
            except PartAbsent as error:
                self.absent[part] = str(error)
        if len(self.absent) == len(readers):
            raise LayoutError("; ".join(self.absent.values()))
        both = {record.path for record in self.records("train")} & {record.path for record in self.records("test")}
        if both:
            raise DataError(
                f"{how_many(len(both), 'image is', 'images are')} listed both for training and for test, such as "
                f"{min(both)}"
            )

    def records(self, part: str) -> list[Record]:
        """Those of "train" or "test", [] where the copy has none."""
        return vars(self).get(part, [])

    def training_identities(self) -> int:
        """How many there are; in a copy without training images, how many there should be, or 1 if that is unknown."""
        known = (e.number for e in self.expected if (e.split, e.what) == ("train", "identities"))
        return len({record.identity for record in self.records("train")}) or next(known, 1)

    def protocol_names(self) -> list[str]:
        raise NotImplementedError

    def default_protocols(self) -> list[str]:
        """Those that test.py runs when none is named."""
        raise NotImplementedError

    def one_modality_protocols(self) -> list[str]:
        """Those in which queries and gallery are of the same modality: what test.py runs for `one-modality`."""
        return []

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
        known = [*dict.fromkeys([*self.protocol_names(), *self.one_modality_protocols()])]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            listed = ", ".join(known)
            raise DataError(f"{self.name} has no protocol {name!r}; the nearest is {near!r}, all are {listed}")
        return self._protocol(name, self.trials(name), self.test)

    def validation(self, records: Sequence[Record]) -> Protocol:
        """Held-out training records: all infrared ones search all visible ones, by this data set's rules."""
        infrared = np.array([r.infrared for r in records])
        trial = Trial(query=np.flatnonzero(infrared), gallery=np.flatnonzero(~infrared))
        return self._protocol(f"{self.name}/validation", (trial,), records)

    def query_ignores(self, name: str, records: Sequence[Record]) -> np.ndarray:
        """(records,) int64: the group that each ignores as a query of that protocol."""
        return np.array([self.ignored_group(r) for r in records], dtype=np.int64)

    def gallery_groups(self, name: str, records: Sequence[Record]) -> np.ndarray:
        """(records,) int64: the group of each in that protocol's gallery."""
        return np.array([self.group(r) for r in records], dtype=np.int64)

    def _protocol(self, name: str, trials: tuple[Trial, ...], records: Sequence[Record]) -> Protocol:
        groups = self.gallery_groups(name, records)
        protocol = Protocol(name, trials, self.counts, self.query_ignores(name, records), groups)
        for number, trial in enumerate(trials):
            reason = why_no_query_is_valid(trial, protocol, records)
            if reason:
                raise DataError(f"{self.root}: trial {number} of {name} {reason}; is the copy complete?")
        return protocol

    def fingerprint(self) -> str:
        """SHA-256 over the relative paths and sizes of all images, sorted: tells copies apart without decoding them.

        raises   DataError naming an image that isn't readable any more, or is an empty file
        """
        digest, empty = hashlib.sha256(), []
        root = f"{self.root.as_posix()}/"
        for path in sorted({record.path for record in [*self.records("train"), *self.records("test")]}):
            try:
                size = os.path.getsize(path)
            except OSError as error:
                reason = error.strerror
                raise DataError(f"{path} was listed, but is not readable ({reason}); is the copy complete?") from None
            if not size:
                empty.append(path)
            digest.update(f"{path.removeprefix(root)} {size}\n".encode())
        if empty:
            raise DataError(
                f"{how_many(len(empty), 'image is', 'images are')} without content, such as {empty[0]}: copy them "
                "again, perhaps the disk was full"
            )
        return digest.hexdigest()

    def summary(self) -> str:
        """A table of what was found beside what the data set should have, and a warning where they differ."""
        rows: list[tuple[str, ...]] = [("split", "modality", "identities", "images", "cameras")]
        wrong = []
        for split in ("train", "test"):
            records = self.records(split)
            repeated = len(records) - len({record.path for record in records})
            if repeated:
                wrong.append(f"{split}: {how_many(repeated, 'image is', 'images are')} listed more than once")
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
                    for what, number in known.items() if records and found[what] != number
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
        for split, what, use in (("train", "training", "test"), ("test", "test", "training")):
            if not self.records(split):
                text += (
                    f"\nnote: this copy has no {what} images, so it serves for {use} alone; its fingerprint, which is "
                    "over all images, is another than the complete copy's"
                )
        return text


def why_no_query_is_valid(trial: Trial, protocol: Protocol, records: Sequence[Record]) -> str:
    """What is wrong with a trial in which no query has its person in the gallery that it keeps, "" otherwise."""
    query, gallery = ([records[row] for row in rows.tolist()] for rows in (trial.query, trial.gallery))
    cameras = {"query": sorted({r.camera for r in query}), "gallery": sorted({r.camera for r in gallery})}
    for side, seen in cameras.items():
        if not seen:
            return f"has an empty {side}: there are images of cameras {sorted({r.camera for r in records})} alone"
    groups: dict[int, set[int]] = {}  # in the gallery, by identity
    for record, group in zip(gallery, protocol.gallery_group[trial.gallery].tolist()):
        groups.setdefault(record.identity, set()).add(group)
    searched = {(r.identity, ignored) for r, ignored in zip(query, protocol.query_ignores[trial.query].tolist())}
    if any(groups.get(identity, set()) - {ignored} for identity, ignored in searched):
        return ""
    shown = any(identity in groups for identity, _ in searched)
    reason = "ignores all of its person (docs/protocols.md)" if shown else "has its person there"
    return (
        f"has no valid query: its queries are of cameras {cameras['query']}, its gallery of cameras "
        f"{cameras['gallery']}, and {'each query' if shown else 'no query'} {reason}"
    )


def check_both_modalities(records: Iterable[Record], source: Path) -> None:
    """
    raises   DataError naming an identity that only one modality shows: no batch could be made of it
    """
    records = list(records)
    if len({record.infrared for record in records}) == 1:
        only, missing = ("infrared", "visible") if records[0].infrared else ("visible", "infrared")
        raise DataError(
            f"{source}: the copy has only {only} training images, of cameras {sorted({r.camera for r in records})}, "
            f"and no {missing} one: complete it"
        )
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
