"""What surrounds a run: its log and metrics, the device, seeds."""

import json
import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from utils.output import write_atomically

LOG = logging.getLogger("cmfn")


class DeviceError(ValueError):
    """The device asked for is not there."""


class OutOfMemory(RuntimeError):
    """The device or the machine has too little memory; the message says what needs less."""


@contextmanager
def memory_advice(fix: str) -> Iterator[None]:
    """
    raises   OutOfMemory with the fix instead of torch's own errors
    """
    try:
        yield
    except RuntimeError as error:
        of_a_loader = "DataLoader worker" in str(error)  # which utils/training/loaders.py explains
        on_the_cpu = "DefaultCPUAllocator" in str(error) and not of_a_loader
        if not isinstance(error, torch.OutOfMemoryError) and not on_the_cpu:
            raise
        raise OutOfMemory(f"out of memory ({str(error).strip().splitlines()[0]}). {fix}") from None


def select_device(name: str, local_rank: int = 0) -> torch.device:
    """The device that DEVICE names; "auto" is CUDA where there is one. Of CUDA devices, a process takes its own.

    local_rank   number of the process on this machine
    raises       DeviceError
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DeviceError(f"DEVICE is {name!r}, which cannot be used here ({reason}); try auto or cpu") from None
    return device


def seed_step(seed: int, epoch: int, step: int, rank: int = 0) -> None:
    """Seed dropout and drop path for one step, so that a resumed run draws what an uninterrupted one does."""
    number = (seed * 1_000_003 + epoch) * 1_000_003 + step
    torch.manual_seed((number + rank * 0x9E3779B97F4A7C15) % 2**63)  # other processes draw otherwise


def select_algorithms(deterministic: bool, tf32: str = "convolutions") -> None:
    """
    deterministic   those that give the same bits each time, or an error; otherwise the fastest ones
    tf32            SOLVER.TF32
    """
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    torch.backends.cudnn.allow_tf32 = tf32 != "none"
    torch.set_float32_matmul_precision("high" if tf32 == "all" else "highest")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.backends.cuda.enable_flash_sdp(False)  # their backward passes add in any order
        torch.backends.cuda.enable_mem_efficient_sdp(False)


class Console(logging.StreamHandler):
    """Standard output, as long as somebody reads it: a training goes on after its terminal is gone."""

    def handleError(self, record: logging.LogRecord) -> None:
        LOG.removeHandler(self)


class LogFile(logging.FileHandler):
    """A line that the disk refuses is lost, which is said once; the training goes on.

    Lines wait in memory until `begin`: what is refused before it begins leaves no file.
    """

    refused = False

    def __init__(self, path: Path):
        super().__init__(path, encoding="utf-8", delay=True)
        self.waiting: list[logging.LogRecord] | None = []

    def emit(self, record: logging.LogRecord) -> None:
        if self.waiting is None:
            super().emit(record)
        else:
            self.waiting.append(record)

    def begin(self) -> None:
        waiting, self.waiting = self.waiting or [], None
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        for record in waiting:
            self.handle(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.refused:
            self.refused = True
            print(f"warning: {self.baseFilename} cannot be written ({sys.exc_info()[1]})", file=sys.stderr)


def start_log(folder: Path, writes: bool = True) -> None:
    """Log lines go to the console and, from `keep_log` on, to the folder's train.log, after what is there already.

    writes   false for a process that leaves it to another
    """
    LOG.handlers.clear()
    LOG.disabled = not writes
    if not writes:
        return
    LOG.setLevel(logging.INFO)
    console, file = Console(sys.stdout), LogFile(folder / "train.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    LOG.addHandler(console)
    LOG.addHandler(file)


def keep_log() -> None:
    """Write what was logged since `start_log`, and what will be."""
    for handler in LOG.handlers:
        if isinstance(handler, LogFile):
            handler.begin()


class Metrics:
    """metrics.jsonl, one JSON object per line and epoch; also TensorBoard, where that is installed and works.

    Lines from `first_epoch` on are those of a run that was cut off before its checkpoint, and are dropped. What the
    disk or TensorBoard refuse is a warning: a training never ends for want of a curve.
    """

    def __init__(self, folder: Path, first_epoch: int):
        self.path = folder / "metrics.jsonl"
        kept = [line for line in self.read(folder) if line["epoch"] < first_epoch]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.board = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_epoch)
        except ImportError:
            pass  # it isn't installed
        except Exception as error:  # noqa: BLE001 - TensorBoard's, of many kinds
            LOG.warning("warning: TensorBoard doesn't work here, and gets no curves: %s", first_line(error))

    @staticmethod
    def read(folder: Path) -> list[dict]:
        """The lines; one that is damaged is left out with a warning, one that was cut off without."""
        path, found = folder / "metrics.jsonl", []
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                figures = json.loads(line)
                whole = isinstance(figures["epoch"], int) and all(isinstance(x, int | float) for x in figures.values())
            except (ValueError, KeyError, TypeError, AttributeError):
                whole = False
            if whole:
                found.append(figures)
            elif line.endswith(b"\n"):  # else it was cut off while it was written: its epoch has no checkpoint either
                LOG.warning("warning: %s, line %d is damaged and left out", path, number)
        return found

    def write(self, epoch: int, figures: dict[str, float]) -> None:
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"epoch": epoch, **figures}) + "\n")
        except OSError as error:
            LOG.warning("warning: epoch %d is missing in %s: %s", epoch, self.path, error.strerror)
        if self.board is None:
            return
        try:
            for name, value in figures.items():
                self.board.add_scalar(name, value, epoch)
            self.board.flush()
        except Exception as error:  # noqa: BLE001 - TensorBoard's, of many kinds
            self.board = None
            LOG.warning("warning: TensorBoard gets no curves from here on: %s", first_line(error))


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class HostCopy:
    """A few numbers on their way from the device: ask before the backward pass, read after it was queued.

    Reading waits for the forward pass only, while the device is busy with the backward one; so every step's loss can
    be looked at without ever leaving the device idle.
    """

    def __init__(self, values: Tensor):
        self.event = None
        values = values.detach()
        if values.device.type == "cuda":
            self.values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self.values.copy_(values, non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record(torch.cuda.current_stream(values.device))  # which need not be the current device
        else:
            self.values = values.cpu()

    def read(self) -> list[float]:
        if self.event is not None:
            self.event.synchronize()
        return self.values.tolist()


def library_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "numpy", "pillow", "opencv-python-headless", "scipy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions
