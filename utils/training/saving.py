"""The checkpoints of a run's folder: last.pth and best.pth."""

import tempfile
from pathlib import Path

from torch import nn

from utils.training.checkpoint import CheckpointError, read_own_checkpoint, save_checkpoint


class Saving:
    """
    folder   of the run
    """

    def __init__(self, folder: Path):
        self.folder, self.last, self.best = folder, folder / "last.pth", folder / "best.pth"

    def found(self, resume: bool) -> dict | None:
        """The last checkpoint, where there is one.

        raises   CheckpointError where it is damaged, or not to be gone on with
        """
        if not self.last.exists():
            return None
        if not resume:
            raise CheckpointError(
                f"{self.folder} holds a training already: add --resume to go on with it, or choose another OUTPUT"
            )
        return read_own_checkpoint(self.last)

    def room(self, model: nn.Module, kept: int, best: bool) -> int:
        """Bytes that checkpoints still need on the disk: the last, the one that replaces it and, if any, the best.

        kept   tensors that the optimiser keeps of each parameter that is trained
        """
        one = sum(t.nbytes for t in model.state_dict().values())
        one += kept * sum(p.nbytes for p in model.parameters() if p.requires_grad)
        return (2 + best) * one - sum(f.stat().st_size for f in (self.last, self.best) if f.exists())

    def save(self, state: dict, best: bool) -> None:
        """
        best     as the best one, too
        raises   CheckpointError where the disk refuses, which says where the state is instead
        """
        try:
            if best:
                save_checkpoint(self.best, state)
            save_checkpoint(self.last, state)
        except CheckpointError as error:
            raise self.kept_elsewhere(state, error) from None

    def kept_elsewhere(self, state: dict, error: CheckpointError) -> CheckpointError:
        """What a full disk refused, kept in the system's temporary folder, if that has room; the error that says so."""
        try:
            elsewhere = Path(tempfile.mkdtemp(prefix="training-")) / "last.pth"
            save_checkpoint(elsewhere, state)
        except (OSError, CheckpointError):
            return error
        return CheckpointError(
            f"{error} What was trained up to here is in {elsewhere}: make room, move it to {self.last} and go on with "
            "--resume"
        )
