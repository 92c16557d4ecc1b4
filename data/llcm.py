"""LLCM (docs/protocols.md): nine cameras in low light, each identity by day and in near infrared."""

import random
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.files import images_by_camera, meant, open_root, read_ids, read_indices, require_folder, require_lists
from data.records import Benchmark, DataError, Expected, PartAbsent, Record, Trial, check_both_modalities

CAMERAS = {"vis": (1, 2, 3, 4, 5, 6, 7, 8, 9), "nir": (1, 2, 4, 5, 6, 7, 8, 9)}
TRIALS = 10


class LLCM(Benchmark):
    """Records and protocols of LLCM.

    protocol names   llcm/ir-to-vis, and llcm/vis-to-ir/... in three readings:
        natural      all visible images search a sampled infrared gallery; the default
        transposed   the sampled infrared images search all visible ones; several published codes print it as VIS to IR
        full         all visible images search all infrared ones, and nothing is ignored
    within a modality, llcm/vis-to-vis and llcm/ir-to-ir: all its images search a sampled gallery of it
    """

    signs = ({"idx"}, {"vis", "nir", "test_vis", "test_nir"})

    def __init__(self, root: str | Path):
        self.name = "llcm"
        self.root = open_root(root, "idx, test_vis and test_nir", "LLCM is given out by its owners on request.")
        self.read_parts(train=self.read_train, test=self.read_test)
        check_both_modalities(self.records("train"), self.root / "idx" / "train_vis.txt")
        self.expected = [
            Expected("train", "both", "identities", 713),
            Expected("test", "both", "identities", 351),
            Expected("test", "visible", "cameras", 9),
            Expected("test", "infrared", "cameras", 8),
        ]

    def read_train(self) -> list[Record]:
        indices = [self.root / "idx" / f"train_{modality}.txt" for modality in CAMERAS]
        return [
            Record(path, label, camera_of(path, f"{index}, line {line}"), modality == "nir")
            for modality, index, pairs in zip(CAMERAS, indices, read_indices(self.root, *indices))
            for line, (path, label) in enumerate(pairs, start=1)
        ]

    def read_test(self) -> list[Record]:
        """All test images: visible, then infrared; by identity, camera and file name."""
        index = self.root / "idx" / "test_id.txt"
        require_lists(self.root, index)
        ids, records = read_ids(index), []
        names = [f"test_{modality}" for modality in CAMERAS]
        if not any((self.root / name).exists() or meant(self.root, name) for name in names):
            raise PartAbsent(f"{self.root} has no folder of test images: neither {' nor '.join(names)}")
        for name, (modality, cameras) in zip(names, CAMERAS.items()):
            require_folder(self.root / name, "cam1 to cam9", "The copy of LLCM is incomplete.")
            images = images_by_camera(self.root / name, ids)
            records += [
                Record(path, identity, camera, modality == "nir")
                for identity in ids for camera in cameras for path in images.get((camera, identity), [])
            ]
        lost = {*ids} - {record.identity for record in records}
        if not records:
            raise PartAbsent(f"none of the identities in {index} has an image in {self.root}/test_*")
        if lost:
            raise DataError(f"{index} lists identity {min(lost)}, which has no image in test_*")
        return records

    def protocol_names(self) -> list[str]:
        return ["llcm/ir-to-vis", *(f"llcm/vis-to-ir/{reading}" for reading in ("natural", "transposed", "full"))]

    def default_protocols(self) -> list[str]:
        return ["llcm/ir-to-vis", "llcm/vis-to-ir/natural"]

    def one_modality_protocols(self) -> list[str]:
        return ["llcm/vis-to-vis", "llcm/ir-to-ir"]

    def ignored_group(self, record: Record) -> int:
        return self.group(record)  # images of the same person by the same camera

    def group(self, record: Record) -> int:
        return record.identity * 100 + record.camera

    def query_ignores(self, name: str, records: Sequence[Record]) -> np.ndarray:
        ignores = super().query_ignores(name, records)
        return np.full_like(ignores, -1) if name.endswith("/full") else ignores

    def trials(self, name: str) -> tuple[Trial, ...]:
        infrared = np.array([record.infrared for record in self.test])
        visible, night = np.flatnonzero(~infrared), np.flatnonzero(infrared)
        if name.endswith("/full"):
            return (Trial(visible, night),)
        if name in self.one_modality_protocols():
            rows = visible if name.endswith("/vis-to-vis") else night
            return tuple(Trial(rows, self.sample(rows, t)) for t in range(TRIALS))
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
