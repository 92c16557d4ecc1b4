"""Embeddings of named images in a folder: appended batch by batch, memory-mapped for the search (`nearest.py`).

`index.json` says how the embeddings were made, `embeddings.bin` holds a row of numbers for each, `entries.jsonl` a line
for each row: the image's name, its size in bytes, its time of change, the row's checksum and the line's own. A line is
written when its row is on the disk, and only rows with a line count: a process can be killed at any time. Nothing is
overwritten: a changed image gets a new row, and the last line of a name counts.

Lines are checked when the index is opened, a row when it is first read. What a killed process left is an end without a
line's end; anything else that is wrong is damage.
"""

import json
import os
import shutil
import zlib
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from common.checksum import read_sealed_json, row_sums, sealed_json
from common.words import how_many
from utils.lock import only_one
from utils.output import write_atomically

VERSION = 2  # of the files: raise it when their meaning changes
SETTINGS, EMBEDDINGS, ENTRIES = "index.json", "embeddings.bin", "entries.jsonl"
FAISS, FAISS_CHECK = "faiss.index", "faiss.json"  # utils/retrieval/nearest.py
HASHES = ("checkpoint", "compression")  # a few digits tell them apart
FIRST = ("checkpoint", "model", "weighting", "flip", "height", "width", "compression")  # named first where two differ

CHECK = b", %10d]\n"  # the end of a line: the CRC-32 of what precedes it
CHECK_BYTES = len(CHECK % 0)

Stamp = tuple[int, int]  # size in bytes, nanoseconds at the last change


class SearchIndexError(ValueError):
    """An index is damaged, of other embeddings, or cannot be written; the message says what to do."""


class Rows(np.memmap):
    """(N, D) embeddings in a file; a row's checksum is compared when it is first taken by [].

    raises   SearchIndexError, there
    """

    index: "SearchIndex | None" = None  # of the whole matrix; parts of it are checked already
    sums: np.ndarray                    # (N,) of its rows
    checked: np.ndarray                 # (N,) bool

    def __getitem__(self, key: Any) -> np.ndarray:
        if self.index is not None:
            self.check(self.index, key[0] if isinstance(key, tuple) else key)
        return self.view(np.ndarray)[key]

    def check(self, index: "SearchIndex", key: Any) -> None:
        if self.checked[key].all():
            return
        wrong = row_sums(np.atleast_2d(self.view(np.ndarray)[key])) != self.sums[key]
        if wrong.any():
            raise index.damaged(EMBEDDINGS, np.atleast_1d(np.arange(len(self))[key])[wrong][0])
        self.checked[key] = True


class SearchIndex:
    """`open_index` gives one.

    numbers   of an embedding, D
    dtype     float32 or float16
    """

    def __init__(self, folder: Path, numbers: int, dtype: str):
        self.folder, self.numbers, self.dtype = folder, numbers, np.dtype(dtype)
        self.entries: list[tuple[str, Stamp]] = []
        self.sums = array("Q")
        self.read_entries()
        self.row = {name: row for row, (name, _) in enumerate(self.entries)}  # of several rows the last

    def __len__(self) -> int:
        """Rows, N, those of images that changed or are gone included."""
        return len(self.entries)

    def read_entries(self) -> None:
        """Those that count; what a killed process left after them is cut off from both files.

        raises   SearchIndexError for a line that is not what was written
        """
        row_bytes, end = self.numbers * self.dtype.itemsize, 0
        with open(self.folder / ENTRIES, "a+b") as lines, open(self.folder / EMBEDDINGS, "ab") as rows:
            written = rows.tell() // row_bytes
            lines.seek(0)
            for line in lines:
                if not line.endswith(b"\n") or len(self) == written:
                    break
                if line[-CHECK_BYTES:] != line_check(line[:-CHECK_BYTES]):
                    raise self.damaged(ENTRIES, len(self))
                name, size, time, row_sum = json.loads(line[:-CHECK_BYTES] + b"]")
                self.entries.append((name, (size, time)))
                self.sums.append(row_sum)
                end += len(line)
            lines.truncate(end)
            rows.truncate(len(self) * row_bytes)

    def damaged(self, file: str, row: int) -> SearchIndexError:
        return SearchIndexError(
            f"{self.folder / file} is damaged: the checksum of row {row} differs from that of what was written. "
            "--rebuild makes the index anew; if this happens again, suspect the disk"
        )

    def rows(self, files: dict[str, Stamp]) -> np.ndarray:
        """(N,) bool: rows of images that are among the files, unchanged."""
        current = np.zeros(len(self), dtype=bool)
        current[[self.row[name] for name, stamp in files.items() if self.holds(name, stamp)]] = True
        return current

    def holds(self, name: str, stamp: Stamp) -> bool:
        row = self.row.get(name)
        return row is not None and self.entries[row][1] == stamp

    def matrix(self) -> np.ndarray:
        """(N, D), a memory map; reading a row that is damaged raises SearchIndexError."""
        if not self.entries:
            return np.empty((0, self.numbers), self.dtype)
        # Copy on write: nobody writes, but torch takes only writable arrays without a copy.
        rows = Rows(self.folder / EMBEDDINGS, self.dtype, "c", shape=(len(self), self.numbers))
        rows.index, rows.sums, rows.checked = self, np.array(self.sums), np.zeros(len(self), dtype=bool)
        return rows

    def append(self, entries: Sequence[tuple[str, Stamp]], embeddings: np.ndarray) -> None:
        """Add rows, inside `open_index`; when this returns they are on the disk.

        embeddings   (len(entries), D)
        raises       SearchIndexError where the disk refuses; earlier rows stay
        """
        embeddings = np.ascontiguousarray(embeddings, self.dtype)
        sums = row_sums(embeddings).tolist()
        lines = b"".join(line_of(name, stamp, row_sum) for (name, stamp), row_sum in zip(entries, sums))
        try:
            for file, content in ((EMBEDDINGS, embeddings.tobytes()), (ENTRIES, lines)):
                with open(self.folder / file, "ab") as opened:
                    opened.write(content)
                    opened.flush()
                    os.fsync(opened.fileno())
        except OSError as error:
            raise SearchIndexError(
                f"the index {self.folder} cannot be written ({error.strerror}); "
                f"{how_many(len(self), 'embedding is', 'embeddings are')} kept: make "
                "room, and run the same command again"
            ) from None
        self.sums.extend(sums)
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
                f"{how_many(images, 'embedding needs', 'embeddings need')} {needed / 1e9:.1f} GB, and the disk of "
                f"{self.folder} has "
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
                write_atomically(folder / SETTINGS, sealed_json(settings))
            check_settings(folder, settings)
            index = SearchIndex(folder, settings["numbers"], settings["dtype"])
        except OSError as error:
            raise SearchIndexError(
                f"the index {folder} cannot be used ({error}); choose another with --index"
            ) from None
        yield index


def check_settings(folder: Path, settings: dict) -> None:
    try:
        found = read_sealed_json(folder / SETTINGS)
    except ValueError:
        raise SearchIndexError(
            f"{folder / SETTINGS} is of an older version, or damaged; --rebuild makes the index anew"
        ) from None
    different = [key for key in dict.fromkeys([*FIRST, *settings, *found]) if found.get(key) != settings.get(key)]
    if different:
        key = different[0]
        was, now = (str(values.get(key))[:12 if key in HASHES else None] for values in (found, settings))
        values = "" if key == "model" else f" ({was}, now {now})"
        raise SearchIndexError(
            f"the index {folder} was made with another {key}{values}, so its embeddings cannot be mixed with new "
            "ones: add --rebuild to make it anew, or choose another folder with --index"
        )


def line_of(name: str, stamp: Stamp, row_sum: int) -> bytes:
    start = json.dumps([name, *stamp, row_sum])[:-1].encode()
    return start + line_check(start)


def line_check(start: bytes) -> bytes:
    return CHECK % zlib.crc32(start)
