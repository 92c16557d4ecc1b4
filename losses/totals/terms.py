"""The terms that several totals have, and the options that belong to them.

Of an output with V views, ID and triplet take the rows of all views together, as of V times as many images.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from common.batch import Output
from common.options import option
from losses.labels import full_precision
from losses.squared_difference import SquaredDifferenceLoss
from losses.triplet import TripletLoss
from losses.weighted_triplet import WeightedTripletLoss

TRIPLET = {
    "TRIPLET_WEIGHT": option(1.0, "of the triplet", at_least=0, at_most=1000),
    "TRIPLET_MARGIN": option(0.3, "of batch_hard: nearest negative farther than farthest positive",
                             at_least=0, at_most=100),
}
TRIPLET_KIND = {
    "TRIPLET": option("batch_hard", "or weighted (agw), weighted_softmax (its paper), squared_difference (caj)",
                      one_of=("batch_hard", "weighted", "weighted_softmax", "squared_difference")),
}
MIXED = {
    "MIXED": option(0.0, "probability that each image of a batch gets a rectangle of one of the other modality",
                    at_least=0, at_most=1),
}
BRANCHES = {
    "CPM_WEIGHT": option(0.8, "cross-modal centre alignment, λ1", at_least=0, at_most=1000),
    "CPM_MARGIN": option(0.2, "m of its hinges", at_least=0, at_most=100),
    "ORTHOGONAL_WEIGHT": option(0.01, "branch diversity, λ2", at_least=0, at_most=1000),
}


def triplet_of(kind: str, margin: float) -> nn.Module:
    """The loss that LOSS.TRIPLET names: (features (N, D), labels (N,), infrared (N,)) -> scalar."""
    losses: dict[str, Callable[[], nn.Module]] = {
        "batch_hard": lambda: TripletLoss(margin),
        "weighted": WeightedTripletLoss,
        "weighted_softmax": lambda: WeightedTripletLoss(softmax=True),
        "squared_difference": SquaredDifferenceLoss,
    }
    return losses[kind]()


def of_all_views(output: Output) -> tuple[Tensor, Tensor, Tensor]:
    """Pooled features (VB, D), identities (VB,) and whether a row is infrared (VB,)."""
    views = len(output.pooled)
    return output.pooled.flatten(0, 1), output.labels.repeat(views), output.infrared.repeat(views)


def identity(output: Output) -> Tensor:
    """ID: cross entropy of all views, mean over rows."""
    logits = output.logits
    return F.cross_entropy(full_precision(logits.flatten(0, 1)), output.labels.repeat(len(logits)))


def weighted(weight: float, loss: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """weight · loss(*inputs); where the weight is 0, it is not computed, and 0."""
    return weight * loss(*inputs) if weight else full_precision(inputs[0]).new_zeros(())


def weight_at(schedule: Sequence[tuple[int, float]], epoch: int) -> float:
    """The weight in force: the last of the (first epoch, weight) pairs whose epoch has come."""
    return [weight for first_epoch, weight in schedule if first_epoch <= epoch][-1]
