"""What programs write: a place is tried before anything is computed, and what it refuses later isn't lost.

Nothing here needs torch.
"""

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOM = 1 << 20  # bytes that must be free where nobody knows better


class OutputError(ValueError):
    """A file or a folder cannot be written; the message names it, the reason, and what to do."""


def require_folder(folder: str | Path, fix: str = "choose another folder", room: int = ROOM) -> None:
    """Try whether files can be written in the folder, which needn't exist yet. Nothing is left there.

    fix      what to do where they can't, for the message
    room     bytes that must be free
    raises   OutputError
    """
    require(Path(folder), "output", Path(folder), fix, room)


def require_files(*paths: str | Path, fix: str = "choose another folder", room: int = ROOM) -> None:
    """Try whether these files can be written, and replaced where they exist; their folders needn't. Nothing is left.

    fix      what to do where they can't, for the message
    room     bytes that must be free
    raises   OutputError
    """
    for path in map(Path, paths):
        if os.path.isdir(path):
            raise OutputError(f"{path} cannot be written (it is a folder, where a file is wanted); {fix}")
        if os.path.exists(path) and not os.path.isfile(path):  # /dev/null, for instance, which root could replace
            raise OutputError(f"{path} cannot be written (it is no ordinary file); {fix}")
        require(path.parent, beside(path).name if path.name else "output", path, fix, room)


def require(folder: Path, name: str, path: Path, fix: str, room: int) -> None:
    """Try a file of that name in the folder or, where that is missing, in one like it in a hidden folder.

    path     is named in the message
    """
    there = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), folder)
    try:
        with tempfile.TemporaryDirectory(prefix=".writable-", dir=there, ignore_cleanup_errors=True) as hidden:
            inner = Path(hidden, folder.relative_to(there))
            inner.mkdir(parents=True, exist_ok=True)
            (inner / name).write_bytes(bytes(4096))
        free = shutil.disk_usage(there).free
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be written ({reason(error, folder)}); {fix}") from None
    if free < room:
        raise OutputError(
            f"{path} cannot be written ({free / 1e6:.1f} MB are free on its disk, and {room / 1e6:.1f} MB are needed); "
            f"make room, or {fix}"
        )


def reason(error: Exception, folder: Path) -> str:
    """Why a file in the folder cannot be written, in words."""
    for place in (folder, *folder.parents):
        if os.path.lexists(place) and not os.path.isdir(place):
            return f"{place} is {'no folder' if os.path.exists(place) else 'a link that leads nowhere'}"
    return getattr(error, "strerror", None) or str(error)


def write_or_keep(contents: Mapping[Path, str | bytes]) -> None:
    """Write these files, each whole or not at all. What is refused is kept in the system's temporary folder or, where
    that is full too and it is text, printed.

    raises   OutputError, after all were tried, which says what was refused and where it is
    """
    refused = []
    for path, content in contents.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content)
        except (OSError, ValueError) as error:
            refused.append(f"{path} cannot be written ({reason(error, path.parent)}); {kept(path.name, content)}")
    if refused:
        raise OutputError("\n".join(refused))


def kept(name: str, content: str | bytes) -> str:
    """Keep the content somewhere else; returns where it is, for the message."""
    try:
        return f"it is kept as {keep(name, content)}: make room and move it"
    except OSError as error:
        if isinstance(content, str):
            print(content, flush=True)
            return "its text is printed above"
        return f"nor could it be kept in the temporary folder ({error.strerror}): make room, and run this again"


def keep(name: str, content: str | bytes) -> Path:
    """A file with the content in the system's temporary folder.

    raises   OSError
    """
    folder = Path(tempfile.mkdtemp(prefix="kept-"))
    try:
        with open(folder / name, "wb") as file:
            file.write(as_bytes(content))
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder / name


def write_atomically(path: Path, content: str | bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(as_bytes(content))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden file beside the path, this process's own, to write to; it takes the path's place unless that fails."""
    temporary = beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def beside(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


def as_bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


def safe_streams() -> None:
    """Make every print possible: what the terminal's encoding lacks is escaped, and closed streams lead nowhere."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened takes this number, and what libraries print goes into it
            os.open(os.devnull, os.O_RDWR)
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w" if number else "r")  # noqa: SIM115 - as long as the program
            setattr(sys, name, stream)
        if number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
