"""SYSU-MM01 (docs/protocols.md): six cameras, four by day and two by night."""

import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from common.words import how_many
from data.files import images_by_camera, open_root, read_ids, require_lists
from data.records import Benchmark, DataError, Expected, PartAbsent, Record, Trial, check_both_modalities

INFRARED = (3, 6)
VISIBLE = (1, 2, 4, 5)
SEARCH = {"all": (1, 2, 4, 5), "indoor": (1, 2)}  # cameras of the gallery
ONE_MODALITY = {"vis-to-vis": VISIBLE, "ir-to-ir": INFRARED}  # cameras of queries and gallery
SHOTS = {"single-shot": 1, "multi-shot": 10}
GALLERIES = ("random", "official")
TRIALS = 10
COMPLETE = {  # images in a gallery of the complete data set, which has 3,803 queries
    ("all", "single-shot"): 301, ("all", "multi-shot"): 3010,
    ("indoor", "single-shot"): 112, ("indoor", "multi-shot"): 1120,
}


class SYSU(Benchmark):
    """Records and protocols of SYSU-MM01, or of another data set in its layout.

    protocol names   NAME/all|indoor/single-shot|multi-shot/random|official; within a modality, where a query ignores
                     its own camera, NAME/vis-to-vis|ir-to-ir/single-shot|multi-shot/random
    """

    signs = ({"exp"}, {f"cam{camera}" for camera in VISIBLE + INFRARED})

    def __init__(self, root: str | Path, name: str = "sysu"):
        self.name = name
        obtain = (
            "The embedded data set is written by: python -m data.synthetic --root FOLDER." if name == "synthetic" else
            "SYSU-MM01 is given out by its owners at Sun Yat-sen University on request."
        )
        self.root = open_root(root, "cam1 to cam6 and exp", obtain)
        exp = self.root / "exp"
        train, test = (exp / "train_id.txt", exp / "val_id.txt"), (exp / "test_id.txt",)
        shared = {*self.listed(train)} & {*self.listed(test)}
        if shared:
            raise DataError(f"{exp}: identities {sorted(shared)[:5]} are both in training and in test")
        self.read_parts(train=lambda: self.read(train), test=lambda: self.read(test))
        check_both_modalities(self.records("train"), train[0])
        if name == "sysu":
            self.expected = [
                Expected("train", "both", "identities", 395),
                Expected("train", "visible", "images", 22258),
                Expected("train", "infrared", "images", 11909),
                Expected("test", "both", "identities", 96),
                Expected("test", "infrared", "images", 3803),
            ]

    @staticmethod
    def listed(lists: Sequence[Path]) -> dict[int, Path]:
        """The identities in those of the lists that are there, and where each stands."""
        return {identity: path for path in lists if path.exists() for identity in read_ids(path)}

    def read(self, lists: Sequence[Path]) -> list[Record]:
        """All images of the identities, by camera (in the order of docs/protocols.md), identity and file name.

        raises   PartAbsent where no list is there, or none of the identities
        """
        ids = self.listed(lists)
        records = [
            Record(path, identity, camera, camera in INFRARED)
            for (camera, identity), paths in sorted(images_by_camera(self.root, ids).items())
            if camera in VISIBLE + INFRARED for path in paths
        ]
        if records or not ids:
            require_lists(self.root, *lists)
        lost = ids.keys() - {record.identity for record in records}
        if not records:
            raise PartAbsent(f"none of the identities in {lists[0]} has an image in {self.root}/cam*")
        if lost:
            first = min(lost)
            raise DataError(f"{ids[first]} lists identity {first}, but {self.root}/cam*/{first:04d} has no image")
        return records

    def protocol_names(self) -> list[str]:
        return [f"{self.name}/{s}/{n}/{g}" for g in GALLERIES for n in SHOTS for s in SEARCH]

    def default_protocols(self) -> list[str]:
        return [f"{self.name}/{search}/single-shot/random" for search in SEARCH]

    def one_modality_protocols(self) -> list[str]:
        return [f"{self.name}/{kind}/{shots}/random" for shots in SHOTS for kind in ONE_MODALITY]

    def available_protocols(self) -> list[str]:
        names = self.protocol_names()
        return names if self.permutations.is_file() else [name for name in names if not name.endswith("/official")]

    @property
    def permutations(self) -> Path:
        return self.root / "exp" / "rand_perm_cam.mat"

    def ignored_group(self, record: Record) -> int:
        return 2 if record.camera == 3 else -1  # cameras 2 and 3 stand in the same place

    def group(self, record: Record) -> int:
        return record.camera

    def query_ignores(self, name: str, records: Sequence[Record]) -> np.ndarray:
        if name in self.one_modality_protocols():
            return self.gallery_groups(name, records)
        return super().query_ignores(name, records)

    @cached_property
    def folders(self) -> dict[tuple[int, int], list[int]]:
        """Rows of the test records by (identity, camera), identities ascending, then cameras; files by name."""
        rows: dict[tuple[int, int], list[int]] = {}
        for row, record in enumerate(self.test):
            rows.setdefault((record.identity, record.camera), []).append(row)
        return dict(sorted(rows.items()))

    def trials(self, name: str) -> tuple[Trial, ...]:
        search, shots, source = name.split("/")[1:]
        asking = ONE_MODALITY.get(search, INFRARED)
        query = np.flatnonzero([record.camera in asking for record in self.test])
        cameras = (SEARCH | ONE_MODALITY)[search]
        folders = {key: rows for key, rows in self.folders.items() if key[1] in cameras}
        draw = self.official_draw() if source == "official" else random_draw
        galleries = [np.array(draw(folders, SHOTS[shots], t), dtype=np.int64) for t in range(TRIALS)]
        wanted = COMPLETE.get((search, shots), len(galleries[0]))
        if self.name == "sysu" and len(galleries[0]) != wanted:
            warnings.warn(
                f"the galleries of {name} have {how_many(len(galleries[0]), 'image')}, those of the complete data set "
                f"{wanted}: figures measured on this copy cannot be compared with published ones"
            )
        return tuple(Trial(query, gallery) for gallery in galleries)

    def official_draw(self) -> Callable[[dict, int, int], list[int]]:
        """The draw that exp/rand_perm_cam.mat prescribes: the first entries of its permutations."""
        path = self.permutations
        if not path.is_file():
            raise DataError(
                f"the official gallery needs {path}, which comes with SYSU-MM01's evaluation code; put it there, or "
                "choose a protocol whose name ends in /random"
            )
        from scipy.io import loadmat  # slow to import, and only this protocol needs it

        try:
            cameras = loadmat(path)["rand_perm_cam"].ravel()
        except Exception as error:  # noqa: BLE001 - scipy raises many kinds for damaged files
            raise DataError(f"{path} is no MATLAB file with the variable rand_perm_cam ({error})") from None

        def draw(folders: dict[tuple[int, int], list[int]], shots: int, trial: int) -> list[int]:
            gallery = []
            for (identity, camera), rows in folders.items():
                permutation = permutation_of(cameras, camera, identity, trial)
                if sorted(permutation) != list(range(1, len(rows) + 1)):
                    raise DataError(
                        f"{self.root}/cam{camera}/{identity:04d} has {len(rows)} files, but {path.name} permutes "
                        f"{len(permutation)}: the copy is incomplete, or has files that don't belong there"
                    )
                gallery += [rows[position - 1] for position in permutation[:shots]]
            return gallery

        return draw


def permutation_of(cameras: np.ndarray, camera: int, identity: int, trial: int) -> list[int]:
    """1-based positions in the sorted files of a camera and identity, [] where the file has none."""
    try:
        matrix = np.atleast_2d(cameras[camera - 1].ravel()[identity - 1])
        return [int(position) for position in matrix[trial]]
    except IndexError:
        return []


def random_draw(folders: Mapping[Any, list[int]], shots: int, trial: int) -> list[int]:
    """The field's galleries: a fresh generator for each trial, one choice (or a sample) for each folder in turn."""
    generator = random.Random(trial)
    if shots == 1:
        return [generator.choice(rows) for rows in folders.values()]
    return [row for rows in folders.values() for row in generator.sample(rows, min(shots, len(rows)))]
