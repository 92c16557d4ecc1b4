"""Checkpoints: written whole or not at all, read without running code from them."""

import hashlib
import os
from pathlib import Path
from typing import NoReturn

import torch
from torch import nn

from common.weights import WeightsFileError, described, read_weights_file, save_sealed

FORMAT = 1
# What parts of a checkpoint of train.py are, where they are there.
KINDS = {
    "model": dict, "optimizer": dict, "scaler": dict, "config": str, "identities": list, "epoch": int, "step": int,
    "sums": dict, "figures": dict, "best": float,
}


class CheckpointError(ValueError):
    """A checkpoint is absent, broken or of another run; the message says which and what to do."""


class OwnCheckpoint(dict):
    """What train.py wrote to a file; looking for what the file lacks raises CheckpointError."""

    def __init__(self, state: dict, path: str | Path):
        super().__init__(state)
        self.path = path

    def __missing__(self, key: str) -> NoReturn:
        raise CheckpointError(f"{self.path} is no whole checkpoint of train.py: it lacks {key!r}")


def save_checkpoint(path: Path, state: dict) -> None:
    """Write the state so that `path` holds either the older file or the whole new one, whatever happens.

    A temporary file beside it, fsync, rename, fsync of the folder. Reading it again compares a checksum of the file.

    raises   CheckpointError where the disk refuses; the older file stays
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "w+b") as file:
            save_sealed({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch wraps a full disk in a RuntimeError
        temporary.unlink(missing_ok=True)
        kept = f"the older {path} is kept" if path.exists() else "there is no older one"
        raise CheckpointError(f"{path} could not be written ({error}); {kept}. Is the disk full?") from None


def sync_folder(folder: Path) -> None:
    """Make a rename in the folder survive a power cut, where the system lets a folder be opened."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_checkpoint(path: str | Path) -> dict:
    """The tensors and plain values of a checkpoint file, on the CPU.

    raises   CheckpointError where the file is absent, damaged, or of another kind
    """
    try:
        state = read_weights_file(path)
    except WeightsFileError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no checkpoint but {described(state)}")
    return state


def read_own_checkpoint(path: str | Path) -> OwnCheckpoint:
    """A checkpoint that train.py wrote.

    raises   CheckpointError as `read_checkpoint` does, for another program's file, and where a part is of another kind
    """
    state = read_checkpoint(path)
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was not written by this version of train.py (format {state.get('format')!r}, not {FORMAT}); it is "
            f"{described(state)}. A checkpoint of the method's authors is read with --authors-checkpoint"
        )
    for key, kind in KINDS.items():
        if key in state and not isinstance(state[key], kind):
            raise CheckpointError(
                f"{path} was altered since train.py wrote it: its {key} is of type {type(state[key]).__name__}, not "
                f"{kind.__name__}; copy it again"
            )
    return OwnCheckpoint(state, path=path)


def load_weights(model: nn.Module, weights: dict, path: str | Path) -> None:
    """Fill the model with exactly these weights.

    raises   CheckpointError listing what is missing, unexpected, or of another shape or kind of numbers
    """
    ours = model.state_dict()
    weights = {key: value for key, value in weights.items() if isinstance(value, torch.Tensor)}
    problems = [f"missing: {key}" for key in ours if key not in weights]
    problems += [f"unexpected: {key}" for key in weights if key not in ours]
    problems += [
        f"of another shape: {key} is {[*weights[key].shape]}, not {[*ours[key].shape]}"
        for key in ours if key in weights and weights[key].shape != ours[key].shape
    ]
    problems += [
        f"of another kind: {key} is {kind_of(weights[key])}, not {kind_of(ours[key])}"
        for key in ours if key in weights and kind_of(weights[key]) != kind_of(ours[key])
    ]
    if problems:
        listed = "\n  ".join(problems[:20] + [f"and {len(problems) - 20} more"] * (len(problems) > 20))
        raise CheckpointError(f"{path} does not fit the network that the configuration describes:\n  {listed}")
    model.load_state_dict(weights)


def kind_of(x: torch.Tensor) -> str:
    return f"{x.dtype}, {x.layout}".replace("torch.", "")


def sha256(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
