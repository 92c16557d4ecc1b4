"""One process at a time in a folder, by a lock of the system's: it is free again when its process dies.

On Linux and macOS a lock belongs to the process that took it, so a loader's workers that outlive a killed training do
not hold its folder.
"""

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # what file systems without locks answer
BYTE = 1 << 30  # the byte that is locked on Windows, where no process could read it: far after the content
unlocked: set[Path] = set()  # folders of which it was said that they cannot be locked


class LockedError(ValueError):
    """Another process is at work in the folder; the message names both."""


class NoLocks(Exception):
    """The file system has no locks."""


@contextmanager
def only_one(
    folder: Path, work: str, say: Callable[[str], None] = print, wait: bool = False
) -> Iterator[None]:
    """Inside, no other process does this work in the folder.

    folder   is made if it isn't there, and removed after if nothing was written there
    work     a word such as "train"; different works do not lock each other out
    say      gets a sentence where the process waits, and once where the file system has no locks
    wait     until the other process has finished
    raises   LockedError where another process is at work there, OSError where the folder cannot be written
    """
    path, made = folder / f".{work}.lock", absent(folder)
    try:
        file = taken(path)
        if file is None:
            sentence = f"{owner(path)} is at work in {folder} ({work})"
            if not wait:
                raise LockedError(f"{sentence}; wait for it, stop it, or choose another folder")
            say(f"{sentence}: waiting for it")
            while (file := taken(path)) is None:
                time.sleep(0.1)
    except NoLocks as reason:
        if folder.resolve() not in unlocked:
            unlocked.add(folder.resolve())
            say(f"warning: {folder} is on a file system without locks ({reason}); start nothing else that writes there")
        yield
        return
    try:
        file.truncate(0)
        file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "command": sys.argv}).encode())
        file.flush()
        yield
    finally:
        try:
            path.unlink()  # before the lock is let go of, so that nobody can take a file that is about to vanish
        except OSError:
            pass  # Windows keeps an open file; a lock's file that stays does no harm
        file.close()
        for place in made:
            try:
                place.rmdir()
            except OSError:
                break  # something was written there


def absent(folder: Path) -> list[Path]:
    """Of a folder and those it lies in, what isn't there, the innermost first."""
    return [place for place in (folder, *folder.parents) if not os.path.lexists(place)]


def taken(path: Path) -> BinaryIO | None:
    """The open file, locked by this process; None where another process has it.

    raises   NoLocks
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "a+b")  # noqa: SIM115 - the caller closes it
        except FileNotFoundError:
            if path.parent.exists():
                raise
            continue  # its owner has just removed the empty folder
        try:
            lock(file)
        except OSError as error:
            file.close()
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                return None
            if error.errno in NO_LOCKS:
                raise NoLocks(error.strerror) from None
            raise
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        file.close()  # its owner has just removed it: take the next one


def lock(file: BinaryIO) -> None:
    if fcntl:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        file.seek(BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # of Windows alone


def owner(path: Path) -> str:
    """Who holds the lock, as far as its file tells."""
    try:
        content = json.loads(path.read_bytes())
        return f"process {content['process']} on {content['host']} ({' '.join(content['command'])})"
    except (OSError, ValueError, KeyError, TypeError):  # it is just being written, or was removed
        return "another process"
