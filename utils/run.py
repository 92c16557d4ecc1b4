"""What surrounds a run: its folder, log and metrics, the device, seeds, and an orderly stop."""

import gc
import json
import logging
import os
import platform
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

LOG = logging.getLogger("cmfn")


class DeviceError(ValueError):
    """The device asked for is not there."""


class OutOfMemory(RuntimeError):
    """The device or the machine has too little memory; the message says what needs less."""


@contextmanager
def memory_advice(mend: str) -> Iterator[None]:
    """
    raises   OutOfMemory with the mend instead of torch's own errors
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        raise OutOfMemory(f"out of memory ({str(error).strip().splitlines()[0]}). {mend}") from None


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


def select_algorithms(deterministic: bool) -> None:
    """DETERMINISTIC: those that give the same bits each time, or an error; otherwise the fastest ones."""
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.backends.cuda.enable_flash_sdp(False)  # their backward passes add in any order
        torch.backends.cuda.enable_mem_efficient_sdp(False)


def start_log(folder: Path, writes: bool = True) -> None:
    """Log lines go to the console and, behind what is there already, to the folder's train.log.

    writes   false for a process that leaves it to another
    """
    LOG.handlers.clear()
    LOG.disabled = not writes
    if not writes:
        return
    folder.mkdir(parents=True, exist_ok=True)
    LOG.setLevel(logging.INFO)
    console, file = logging.StreamHandler(sys.stdout), logging.FileHandler(folder / "train.log", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    LOG.addHandler(console)
    LOG.addHandler(file)


class Metrics:
    """metrics.jsonl, one JSON object per line and epoch; also TensorBoard, where that is installed.

    Lines from `first_epoch` on are those of a run that was cut off before its checkpoint, and are dropped.
    """

    def __init__(self, folder: Path, first_epoch: int):
        self.path = folder / "metrics.jsonl"
        kept = [line for line in self.read(folder) if line["epoch"] < first_epoch]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.board = None
        else:
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_epoch)

    @staticmethod
    def read(folder: Path) -> list[dict]:
        path, lines = folder / "metrics.jsonl", []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break  # cut off while it was written: its epoch has no checkpoint either
        return lines

    def write(self, epoch: int, figures: dict[str, float]) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, **figures}) + "\n")
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, epoch)
            self.board.flush()


def write_atomically(path: Path, content: str | bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden file beside the path, this process's own, to write to; it takes the path's place unless that fails."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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


class StopRequest:
    """Turns SIGTERM and SIGINT into a flag that the training loop looks at; the second signal stops at once."""

    def __init__(self):
        self.by: str | None = None
        self.previous = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self.previous[number] = signal.signal(number, self.note)
        return self

    def note(self, number: int, _frame) -> None:
        self.by = signal.Signals(number).name
        signal.signal(number, self.previous[number])

    @property
    def status(self) -> int:
        """With which a stopped program ends, as shells have it: what stands behind it in a script is not to run."""
        return 128 + signal.Signals[self.by or "SIGTERM"]

    def __exit__(self, *_) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def leave_stopping_to_the_main_process(_worker: int) -> None:
    """For a loader's workers: Ctrl-C and schedulers signal the whole process group, and the last batch is wanted."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def library_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "numpy", "pillow", "opencv-python-headless", "scipy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def fail_clearly(main, expected: tuple[type[Exception], ...]) -> None:
    """Run a program's main; an expected error ends it with one message and exit status 1, without a stack trace.

    Where nobody reads its output any more (`| head`), it ends without a word, with the status of a broken pipe.
    """
    try:
        main()
        sys.stdout.flush()
    except BaseException as error:
        # A loader that its frames hold ends its workers now: they ignore the SIGTERM of the interpreter's exit.
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        if isinstance(error, BrokenPipeError) and not output_is_read():
            sys.exit(128 + signal.SIGPIPE)
        if not isinstance(error, expected):
            raise
        message = str(error)
        if "Original Traceback" in message:  # came through a loader's worker: its own words stand behind the trace
            message = message.rsplit("Error: ", 1)[-1]
        sys.exit(f"error: {message.strip()}")


def output_is_read() -> bool:
    """Whether standard output takes another line; where nobody reads it any more, the rest is thrown away."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes again when it ends
        return False
    return True
