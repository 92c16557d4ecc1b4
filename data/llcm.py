"""LLCM (docs/protocols.md): nine cameras in low light, each identity by day and in near infrared."""

import dataclasses
import random
import re
from pathlib import Path

import numpy as np

from data.records import (
    Benchmark, DataError, Expected, Protocol, Record, Trial, check_both_modalities, list_pictures, read_ids, read_index,
    require_folder,
)

CAMERAS = {"vis": (1, 2, 3, 4, 5, 6, 7, 8, 9), "nir": (1, 2, 4, 5, 6, 7, 8, 9)}
TRIALS = 10


class LLCM(Benchmark):
    """Records and protocols of LLCM.

    protocol names   llcm/ir-to-vis, and llcm/vis-to-ir/... in three readings:
        natural      all visible images search a sampled infrared gallery; the default
        transposed   the sampled infrared images search all visible ones; several published codes print it as VIS to IR
        full         all visible images search all infrared ones, and nothing is ignored
    """

    def __init__(self, root: str | Path):
        self.name, self.root = "llcm", Path(root).resolve()
        require_folder(self.root, "idx, test_vis and test_nir", "LLCM is given out by its owners on request.")
        indices = {modality: self.root / "idx" / f"train_{modality}.txt" for modality in CAMERAS}
        self.train = [
            Record(path, label, camera_of(path, f"{index}, line {line}"), modality == "nir")
            for modality, index in indices.items()
            for line, (path, label) in enumerate(read_index(index, self.root), start=1)
        ]
        check_both_modalities(self.train, indices["vis"])
        self.test = self.read_test(read_ids(self.root / "idx" / "test_id.txt"))
        self.expected = [
            Expected("train", "both", "identities", 713),
            Expected("test", "both", "identities", 351),
            Expected("test", "visible", "cameras", 9),
            Expected("test", "infrared", "cameras", 8),
        ]

    def read_test(self, ids: list[int]) -> list[Record]:
        """All test images: visible, then infrared; by identity, camera and file name."""
        records = []
        for modality, cameras in CAMERAS.items():
            folder = self.root / f"test_{modality}"
            require_folder(folder, "cam1 to cam9", "The copy of LLCM is incomplete.")
            for identity in ids:
                for camera in cameras:
                    place = folder / f"cam{camera}" / f"{identity:04d}"
                    records += [
                        Record(f"{place}/{name}", identity, camera, modality == "nir") for name in list_pictures(place)
                    ]
        missing = set(ids) - {record.identity for record in records}
        if missing:
            raise DataError(f"{self.root}/idx/test_id.txt lists identity {min(missing)}, which has no image in test_*")
        return records

    def protocol_names(self) -> list[str]:
        return ["llcm/ir-to-vis", *(f"llcm/vis-to-ir/{reading}" for reading in ("natural", "transposed", "full"))]

    def default_protocols(self) -> list[str]:
        return ["llcm/ir-to-vis", "llcm/vis-to-ir/natural"]

    def ignored_group(self, record: Record) -> int:
        return self.group(record)  # images of the same person by the same camera

    def group(self, record: Record) -> int:
        return record.identity * 100 + record.camera

    def protocol(self, name: str) -> Protocol:
        protocol = super().protocol(name)
        if name.endswith("/full"):
            return dataclasses.replace(protocol, query_ignores=np.full_like(protocol.query_ignores, -1))
        return protocol

    def trials(self, name: str) -> tuple[Trial, ...]:
        infrared = np.array([record.infrared for record in self.test])
        visible, night = np.flatnonzero(~infrared), np.flatnonzero(infrared)
        if name.endswith("/full"):
            return (Trial(visible, night),)
        if name.endswith("/ir-to-vis"):
            return tuple(Trial(night, self.sample(visible, t)) for t in range(TRIALS))
        if name.endswith("/natural"):
            return tuple(Trial(visible, self.sample(night, t)) for t in range(TRIALS))
        return tuple(Trial(self.sample(night, t), visible) for t in range(TRIALS))

    def sample(self, rows: np.ndarray, trial: int) -> np.ndarray:
        """One image of each (identity, camera) folder, as SYSU-MM01's galleries are drawn."""
        folders: dict[tuple[int, int], list[int]] = {}
        for row in rows.tolist():
            folders.setdefault((self.test[row].identity, self.test[row].camera), []).append(row)
        generator = random.Random(trial)
        return np.array([generator.choice(folder) for folder in folders.values()], dtype=np.int64)


def camera_of(path: str, source: str) -> int:
    """The camera in a file name such as 0001_c03_s002_f2_vis.jpg.

    raises   DataError naming the source
    """
    camera = re.search(r"_c(\d+)_[^/]*$", path)
    if camera is None:
        raise DataError(f"{source}: {path} does not tell its camera as _cNN_ in its name")
    return int(camera[1])
