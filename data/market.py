"""Market-1501 and data sets in its layout (docs/protocols.md): six cameras by day, so visible images alone."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.words import how_many
from data.files import list_images, open_root, require_folder
from data.records import Benchmark, DataError, Expected, PartAbsent, Protocol, Record, Trial

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
DISTRACTOR = 1_000_000  # the least identity that isn't on disk
CAMERAS = 1000          # more than any camera's number
OBTAIN = "Market-1501 is given out by its authors (Zheng et al., ICCV 2015)."


class Market(Benchmark):
    """Records and the protocol of Market-1501, market/vis-to-vis: the query images search all of bounding_box_test but
    for junk (-1). A query ignores its person's images by its own camera, and CMC counts images. Distractors (0 on disk)
    are nobody's: each gets an identity of its own, from DISTRACTOR on.
    """

    counts = "images"
    signs = ({TRAIN, GALLERY},)

    def __init__(self, root: str | Path):
        self.name, self.root, self.junk = "market", open_root(root, f"{TRAIN}, {QUERY} and {GALLERY}", OBTAIN), 0
        self.read_parts(train=self.read_train, test=self.read_test)
        self.expected = [
            Expected("train", "both", "identities", 751),
            Expected("train", "both", "images", 12_936),
            Expected("train", "both", "cameras", 6),
            Expected("test", "both", "images", 3_368 + 15_913),
            Expected("test", "both", "cameras", 6),
        ]

    def read_train(self) -> list[Record]:
        if not (self.root / TRAIN).exists():
            raise PartAbsent(f"there is no folder {self.root / TRAIN}")
        records = self.read(TRAIN)
        for record in records:
            if record.identity <= 0:
                raise DataError(f"{record.path} is junk or a distractor, which nobody trains on: move it to {GALLERY}")
        return records

    def read_test(self) -> list[Record]:
        """The queries, then the gallery."""
        if not any((self.root / name).exists() for name in (QUERY, GALLERY)):
            raise PartAbsent(f"{self.root} has neither {QUERY} nor {GALLERY}")
        for name in (QUERY, GALLERY):
            require_folder(self.root / name, "images such as 0002_c1s1_000451_03.jpg", OBTAIN)
        queries, gallery = self.read(QUERY), self.read(GALLERY)
        for record in queries:
            if record.identity <= 0:
                raise DataError(
                    f"{record.path} is junk or a distractor, which nobody searches by: move it to {GALLERY}"
                )
        kept = [record for record in gallery if record.identity > 0]
        distractors = [record for record in gallery if record.identity == 0]
        self.queries, self.distractors = len(queries), len(distractors)
        self.junk = len(gallery) - len(kept) - len(distractors)
        kept += [replace(record, identity=DISTRACTOR + place) for place, record in enumerate(distractors)]
        trained = {record.identity for record in self.records("train")}
        shared = trained & {record.identity for record in [*queries, *kept]}
        if shared:
            raise DataError(f"{self.root}: identities {sorted(shared)[:5]} are both in training and in test")
        return queries + kept

    def read(self, folder: str) -> list[Record]:
        """Identity and camera stand in the names.

        raises   PartAbsent where there is no image, DataError naming one of another kind
        """
        records = []
        for name in list_images(self.root / folder):
            match = re.match(r"(-1|[0-9]+)_c([0-9]+)s", name)
            if match is None:
                raise DataError(
                    f"{self.root / folder / name} does not tell identity and camera as 0002_c1s1_000451_03.jpg does: "
                    "rename or remove it"
                )
            if int(match[1]) >= DISTRACTOR or int(match[2]) >= CAMERAS:
                raise DataError(
                    f"{self.root / folder / name} is of identity {match[1]} and camera {match[2]}, which are below "
                    f"{DISTRACTOR} and {CAMERAS} here: number them anew"
                )
            records.append(Record(f"{(self.root / folder).as_posix()}/{name}", int(match[1]), int(match[2]), False))
        if not records:
            raise PartAbsent(f"{self.root / folder} has no image")
        return records

    def protocol_names(self) -> list[str]:
        return ["market/vis-to-vis"]

    default_protocols = one_modality_protocols = protocol_names

    def ignored_group(self, record: Record) -> int:
        return self.group(record)

    def group(self, record: Record) -> int:
        return record.identity * CAMERAS + record.camera

    def trials(self, name: str) -> tuple[Trial, ...]:
        rows = np.arange(len(self.test))
        return (Trial(rows[:self.queries], rows[self.queries:]),)

    def validation(self, records: Sequence[Record]) -> Protocol:
        """Each image of the held-out people searches all others of them, but for its own camera's of its person."""
        rows = np.arange(len(records))
        return self._protocol(f"{self.name}/validation", (Trial(rows, rows),), records)

    def summary(self) -> str:
        return super().summary() + (
            f"\nnote: of {GALLERY}, {how_many(self.junk, 'image is', 'images are')} junk (-1), which no query sees, "
            f"and {how_many(self.distractors, 'is a distractor', 'are distractors')}, each counted as a person of its "
            "own"
        ) * bool(self.records("test"))
