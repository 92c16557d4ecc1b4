"""RegDB (docs/protocols.md): one visible and one thermal camera, ten splits of its people."""

import re
from pathlib import Path

import numpy as np

from data.files import names_in, open_root, read_indices
from data.records import Benchmark, DataError, Expected, Record, Trial, check_both_modalities

SPLITS = range(1, 11)
CAMERA = {"visible": 1, "thermal": 2}
DIRECTIONS = ("visible-to-thermal", "thermal-to-visible")


class RegDB(Benchmark):
    """One of RegDB's ten splits; a label number names different people in its training and its test part.

    protocol names   regdb/SPLIT/visible-to-thermal, regdb/SPLIT/thermal-to-visible
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

    def trials(self, name: str) -> tuple[Trial, ...]:
        infrared = np.array([record.infrared for record in self.test])
        visible, thermal = np.flatnonzero(~infrared), np.flatnonzero(infrared)
        return (Trial(visible, thermal) if name.endswith("visible-to-thermal") else Trial(thermal, visible),)
