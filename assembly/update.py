"""One update of the weights: the heart of a training, for one process or several."""

import math
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from yacs.config import CfgNode

from assembly.adversary import adversary_steps
from assembly.recipe import layout_of
from common.batch import Batch
from losses.labels import full_precision
from models.network import Network
from utils.training.distributed import ALONE, Ranks, gather_rows, sum_over_ranks
from utils.training.optimizer import build_optimizer, rate_at
from utils.training.run import HostCopy, seed_step

AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class NonFiniteTerms(ArithmeticError):
    """A loss term became infinite or NaN; the message lists all of them."""

    def __init__(self, terms: dict[str, float]):
        super().__init__(", ".join(f"{name} {value:.4g}" for name, value in terms.items()))


class NonFiniteLoss(ValueError):
    """What ends a training that can't go on."""


def refuse_terms(
    found: NonFiniteTerms, epoch: int, step: int, identities: list[int], last: Path, good: bool
) -> NoReturn:
    """
    identities   of the batch
    last         the last checkpoint
    good         it holds the weights from before the step, which are finite
    raises       NonFiniteLoss
    """
    kept = f"The weights had become non-finite before; {last} holds the last good ones"
    if good:
        kept = f"The weights from before this step are in {last}"
    raise NonFiniteLoss(
        f"the loss is not finite at epoch {epoch}, step {step}: {found}; identities of the batch: {identities}. "
        f"{kept}. Train anew with a lower SOLVER.BASE_LR or with SOLVER.PRECISION float32, in another OUTPUT"
    ) from None


class Update:
    """Updates a network by the mean gradient of some batches.

    model   on its device
    total   (output, epoch) -> {name: weighted scalar}
    """

    def __init__(self, cfg: CfgNode, model: Network, total: nn.Module, device: torch.device, ranks: Ranks = ALONE):
        self.cfg, self.model, self.total, self.device, self.ranks = cfg, model, total, device, ranks
        solver, self.layout = cfg.SOLVER, layout_of(cfg)
        self.optimizer = build_optimizer(model.parameter_groups(solver.BASE_LR, solver.BACKBONE_LR_FACTOR), solver)
        self.trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.optimizers: dict[str, torch.optim.Optimizer] = {"optimizer": self.optimizer}
        self.adversary = adversary_steps(model.adversary, solver)
        if self.adversary is not None:
            self.optimizers["adversary"] = self.adversary.optimizer
        self.scaler = torch.amp.GradScaler(device.type, enabled=solver.PRECISION == "float16")
        self.buffers = [b for b in model.buffers() if b.is_floating_point()]
        self.buffers_before = [torch.empty_like(b) for b in self.buffers]
        # What a step calls: on several processes, gradients are averaged on the way.
        self.network: Network | DistributedDataParallel = model

    def share_gradients(self) -> None:
        """From here on, gradients are the means of all processes; after the weights were loaded."""
        # It is about 1x1 kernels, whose strides can be written in two ways for the same memory.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        self.network = averaging(self.model)

    def set_rate(self, epoch: int, part: float = 0.0) -> float:
        """Sets all groups' rates; returns that of SOLVER.BASE_LR.

        part   how far on the way to the next epoch's (`part_of_epoch`)
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(group["base_lr"], epoch, self.cfg.SOLVER, part)
        return rate_at(self.cfg.SOLVER.BASE_LR, epoch, self.cfg.SOLVER, part)

    def __call__(self, batches: list[Batch], epoch: int, step: int, stop: bool) -> tuple[dict[str, float], bool]:
        """
        batches   each of whole identities
        stop      whether this process was asked to stop
        returns   the weighted loss terms and their total, means over the batches, and an adversary's own loss; whether
                  any process was asked to
        raises    NonFiniteTerms before the update, with the running statistics and the adversary as before the step
        """
        torch._foreach_copy_(self.buffers_before, self.buffers)
        if self.adversary is not None:
            self.adversary.keep()
        self.model.before_update(epoch)
        self.optimizer.zero_grad(set_to_none=True)
        if self.cfg.SOLVER.COMPILE == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()  # what the last update's graphs hold may be written over
        dtype, network = AUTOCAST[self.cfg.SOLVER.PRECISION], self.network
        sums: Any = 0.0
        for i, batch in enumerate(batches):
            batch, last = batch.to(self.device, self.layout), i + 1 == len(batches)
            seed_step(self.cfg.SEED, epoch, step * self.cfg.SOLVER.ACCUMULATION + i, self.ranks.rank)
            with network.no_sync() if isinstance(network, DistributedDataParallel) and not last else nullcontext():
                with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                    output = network(batch)
                output = output.gathered(gather) if self.ranks.world > 1 else output
                others = {} if self.adversary is None else self.adversary(output)
                losses = self.total(output, epoch)
                losses |= {"total": sum(losses.values()), **others}
                sums = sums + torch.stack([*losses.values()]).detach()
                if last:
                    stops = torch.full((1,), float(stop), device=self.device)
                    arriving = HostCopy(sum_over_ranks(torch.cat([sums, stops])))
                self.scaler.scale(losses["total"] / len(batches)).backward()
        *values, stopping = arriving.read()
        terms = {name: value / len(batches) / self.ranks.world for name, value in zip(losses, values)}
        if not all(map(math.isfinite, terms.values())):
            torch._foreach_copy_(self.buffers, self.buffers_before)
            if self.adversary is not None:
                self.adversary.restore()
            raise NonFiniteTerms(terms)
        if self.cfg.SOLVER.CLIP_NORM:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.trained, self.cfg.SOLVER.CLIP_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.model.after_update(epoch)
        return terms, stopping > 0

    def parts(self) -> dict[str, torch.optim.Optimizer | torch.amp.GradScaler]:
        return {**self.optimizers, "scaler": self.scaler}

    def state_dict(self) -> dict[str, dict]:
        """What a checkpoint holds beside the network."""
        return {name: part.state_dict() for name, part in self.parts().items()}

    def load_state_dict(self, saved: dict) -> None:
        """
        saved    a checkpoint
        raises   CheckpointError where it lacks a part
        """
        for name, part in self.parts().items():
            part.load_state_dict(saved[name])

    def weights_are_finite(self) -> bool:
        return all(bool(t.isfinite().all()) for t in self.model.state_dict().values())

    def require_finite_weights(self, epoch: int, last: Path) -> None:
        """After an epoch, whose last update is followed by no loss.

        raises   NonFiniteLoss
        """
        if not self.weights_are_finite():
            raise NonFiniteLoss(
                f"a weight is not finite after epoch {epoch}; {last} holds those of the epoch before, if it exists. "
                "Train anew with a lower SOLVER.BASE_LR or with SOLVER.PRECISION float32"
            )


def averaging(model: Network) -> DistributedDataParallel:
    """The network, whose gradients become the means of all processes on the way; not those of an adversary, whose steps
    average their own.
    """
    apart = [] if model.adversary is None else [*model.adversary.parameters()]
    for parameter in apart:
        parameter.requires_grad_(False)  # what isn't trained when DDP is made, it leaves alone
    network = DistributedDataParallel(model, gradient_as_bucket_view=True)
    for parameter in apart:
        parameter.requires_grad_(True)
    return network


def gather(rows: Tensor, dim: int) -> Tensor:
    """All processes' rows, of features in full precision."""
    return gather_rows(full_precision(rows) if rows.is_floating_point() else rows, dim)
