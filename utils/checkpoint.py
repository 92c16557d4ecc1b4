"""Checkpoints: written whole or not at all, read without running code from them."""

import hashlib
import os
from pathlib import Path

import torch
from torch import nn

FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint is absent, broken or of another run; the message says which and what to do."""


def save_checkpoint(path: Path, state: dict) -> None:
    """Write the state so that `path` holds either the older file or the whole new one, whatever happens.

    A temporary file beside it, fsync, rename, fsync of the folder.

    raises   CheckpointError where the disk refuses; the older file stays
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
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

    raises   CheckpointError where the file is absent or unreadable
    """
    if not Path(path).is_file():
        raise CheckpointError(f"there is no checkpoint at {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} is truncated, corrupt or no checkpoint at all ({reason})") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no checkpoint but a {type(state).__name__}")
    return state


def read_own_checkpoint(path: str | Path) -> dict:
    """A checkpoint that train.py wrote.

    raises   CheckpointError as `read_checkpoint` does, and for another program's file
    """
    state = read_checkpoint(path)
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was not written by this version of train.py (format {state.get('format')!r}, not {FORMAT}); "
            "a checkpoint of the method's authors is read with --authors-checkpoint"
        )
    return state


def load_weights(model: nn.Module, weights: dict, path: str | Path) -> None:
    """Fill the model with exactly these weights.

    raises   CheckpointError listing what is missing, unexpected or of another shape
    """
    ours = model.state_dict()
    problems = [f"missing: {key}" for key in ours if key not in weights]
    problems += [f"unexpected: {key}" for key in weights if key not in ours]
    problems += [
        f"of another shape: {key} is {[*weights[key].shape]}, not {[*ours[key].shape]}"
        for key in ours if key in weights and weights[key].shape != ours[key].shape
    ]
    if problems:
        listed = "\n  ".join(problems[:20] + [f"and {len(problems) - 20} more"] * (len(problems) > 20))
        raise CheckpointError(f"{path} does not fit the network that the configuration describes:\n  {listed}")
    model.load_state_dict(weights)


def sha256(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
