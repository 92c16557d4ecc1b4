"""One training or evaluation over several processes, as torchrun starts them; a single process is one rank of one."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class RanksError(ValueError):
    """The environment describes no process of a job."""


class RankLostError(RuntimeError):
    """Another process of the job died or cannot be reached."""


@dataclass(frozen=True)
class Ranks:
    """Which process this is: its number, how many there are, and its number on this machine."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @staticmethod
    def from_environment() -> "Ranks":
        """As torchrun sets them; without torchrun, one process, whatever a cluster has set of its own.

        raises   RanksError where a variable of torchrun's has no meaning
        """
        there = [name for name in TORCHRUN if name in os.environ]
        if len(there) < len(TORCHRUN):
            if {"RANK", "WORLD_SIZE"} & {*there}:
                missing = [name for name in TORCHRUN if name not in there]
                print(
                    f"warning: {', '.join(there)} set, but not {', '.join(missing)}, so torchrun did not start this: "
                    "it is one process of its own. For several, start it with torchrun", file=sys.stderr,
                )
            return ALONE
        number = {name: os.environ[name] for name in TORCHRUN if name != "MASTER_ADDR"}
        for name, value in number.items():
            if not value.isdecimal():
                raise RanksError(f"the environment has {name}={value!r}, where torchrun sets a number; unset it")
        rank, world, local = (int(number[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        if rank >= world:
            raise RanksError(f"the environment has RANK={rank} with WORLD_SIZE={world}: ranks count from 0; unset both")
        return Ranks(rank, world, local)


ALONE = Ranks()  # the only process


@contextmanager
def joined(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Inside, the processes can exchange tensors; NCCL for CUDA, Gloo for the CPU. For one process, nothing.

    raises   RankLostError where an exchange inside fails
    """
    if ranks.world == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        yield
        dist.barrier()  # so that nobody hangs up while another still waits for an answer
        dist.destroy_process_group()  # not after an error, where it could wait for the others forever
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            raise RankLostError(
                f"process {ranks.rank} of {ranks.world} lost the others ({str(error).strip().splitlines()[0]}); one of "
                "them has died: its own message stands elsewhere in this output. Go on from the last checkpoint with "
                "the same command and --resume"
            ) from None
        raise


class GatherRows(torch.autograd.Function):
    """The rows of all ranks, by rank; the gradient of a rank's rows is the sum over what all ranks made of them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        ctx.count = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.narrow(0, dist.get_rank() * ctx.count, ctx.count)


def gather_rows(rows: Tensor, dim: int = 0) -> Tensor:
    """All ranks' tensors, of equal shape, one after the other along `dim`; with gradient. Of one process, its own.

    Every rank goes on with the same rows and so computes the same loss L; a rank's gradient is then `world` times that
    of L, which the mean over ranks in DistributedDataParallel takes back.
    """
    if not dist.is_initialized():
        return rows
    return GatherRows.apply(rows.movedim(dim, 0).contiguous()).movedim(0, dim)


def mean_over_ranks(tensors: Sequence[Tensor]) -> None:
    """In place, with one exchange."""
    if dist.is_initialized():
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        torch._foreach_copy_([*tensors], [
            part.view_as(tensor) for part, tensor in zip(flat.split([tensor.numel() for tensor in tensors]), tensors)
        ])


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """In place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor
