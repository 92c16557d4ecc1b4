"""Embeddings of named images in a folder: appended batch by batch, memory-mapped for the search (utils/nearest.py).

`index.json` says how the embeddings were made, `embeddings.bin` holds a row of numbers for each, `entries.jsonl` a line
for each row: the image's name, its size in bytes and its time of change. A line is written when its row is on the disk,
and only rows with a line count: a process can be killed at any time. Nothing is overwritten: a changed image gets a new
row, and the last line of a name counts.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from utils.lock import only_one
from utils.run import write_atomically

VERSION = 1  # of the files: raise it when their meaning changes
SETTINGS, EMBEDDINGS, ENTRIES = "index.json", "embeddings.bin", "entries.jsonl"
FAISS, FAISS_CHECK = "faiss.index", "faiss.json"  # utils/nearest.py
HASHES = ("checkpoint", "compression")  # a few digits tell them apart
FIRST = ("checkpoint", "model", "weighting", "flip", "height", "width", "compression")  # named first where two differ

Stamp = tuple[int, int]  # size in bytes, nanoseconds at the last change


class SearchIndexError(ValueError):
    """An index is damaged, of other embeddings, or cannot be written; the message says what to do."""


class SearchIndex:
    """`open_index` gives one.

    numbers   of an embedding, D
    dtype     float32 or float16
    """

    def __init__(self, folder: Path, numbers: int, dtype: str):
        self.folder, self.numbers, self.dtype = folder, numbers, np.dtype(dtype)
        self.entries = list(self.read_entries())
        self.row = {name: row for row, (name, _) in enumerate(self.entries)}  # of several rows the last

    def __len__(self) -> int:
        """Rows, N, those of images that changed or are gone included."""
        return len(self.entries)

    def read_entries(self) -> Iterator[tuple[str, Stamp]]:
        """Those that count; what a killed process left behind them is cut off from both files."""
        row_bytes, counted = self.numbers * self.dtype.itemsize, 0
        with open(self.folder / ENTRIES, "a+b") as lines, open(self.folder / EMBEDDINGS, "ab") as rows:
            written = rows.tell() // row_bytes
            lines.seek(0)
            end = 0
            for line in lines:
                entry = parsed(line)
                if entry is None or counted == written:
                    break
                yield entry
                counted, end = counted + 1, end + len(line)
            lines.truncate(end)
            rows.truncate(counted * row_bytes)

    def rows(self, files: dict[str, Stamp]) -> np.ndarray:
        """(N,) bool: rows of images that are among the files, unchanged."""
        current = np.zeros(len(self), dtype=bool)
        current[[self.row[name] for name, stamp in files.items() if self.holds(name, stamp)]] = True
        return current

    def holds(self, name: str, stamp: Stamp) -> bool:
        row = self.row.get(name)
        return row is not None and self.entries[row][1] == stamp

    def matrix(self) -> np.ndarray:
        """(N, D), a memory map."""
        if not self.entries:
            return np.empty((0, self.numbers), self.dtype)
        # Copy on write: nobody writes, but torch takes only writable arrays without a copy.
        return np.memmap(self.folder / EMBEDDINGS, self.dtype, "c", shape=(len(self), self.numbers))

    def append(self, entries: Sequence[tuple[str, Stamp]], embeddings: np.ndarray) -> None:
        """Add rows, inside `open_index`; when this returns they are on the disk.

        embeddings   (len(entries), D)
        raises       SearchIndexError where the disk refuses; earlier rows stay
        """
        lines = "".join(json.dumps([name, *stamp]) + "\n" for name, stamp in entries)
        try:
            for file, content in (
                (EMBEDDINGS, np.ascontiguousarray(embeddings, self.dtype).tobytes()), (ENTRIES, lines.encode()),
            ):
                with open(self.folder / file, "ab") as opened:
                    opened.write(content)
                    opened.flush()
                    os.fsync(opened.fileno())
        except OSError as error:
            raise SearchIndexError(
                f"the index {self.folder} cannot be written ({error.strerror}); {len(self)} embeddings are kept: make "
                "room, and run the same command again"
            ) from None
        for name, stamp in entries:
            self.row[name] = len(self.entries)
            self.entries.append((name, stamp))

    def check_room(self, images: int) -> None:
        """
        raises   SearchIndexError where the disk has no room for so many more rows
        """
        needed, free = images * self.numbers * self.dtype.itemsize, shutil.disk_usage(self.folder).free
        if free < needed:
            raise SearchIndexError(
                f"{images} embeddings need {needed / 1e9:.1f} GB, and the disk of {self.folder} has "
                f"{free / 1e9:.1f} GB left: make room, choose another --index, --dtype float16, or a compressed "
                "embedding (EMBEDDING.DIM)"
            )


@contextmanager
def open_index(folder: Path, settings: dict, rebuild: bool = False) -> Iterator[SearchIndex]:
    """The index in the folder, made if there is none; inside, no other process adds to it. Afterwards it can be read.

    settings   JSON values that say how the embeddings are made; "numbers" and "dtype" must be among them
    rebuild    throw away what is there
    raises     SearchIndexError for an index of other settings, naming what differs
    """
    settings = {"version": VERSION, **settings}
    with ExitStack() as alone:
        try:
            alone.enter_context(only_one(folder, "index", wait=True))
            if rebuild or not (folder / SETTINGS).exists():
                for file in (FAISS_CHECK, FAISS, ENTRIES, EMBEDDINGS):
                    (folder / file).unlink(missing_ok=True)
                write_atomically(folder / SETTINGS, json.dumps(settings, indent=1) + "\n")
            check_settings(folder, settings)
            index = SearchIndex(folder, settings["numbers"], settings["dtype"])
        except OSError as error:
            raise SearchIndexError(
                f"the index {folder} cannot be used ({error}); choose another with --index"
            ) from None
        yield index


def check_settings(folder: Path, settings: dict) -> None:
    try:
        found = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        different = [key for key in dict.fromkeys([*FIRST, *settings, *found]) if found.get(key) != settings.get(key)]
    except (ValueError, AttributeError):
        raise SearchIndexError(f"{folder / SETTINGS} is damaged; --rebuild makes the index anew") from None
    if different:
        key = different[0]
        was, now = (str(values.get(key))[:12 if key in HASHES else None] for values in (found, settings))
        values = "" if key == "model" else f" ({was}, now {now})"
        raise SearchIndexError(
            f"the index {folder} was made with another {key}{values}, so its embeddings cannot be mixed with new "
            "ones: add --rebuild to make it anew, or choose another folder with --index"
        )


def parsed(line: bytes) -> tuple[str, Stamp] | None:
    """The entry of a line, or None where it was cut off."""
    try:
        name, size, time = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, TypeError):
        return None
    return name, (size, time)
