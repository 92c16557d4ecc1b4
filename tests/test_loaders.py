"""utils/training/loaders.py: a process that loads images dies in all the ways that it can, and one error says why."""

import errno
import multiprocessing
import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from utils.training.loaders import LoaderError, loader_advice, meaning_of, start_worker


class NoHandingOver:
    """What a worker cannot send: the queue's own thread fails, not the data set."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


class Failing(Dataset):
    def __init__(self, fail):
        self.fail = fail

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return self.fail()


def killed(number):
    os.kill(os.getpid(), number)


def raising(error):
    raise error


@pytest.fixture(autouse=True)
def torchs_handler(monkeypatch):
    """torch installs it once in a process; without it, a lost worker is noticed after five seconds."""
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)


@pytest.fixture(autouse=True)
def no_worker_left():
    """Ends the workers of a loader that failed; whichever later test collected it would wait five seconds for each."""
    before = {*multiprocessing.active_children()}
    yield
    for worker in {*multiprocessing.active_children()} - before:
        worker.kill()
        worker.join()


@pytest.mark.parametrize("fail, words", [
    (lambda: killed(signal.SIGKILL), "the machine's memory is used up: lower DATA.WORKERS, which is 1"),
    (lambda: killed(signal.SIGBUS), "--shm-size"),
    (lambda: os._exit(7), "perhaps for lack of memory"),
    (lambda: NoHandingOver(OSError(errno.EMFILE, "Too many open files")), "ulimit -n"),
    (lambda: NoHandingOver(RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on "
                                        "device (28)")), "--shm-size"),
    (lambda: NoHandingOver(ValueError("never seen")), "perhaps for lack of memory"),
    (lambda: raising(MemoryError()), "memory is used up"),
    (lambda: raising(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")),
     "memory is used up"),
])
def test_the_loss_of_a_worker_is_one_error_with_its_cause(fail, words):
    loader = DataLoader(Failing(fail), batch_size=None, num_workers=1, worker_init_fn=start_worker)
    with pytest.raises(LoaderError) as error, loader_advice(1):
        next(iter(loader))
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("error, words", [
    (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),          # a pipe for a new worker
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory is used up"),  # its fork
    (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
    (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
    (OSError("Caught OSError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
             "OSError: [Errno 24] Too many open files"), "failed (OSError: [Errno 24] Too many open files): too many"),
    (RuntimeError("unable to mmap 9 bytes from file </torch_1_2_0>: Cannot allocate memory (12)"), "memory is used up"),
    (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "perhaps for lack of memory"),
    (EOFError(), "perhaps for lack of memory"),
])
def test_what_the_main_process_sees_of_it(error, words):
    with pytest.raises(LoaderError) as raised, loader_advice(3):
        raise error
    assert words in str(raised.value) and "DATA.WORKERS, which is 3" in str(raised.value)


@pytest.mark.parametrize("error", [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"), FileNotFoundError(errno.ENOENT, "no such file", "a.jpg"),
    torch.OutOfMemoryError("CUDA out of memory"), OSError(errno.ENOSPC, "No space left on device", "run/last.pth"),
    OSError(errno.EMFILE, "Too many open files", "image.jpg"), MemoryError(),
    ValueError("Caught DataError in DataLoader worker process 0.\nOriginal Traceback ...\nDataError: a.jpg is broken"),
])
def test_other_errors_stay_what_they_are(error):
    assert meaning_of(error) is None
    with pytest.raises(type(error)), loader_advice(1):
        raise error
