"""RegDB (docs/protocols.md): one visible and one thermal camera, ten splits of its people."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.files import names_in, open_root, read_indices
from data.records import Benchmark, DataError, Expected, Record, Trial, check_both_modalities

SPLITS = range(1, 11)
CAMERA = {"visible": 1, "thermal": 2}
DIRECTIONS = ("visible-to-thermal", "thermal-to-visible")
ONE_MODALITY = ("visible-to-visible/leave-one-out", "thermal-to-thermal/leave-one-out")


class RegDB(Benchmark):
    """One of RegDB's ten splits; a label number names different people in its training and its test part.

    protocol names   regdb/SPLIT/visible-to-thermal, regdb/SPLIT/thermal-to-visible; within a modality, which has one
                     camera, each image searches all others: regdb/SPLIT/visible-to-visible/leave-one-out, and
                     regdb/SPLIT/thermal-to-thermal/leave-one-out
    """

    counts = "images"
    signs = ({"visible"}, {"thermal"})

    def __init__(self, root: str | Path, split: int = 1):
        self.name, self.split = "regdb", split
        if split not in SPLITS:
            raise DataError(f"RegDB has splits 1 to 10, and DATA.SPLIT is {split}")
        obtain = "RegDB is given out by its owners at Dongguk University on request."
        self.root = open_root(root, "idx, Visible and Thermal", obtain)
        named = (re.fullmatch(r"\w+_(\d+)\.txt", name) for name in names_in(self.root / "idx"))
        splits = sorted({int(match[1]) for match in named if match})
        if splits and split not in splits:
            raise DataError(
                f"{self.root}/idx has no list of split {split}, such as train_visible_{split}.txt, but those of splits "
                f"{', '.join(map(str, splits))}: set DATA.SPLIT"
            )
        self.read_parts(train=lambda: self.read("train"), test=lambda: self.read("test"))
        check_both_modalities(self.records("train"), self.index("train", "visible"))
        self.expected = [
            Expected(part, modality, what, number)
            for part in ("train", "test")
            for modality in ("visible", "infrared")
            for what, number in (("identities", 206), ("images", 2060))
        ]

    def index(self, part: str, modality: str) -> Path:
        return self.root / "idx" / f"{part}_{modality}_{self.split}.txt"

    def read(self, part: str) -> list[Record]:
        pairs = read_indices(self.root, *(self.index(part, modality) for modality in CAMERA))
        return [
            Record(path, label, camera, modality == "thermal")
            for (modality, camera), listed in zip(CAMERA.items(), pairs)
            for path, label in listed
        ]

    def protocol_names(self) -> list[str]:
        return [f"{self.name}/{self.split}/{direction}" for direction in DIRECTIONS]

    default_protocols = protocol_names

    def one_modality_protocols(self) -> list[str]:
        return [f"{self.name}/{self.split}/{kind}" for kind in ONE_MODALITY]

    def query_ignores(self, name: str, records: Sequence[Record]) -> np.ndarray:
        """Within a modality, itself: there each image is a group of its own."""
        if name in self.one_modality_protocols():
            return self.gallery_groups(name, records)
        return super().query_ignores(name, records)

    def gallery_groups(self, name: str, records: Sequence[Record]) -> np.ndarray:
        if name in self.one_modality_protocols():
            return np.arange(len(records))
        return super().gallery_groups(name, records)

    def trials(self, name: str) -> tuple[Trial, ...]:
        infrared = np.array([record.infrared for record in self.test])
        visible, thermal = np.flatnonzero(~infrared), np.flatnonzero(infrared)
        sides = {"visible": visible, "thermal": thermal}
        query, gallery = name.split("/")[2].split("-to-")
        return (Trial(sides[query], sides[gallery]),)
