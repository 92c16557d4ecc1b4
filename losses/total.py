from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from losses.cpm import CPMLoss
from losses.dcl import DCLLoss
from losses.labels import full_precision
from losses.logit_divergence import LogitDivergenceLoss
from losses.orthogonal import OrthogonalLoss
from losses.squared_difference import SquaredDifferenceLoss
from losses.triplet import TripletLoss
from losses.weighted_triplet import WeightedTripletLoss

# The ways to pull an identity together and push the others away, by LOSS.TRIPLET; each takes LOSS.TRIPLET_MARGIN.
TRIPLETS = {
    "batch_hard": TripletLoss,
    "weighted": lambda margin: WeightedTripletLoss(),
    "weighted_softmax": lambda margin: WeightedTripletLoss(softmax=True),
    "squared_difference": lambda margin: SquaredDifferenceLoss(),
}


def weight_at(schedule: Sequence[tuple[int, float]], epoch: int) -> float:
    """The weight in force: the last of the (first epoch, weight) pairs whose epoch has come."""
    return [weight for first_epoch, weight in schedule if first_epoch <= epoch][-1]


class TotalLoss(nn.Module):
    """The paper's total (docs/method.md section 7), as named terms with their weights applied; their sum is the loss.

        ID + triplet + cpm_weight (CPM1 + CPM2) + orthogonal_weight ORT + dcl_weight(epoch) (DCL0 + DCL1 + DCL2)
           + divergence_weight KL

    output    .pooled (V, B, D), .logits (V, B, classes), .infrared (B,) bool. The first view is the plain embedding;
              CPM and ORT compare it with two branches and are left out where it comes alone (V = 1). KL pairs the first
              of `streams` equal parts of the rows with the last: plain visible and infrared images
    labels    (B,)   identity, in any order
    epoch     from 0
    returns   {"id", "triplet", "cpm", "orthogonal", "dcl", "divergence"}: scalars. A term of weight 0 is not computed,
              and is 0; the last comes only with a weight
    """

    def __init__(
        self,
        *,
        triplet_weight: float,
        triplet_margin: float,
        cpm_weight: float,
        cpm_margin: float,
        orthogonal_weight: float,
        dcl_weights: Sequence[tuple[int, float]],  # (first epoch, weight from then on), the first from epoch 0
        triplet: str = "batch_hard",  # an entry of TRIPLETS
        divergence_weight: float = 0.0,
        streams: int = 2,
    ):
        super().__init__()
        starts = [first_epoch for first_epoch, _ in dcl_weights]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError(
                f"the weights of DCL must be (first epoch, weight) pairs, ascending from epoch 0, not start at {starts}"
            )
        self.triplet_weight = triplet_weight
        self.cpm_weight = cpm_weight
        self.orthogonal_weight = orthogonal_weight
        self.dcl_weights = dcl_weights
        self.divergence_weight, self.streams = divergence_weight, streams
        self.triplet = TRIPLETS[triplet](triplet_margin)
        self.cpm = CPMLoss(cpm_margin)
        self.orthogonal = OrthogonalLoss()
        self.dcl = DCLLoss()
        self.divergence = LogitDivergenceLoss()

    def forward(self, output, labels: Tensor, epoch: int) -> dict[str, Tensor]:
        views, infrared = output.pooled, output.infrared
        if len(views) not in (1, 3):
            raise ValueError(f"the total takes 1 view (plain) or 3 (plain, two branches), not {len(views)}")
        dcl_weight = weight_at(self.dcl_weights, epoch)
        all_labels, all_infrared = labels.repeat(len(views)), infrared.repeat(len(views))  # (VB,)
        zero = full_precision(views).new_zeros(())

        terms = {"id": F.cross_entropy(full_precision(output.logits.flatten(0, 1)), all_labels)}
        terms["triplet"] = zero
        if self.triplet_weight:
            terms["triplet"] = self.triplet_weight * self.triplet(views.flatten(0, 1), all_labels, all_infrared)
        if len(views) == 3:
            plain, first, second = views
            terms["cpm"] = zero
            if self.cpm_weight:
                terms["cpm"] = self.cpm_weight * sum(self.cpm(plain, b, labels, infrared) for b in (first, second))
            terms["orthogonal"] = zero
            if self.orthogonal_weight:
                terms["orthogonal"] = self.orthogonal_weight * self.orthogonal(first, second)
        terms["dcl"] = zero
        if dcl_weight:
            terms["dcl"] = dcl_weight * sum(self.dcl(view, labels, infrared) for view in views)
        if self.divergence_weight:
            first, *_, last = full_precision(output.logits[0]).chunk(self.streams)
            terms["divergence"] = self.divergence_weight * self.divergence(first, last)
        return terms
