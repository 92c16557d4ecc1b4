"""Checksums of what we write for ourselves: of files of torch, of small JSON files and of rows of numbers.

Each notices any single wrong bit with certainty, anything else but for one case in 2**32 or more.
"""

import json
import os
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

BLOCK = 1 << 20
SEAL = b"crc32:%08x"


class Summed:
    """A binary file to write to, which keeps the CRC-32 of what was written."""

    def __init__(self, file: BinaryIO):
        self.file, self.sum = file, 0

    def write(self, block: bytes) -> int:
        self.sum = zlib.crc32(block, self.sum)
        return self.file.write(block)

    def flush(self) -> None:
        self.file.flush()


def crc32_of(path: str | Path, without: int = 0) -> int:
    """The CRC-32 of a file, but for its last bytes."""
    total, buffer = 0, memoryview(bytearray(BLOCK))
    with open(path, "rb", buffering=0) as file:
        left = os.fstat(file.fileno()).st_size - without
        while left > 0 and (read := file.readinto(buffer[:left])):
            total, left = zlib.crc32(buffer[:read], total), left - read
    return total


def seal(path: str | Path) -> None:
    """Append the file's CRC-32, which `is_sealed` compares."""
    total = crc32_of(path)
    with open(path, "ab") as file:
        file.write(SEAL % total)


def is_sealed(path: str | Path) -> bool:
    """
    raises   OSError
    """
    length = len(SEAL % 0)
    return last_bytes(path, length) == SEAL % crc32_of(path, without=length)


def last_bytes(path: str | Path, number: int) -> bytes:
    """So many, or all where the file has fewer."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - number))
        return file.read()


def sealed_json(content: dict) -> str:
    """The text of a JSON file that says its own checksum; `read_sealed_json` reads it."""
    return json.dumps(content | {"crc32": json_sum(content)}, indent=1) + "\n"


def read_sealed_json(path: Path) -> dict:
    """
    raises   ValueError where the content is not what was written; OSError
    """
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict) or content.pop("crc32", None) != json_sum(content):
        raise ValueError("its checksum differs")
    return content


def json_sum(content: dict) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def row_sums(rows: np.ndarray) -> np.ndarray:
    """Checksums of rows, at the speed at which memory is read: their words times 1, 3, 5, ..., modulo 2**64.

    An odd factor leaves no bit of a word without effect, and different ones notice words that changed places.

    rows      (N, D) of 2, 4 or 8 bytes a number
    returns   (N,) uint64
    """
    width = next(width for width in (8, 4, 2) if rows.shape[1] * rows.itemsize % width == 0)
    words = np.ascontiguousarray(rows).view(f"u{width}")
    factors = 2 * np.arange(words.shape[1], dtype=np.uint64) + np.uint64(1)
    return np.einsum("ij,j->i", words, factors, dtype=np.uint64, casting="safe")
