"""What many tests read: a tiny data set, and of each method a run trained and tested on it, each made once.

Processes of pytest-xdist share them on disk. Nobody changes them: tests that write beside a run copy its folder, and
conftest.py fails the test after which anything differs.
"""

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from filelock import FileLock
from programs import run
from thin import is_thin

from data.synthetic import write_synthetic
from utils.training.checkpoint import read_own_checkpoint, save_checkpoint, sha256


@dataclass
class Method:
    """What tests have to know of a method's small config."""

    title: str                # in tables
    weightings: list[str]     # of its embedding, the reported one first
    showings: int             # of a pair of images in a training step; 1 where the K images are of both modalities


METHODS = {  # file of configs/ -> what is to be seen of it
    "quickstart_base": Method("Two-stream baseline", ["neck", "pooled"], 2),
    "quickstart_agw": Method("AGW", ["neck", "pooled"], 2),
    "quickstart_caj": Method("CAJ", ["neck", "pooled"], 3),
    "quickstart_deen": Method("DEEN", ["equal", "neck"], 2),
    "quickstart_mpanet": Method("MPANet", ["neck"], 2),
    "quickstart_pmt": Method("PMT", ["neck"], 2),
    "quickstart_mscmnet": Method("MSCMNet", ["neck"], 4),
    "quickstart_mcja": Method("MCJA", ["neck"], 1),
    "quickstart_dns": Method("DNS", ["neck", "pooled"], 2),
    "quickstart_sefel": Method("SEFEL", ["neck"], 4),
    "quickstart_mclnet": Method("MCLNet", ["neck", "pooled"], 2),
    "quickstart_cmfn": Method("CMFN", ["equal", "neck"], 2),
}
SMALL = [
    "SOLVER.EPOCHS", "1", "SOLVER.IDENTITIES", "2", "SOLVER.IMAGES", "2", "SOLVER.BASE_LR", "0.001", "DEVICE", "cpu",
    "DATA.WORKERS", "0",
]


@dataclass
class Shared:
    """The folder of all that is shared."""

    folder: Path
    made: dict[Path, dict] = field(default_factory=dict)  # with their files as they are to stay
    of_the_session: ClassVar["Shared"]                    # for what is no fixture

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """A folder or file, made by the first test that asks for it."""
        path = self.folder / name
        if path not in self.made:
            done = self.folder / f"{name}.done"
            with FileLock(self.folder / f"{name}.lock"):
                if not done.exists():
                    shutil.rmtree(path, ignore_errors=True)  # left by a failure
                    make(path)
                    done.touch()
            self.made[path] = files_of(path)
        return path

    def data(self) -> Path:
        """A synthetic data set: 4 people to train on, 3 for the test, an image by each of 6 cameras."""
        def make(path: Path) -> None:
            write_synthetic(path, seed=3, train_identities=4, test_identities=3, images_per_camera=1)

        return self.once("synthetic", make)

    def run(self, method: str) -> Path:
        """The folder of a run of a method of METHODS, trained for an epoch and tested."""
        def make(path: Path) -> None:
            run("train.py", "--config", f"configs/{method}.yaml", *SMALL, "DATA.ROOT", data, "OUTPUT", path)
            run("test.py", "--checkpoint", path)

        data = self.data()
        return self.once(method if is_thin() else f"{method}-wide", make)

    def changed(self) -> list[Path]:
        """What is no longer as it was made, each told once."""
        found = {path: files_of(path) for path in self.made}
        changed = [file for path, files in found.items() for file, _ in files.items() ^ self.made[path].items()]
        self.made = found
        return sorted({*changed})


def copy_of(run: Path, folder: Path) -> Path:
    """A run's folder copied, as if it had been trained and tested there: to be written to."""
    shutil.copytree(run, folder)
    saved = read_own_checkpoint(run / "last.pth")
    save_checkpoint(folder / "last.pth", saved | {"config": saved["config"].replace(str(run), str(folder))})
    for name in ("config.yaml", "results.json"):
        text = (folder / name).read_text().replace(str(run), str(folder))
        (folder / name).write_text(text.replace(sha256(run / "last.pth"), sha256(folder / "last.pth")))
    return folder


def files_of(path: Path) -> dict[Path, tuple[int, int]]:
    """The size and time of every file in a folder."""
    files = {}
    for file in [path, *path.rglob("*")]:
        with contextlib.suppress(FileNotFoundError):
            status = file.stat()
            if not file.is_dir():
                files[file] = status.st_size, status.st_mtime_ns
    return files
