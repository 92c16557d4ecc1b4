"""Optimisers and schedules of the rate, by the names that the configuration gives them."""

import math

import torch


def build_optimizer(groups: list[dict], solver) -> torch.optim.Optimizer:
    """torch's own, over a network's parameter groups, each with its "base_lr".

    solver   the SOLVER section of the configuration
    """
    shared = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY, "fused": True}
    if solver.OPTIMIZER == "sgd":
        return torch.optim.SGD(groups, momentum=solver.MOMENTUM, nesterov=True, **shared)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[solver.OPTIMIZER](groups, **shared)


def kept_per_parameter(solver) -> int:
    """Tensors of a parameter's size that the optimiser keeps of each: a momentum, or two moments."""
    return 1 if solver.OPTIMIZER == "sgd" else 2


def steps(base: float, epoch: int, solver) -> float:
    """Linear warm-up, then a factor from each of SOLVER.LR_STEPS' epochs on (docs/method.md section 8)."""
    if epoch < solver.WARMUP_EPOCHS:
        return (epoch + 1) / solver.WARMUP_EPOCHS * base
    return [1.0, *(factor for first_epoch, factor in solver.LR_STEPS if first_epoch <= epoch)][-1] * base


def cosine(base: float, epoch: int, solver) -> float:
    """Linear warm-up from SOLVER.LOWEST_LR, then half a cosine, over all epochs, that ends there."""
    low, now = solver.LOWEST_LR, epoch + 1
    if now < solver.WARMUP_EPOCHS:
        return low + now * (base - low) / solver.WARMUP_EPOCHS
    return low + (base - low) * (1 + math.cos(math.pi * now / solver.EPOCHS)) / 2


SCHEDULES = {"steps": steps, "cosine": cosine}


def rate_at(base: float, epoch: int, solver) -> float:
    """The rate of a parameter group in an epoch, from 0, by SOLVER.SCHEDULE.

    base   the group's "base_lr"
    """
    return SCHEDULES[solver.SCHEDULE](base, epoch, solver)
