"""Weight files, ours and others': checked before they are read, read without running code, named for what they are."""

import codecs
import functools
import os
import pickletools
import re
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from common.checksum import Summed, crc32_of, last_bytes
from common.words import how_many

# torch writes a zip archive, which ends with a record of 22 bytes; the last two are the length of its comment, 0. Ours
# has a comment, which other programs read over: the CRC-32 of the file as torch wrote it.
ZIP, END, LONGEST_END = b"PK\x03\x04", b"PK\x05\x06", 22 + 65535
NO_COMMENT, COMMENT = b"\0\0", b"\x0e\0crc32:%08x"
COMMENT_BYTES = len(COMMENT % 0)

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch's first pickle before 1.6

NOT_LOADED = "truncated, corrupt or no checkpoint at all"
UNPACK = "unpack it, and name the file that was in it"
KINDS = {  # by how they begin
    b"\x89HDF": "an HDF5 file (Keras, or MATLAB from 7.3 on)",
    b"MATLAB": "a .mat file of MATLAB",
    b"\x93NUMPY": "an .npy file of NumPy",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"GIF8": "a GIF image",
    b"RIFF": "a WebP image, or another RIFF file",
    b"BM": "a BMP image",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
    b"\x1f\x8b": f"a gzip archive: {UNPACK}",
    b"BZh": f"a bzip2 archive: {UNPACK}",
    b"\xfd7zXZ": f"an xz archive: {UNPACK}",
    b"7z\xbc\xaf": f"a 7z archive: {UNPACK}",
    b"Rar!": f"a RAR archive: {UNPACK}",
    b"\x28\xb5\x2f\xfd": f"a zstd archive: {UNPACK}",
    b"version https://git-lfs": "a pointer of git-LFS, not the file that it stands for: `git lfs pull` fetches that",
}

HOLDERS = ("net", "state_dict", "model", "model_state_dict", "network", "module")  # under which others keep weights
WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+|_orig_mod\.")  # of DataParallel and torch.compile
HARMLESS = re.compile(  # names in a pickle of tensors and numbers
    r"torch\.(_utils\._rebuild\w*|_tensor\._rebuild\w*|nn\.parameter\.Parameter|\w+Storage|Size|device|[a-z]+\d+)|"
    r"collections\.\w+|_codecs\.encode|numpy\.(dtype|ndarray|_?core\.multiarray\.(scalar|_reconstruct))"
)


class WeightsFileError(ValueError):
    """A file is absent, damaged, refused or of another kind; the message names it, says which, and what to do."""


def save_sealed(state: object, file: BinaryIO) -> None:
    """What torch.save does, with a checksum of the whole file in it.

    file   open for writing and reading, at its beginning
    """
    summed = Summed(file)
    torch.save(state, summed)  # type: ignore[arg-type]  # it only writes
    file.seek(-22, os.SEEK_END)
    if file.read(4) == END:
        file.seek(-len(NO_COMMENT), os.SEEK_END)
        file.write(COMMENT % summed.sum)


def read_weights_file(path: str | Path) -> object:
    """What torch.save wrote, on the CPU: tensors and plain values. NumPy's numbers become Python's, its arrays tensors.

    No code runs that the file names. A checksum is compared first: ours, else those of the zip archive's members; files
    of torch before 1.6 have none.

    raises   WeightsFileError
    """
    head = first_bytes(path)
    if head.startswith(ZIP):
        check_zip(path)
        check_members(path)
    torch.serialization.add_safe_globals(STAND_INS)
    try:
        return plain(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # noqa: BLE001 - torch raises many kinds for damaged files
        raise WeightsFileError(f"{path} {refusal(path, head, error)}") from None


def first_bytes(path: str | Path, number: int = 4096) -> bytes:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise WeightsFileError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'a device or pipe'}, not a file")
        with open(path, "rb") as file:
            return file.read(number)
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsFileError(
            f"there is no checkpoint at {path}, seen from {os.getcwd()}: the path is wrong, or nothing was trained "
            "there yet"
        ) from None
    except OSError as error:
        raise WeightsFileError(f"{path} cannot be read ({error.strerror})") from None


def check_zip(path: str | Path) -> None:
    """
    raises   WeightsFileError where the archive is cut off, or a checksum differs
    """
    end = last_bytes(path, LONGEST_END)
    at = end.rfind(END)
    if at < 0 or len(end) != at + 22 + int.from_bytes(end[at + 20:at + 22], "little"):
        raise WeightsFileError(f"{path} is {NOT_LOADED}: the end of the zip archive is missing. Copy it again")
    comment = end[at + 20:]
    if comment[:8] == COMMENT[:8]:
        whole = comment == COMMENT % zlib.crc32(NO_COMMENT, crc32_of(path, without=COMMENT_BYTES))
    else:
        whole = members_are_whole(path)
    if not whole:
        raise WeightsFileError(
            f"{path} is damaged: its checksum differs from that of what was written. Copy it again from where it is "
            "whole (of a run's best.pth and last.pth, the other one may be); if this happens again, suspect the disk"
        )


def members_are_whole(path: str | Path) -> bool:
    """Whether every member of a zip archive has its CRC-32, or none has one (torch can be told to leave them out)."""
    try:
        with zipfile.ZipFile(path) as archive:
            return not any(member.CRC for member in archive.infolist()) or archive.testzip() is None
    except Exception:  # noqa: BLE001 - what a damaged directory leads to is of many kinds
        return False


def check_members(path: str | Path) -> None:
    """
    raises   WeightsFileError for an archive that is none of torch.save's
    """
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise WeightsFileError(
            f"{path} is a TorchScript archive (torch.jit.save), which holds a program: save the network's state dict "
            "where it was made"
        )
    if not any(name.endswith("/data.pkl") for name in names):
        numpys = names and all(name.endswith(".npy") for name in names)
        what = "an .npz file of NumPy" if numpys else f"a zip archive that torch.save did not write: {UNPACK}"
        raise WeightsFileError(f"{path} is no checkpoint but {what} (it holds {listed(names)})")


def listed(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + ", ..." * (len(names) > most) or "nothing"


# What NumPy's objects in a file become. Its own functions would trust the file's bytes with the process's memory.


class dtype:
    __module__ = "numpy"

    def __init__(self, code: str, *_: object):
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def array(self, data: bytes) -> np.ndarray:
        if not re.fullmatch(r"[<>|][biufcSU]\d+", self.order + self.code):
            raise ValueError(f"arrays of {self.code} are not read")
        return np.frombuffer(data, self.order + self.code)


class ndarray:
    __module__ = "numpy"

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        values = kind.array(data).reshape(shape, order="F" if fortran else "C")
        native = values.astype(values.dtype.newbyteorder("="))  # a copy, which can be written to
        self.value = native.tolist() if native.dtype.kind in "SU" else torch.from_numpy(native)


def scalar(kind: dtype, data: bytes) -> object:
    return kind.array(data)[0].item()


def _reconstruct(*_: object) -> ndarray:
    return ndarray()


def of_module(module: str, function: Callable) -> Callable:
    """The function under its name in another module."""
    @functools.wraps(function)
    def call(*arguments: object) -> object:
        return function(*arguments)

    call.__module__ = module
    return call


NUMPY_1_AND_2 = ("numpy.core.multiarray", "numpy._core.multiarray")
STAND_INS: list[Any] = [
    dtype, ndarray, *(of_module(module, f) for module in NUMPY_1_AND_2 for f in (scalar, _reconstruct)),
]


def plain(value: object) -> object:
    """The value with tensors and lists where arrays stand, dicts and lists of them included."""
    if isinstance(value, ndarray):
        return value.value
    if isinstance(value, dict):
        for key in value:
            value[key] = plain(value[key])
    elif isinstance(value, list):
        value[:] = map(plain, value)
    return value


# What a file is


def refusal(path: str | Path, head: bytes, error: Exception) -> str:
    """Why torch could not read the file, as the end of a sentence that begins with its name."""
    code = code_named(path, head)
    if any(name.startswith("torch.nn.modules.") for name in code):
        return (
            f"is a whole pickled network ({code[0]}): loading it would run code. In the program that wrote it, save "
            "model.state_dict() instead"
        )
    if code:
        return (
            f"is refused, for it holds code ({listed(code)}), which loading it would run. If you trust it, load it in "
            "the program that wrote it, and save the network's state dict there"
        )
    if head.startswith((ZIP, LEGACY)) or head and ZIP.startswith(head):
        reason = (str(error).split("error: ")[-1].strip() or type(error).__name__).splitlines()[0]
        fix = "; save it without pickle_protocol" * reason.startswith("Unsupported operand")
        return f"is {NOT_LOADED} ({reason[:100]}){fix}"
    what = kind_of(head)
    return f"is no checkpoint but {what}" if what else f"is {NOT_LOADED} (it begins with {head[:8]!r})"


def code_named(path: str | Path, head: bytes) -> list[str]:
    """What a pickle in the file imports, but for what tensors and numbers need; none where it is no pickle."""
    if head.startswith(ZIP):
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as file:
                names = names_in_pickle(file)
    else:
        with open(path, "rb") as file:
            names = names_in_pickle(file)
            for _ in range(3 if head.startswith(LEGACY) else 0):  # after a number: another, the system, the content
                names += names_in_pickle(file)
    return [name for name in dict.fromkeys(names) if not HARMLESS.fullmatch(name)]


def names_in_pickle(file: IO[bytes]) -> list[str]:
    names: list[str] = []
    texts: list[str] = []
    memo: dict[object, list[str]] = {}
    protocol: object = 0
    try:
        for operation, argument, _ in pickletools.genops(file):
            if operation.name == "PROTO":
                protocol = argument
            elif operation.name in ("GLOBAL", "INST"):
                names.append(str(argument).replace(" ", "."))
            elif operation.name == "STACK_GLOBAL":
                names.append(".".join(texts[-2:]))
            elif operation.name == "MEMOIZE":
                memo[len(memo)] = texts[-1:]
            elif operation.name.endswith("GET"):
                texts += memo.get(argument, [])
            elif isinstance(argument, str):
                texts.append(argument)
    except Exception:  # noqa: BLE001 - what is no pickle leads to errors of many kinds
        return names if protocol else []  # without one, it is a text that looks like a pickle at first
    return names


def kind_of(head: bytes) -> str | None:
    """What a file is, by its first bytes; None where that isn't known."""
    if not head:
        return "an empty file"
    for start, what in KINDS.items():
        if head.startswith(start):
            return what
    if head[257:262] == b"ustar":
        return f"a tar archive: {UNPACK}"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "a safetensors file: load it with that library, and save the dict with torch.save"
    if re.match(rb"\x08[\x01-\x20][\x12\x1a\x22\x2a\x32\x3a\x42]", head):
        return "an ONNX model, or another protobuf"
    if head.startswith(b"\x80"):
        return "a Python pickle that torch.save did not write"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head).strip()
    except UnicodeDecodeError:
        return None
    if re.match(r"\ufeff?<(!doctype|html|head|\?xml|!--)", text, re.IGNORECASE):
        return "a web page, such as a server's message instead of the file: open it in a browser, and download again"
    if all(character.isprintable() or character.isspace() for character in text):
        return f"a text file ({text.splitlines()[0][:60]!r})" if text else "a file of blanks"
    return None


def described(state: object) -> str:
    """What was read from a file, in a few words."""
    if not isinstance(state, dict):
        return f"a {type(state).__name__}"
    if {"format", "config", "model"} <= {*state}:
        return "a checkpoint that train.py wrote (test.py --checkpoint reads it)"
    if {"state", "param_groups"} <= {*state}:
        return "an optimiser's state"
    names = [*named_tensors(state)]
    if {"conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"} <= {*names}:
        return "a state dict of torchvision's ResNet"
    if names:
        return f"a state dict of {how_many(len(names), 'tensor')} ({listed(names)})"
    return f"a dict without a network's tensors (it holds {listed([*map(str, state)])})"


def named_tensors(state: Any) -> dict[str, Tensor]:
    """The state dict that a file holds, bare or as one of HOLDERS, without what DataParallel and torch.compile add to
    the names, and without what is no tensor; empty where it holds none."""
    for _ in range(3):
        inner = [state[key] for key in HOLDERS if key in state] if isinstance(state, dict) else [{}]
        state = next((value for value in inner if isinstance(value, dict)), state)
    return {WRAPPERS.sub("", str(name)): value for name, value in state.items() if isinstance(value, Tensor)}
