"""Optimisers and schedules of the rate, by the names that the configuration gives them."""

import math

import numpy as np
import torch
from yacs.config import CfgNode


def build_optimizer(groups: list[dict], solver: CfgNode) -> torch.optim.Optimizer:
    """torch's own, over a network's parameter groups, each with its "base_lr".

    solver   the SOLVER section of the configuration
    """
    shared = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY, "fused": True}
    if solver.OPTIMIZER == "sgd":
        return torch.optim.SGD(groups, momentum=solver.MOMENTUM, nesterov=True, **shared)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[solver.OPTIMIZER](groups, **shared)


def kept_per_parameter(solver: CfgNode) -> int:
    """Tensors of a parameter's size that the optimiser keeps of each: a momentum, or two moments."""
    return 1 if solver.OPTIMIZER == "sgd" else 2


def steps(base: float, epoch: int, solver: CfgNode) -> float:
    """Linear warm-up, then a factor from each of SOLVER.LR_STEPS' epochs on (docs/method.md section 8)."""
    if epoch < solver.WARMUP_EPOCHS:
        return (epoch + 1) / solver.WARMUP_EPOCHS * base
    return [1.0, *(factor for first_epoch, factor in solver.LR_STEPS if first_epoch <= epoch)][-1] * base


def cosine(base: float, epoch: int, solver: CfgNode) -> float:
    """Linear warm-up from SOLVER.LOWEST_LR, then half a cosine, over all epochs, that ends there."""
    low, now = solver.LOWEST_LR, min(epoch + 1, solver.EPOCHS)
    if now < solver.WARMUP_EPOCHS:
        return low + now * (base - low) / solver.WARMUP_EPOCHS
    return low + (base - low) * (1 + math.cos(math.pi * now / solver.EPOCHS)) / 2


def line(base: float, epoch: int, solver: CfgNode) -> float:
    """The factors of SOLVER.LR_POINTS, joined by straight lines; the last one holds from its epoch on."""
    epochs, factors = zip(*solver.LR_POINTS)
    return float(np.interp(epoch, epochs, factors)) * base


SCHEDULES = {"steps": steps, "cosine": cosine, "line": line}


def rate_at(base: float, epoch: int, solver: CfgNode, part: float = 0.0) -> float:
    """The rate of a parameter group in an epoch, from 0, by SOLVER.SCHEDULE.

    base   the group's "base_lr"
    part   how far an update is on the straight line to the next epoch's rate (`part_of_epoch`)
    """
    schedule = SCHEDULES[solver.SCHEDULE]
    now = schedule(base, epoch, solver)
    return now + part * (schedule(base, epoch + 1, solver) - now) if part else now


def part_of_epoch(update: int, announced: int, solver: CfgNode) -> float:
    """By SOLVER.RATE_BY, how far the rate of an update is on its way to the next epoch's, from 0 to 1.

    update      of the epoch, from 0
    announced   updates that an epoch is said to have; it may have one more
    """
    if solver.RATE_BY == "epoch":
        return 0.0
    place = update if solver.RATE_BY == "update" else (update - 1) % announced  # that of the first is -1: the last
    return place / announced
