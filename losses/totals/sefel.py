"""SEFEL's total (docs/compared_methods.md)."""

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from common.batch import Output
from common.options import option
from losses.column_overlap import ColumnOverlapLoss
from losses.labels import full_precision
from losses.mutual import MutualLoss
from losses.soft_cross_entropy import SoftCrossEntropyLoss
from losses.totals.terms import MIXED, TRIPLET, identity, of_all_views, weighted
from losses.triplet import TripletLoss


class SEFELTotal(nn.Module):
    """ID + TRI + ID_S + KL + w₁ EST + w₂ (ID_E + KL_E) + ORT, w₁ and w₂ by the gradients of what they weigh.

    Of a mixed batch: ID and ID_S, each for what is kept and for what is pasted, KL and ORT; the other terms are 0.

    options   the LOSS section of the configuration
    """

    options = TRIPLET | MIXED | {
        "SEFEL.BALANCE": option("larger", "the larger weight goes to the part with the larger gradient (the authors'), "
                                "or with the smaller; or both are 1", one_of=("larger", "smaller", "none")),
        "SEFEL.MUTUAL_WEIGHT": option(1.0, "of mutual learning between the modalities", at_least=0, at_most=1000),
        "SEFEL.ERASED_WEIGHT": option(1.0, "of what shape-erased features learn", at_least=0, at_most=1000),
        "SEFEL.ESTIMATE_WEIGHT": option(1.0, "of the shape's estimate from the image", at_least=0, at_most=1000),
        "SEFEL.ORTHOGONAL_WEIGHT": option(1.0, "of the projection's orthogonality", at_least=0, at_most=1000),
    }

    def __init__(self, options: CfgNode):
        super().__init__()
        self.triplet, self.triplet_weight = TripletLoss(options.TRIPLET_MARGIN), options.TRIPLET_WEIGHT
        self.mutual, self.says, self.overlap = MutualLoss(), SoftCrossEntropyLoss(), ColumnOverlapLoss()
        self.weights = options.SEFEL

    def forward(self, output: Output, epoch: int) -> dict[str, Tensor]:
        visible, infrared, weights = output.where(infrared=False), output.where(infrared=True), self.weights
        terms = {
            "mutual": weighted(weights.MUTUAL_WEIGHT, self.mutual, visible.logits[0], infrared.logits[0]),
            "orthogonal": weighted(weights.ORTHOGONAL_WEIGHT, self.overlap, output.columns),
        }
        if "kept" in output.common:
            nothing = 0 * output.part.mean()  # and not nothing at all: every weight has a gradient on every process
            return terms | {
                "id": self.mixed(output, output.logits[0]), "id_shape": self.mixed(output, output.shape_logits[0]),
                **dict.fromkeys(("triplet", "estimate", "id_erased", "mutual_erased"), nothing),
            }
        estimate, id_erased, mutual_erased = self.balanced(output, self.parts(output, visible, infrared))
        return terms | {
            "id": identity(output),
            "id_shape": F.cross_entropy(full_precision(output.shape_logits[0]), output.labels),
            "triplet": weighted(self.triplet_weight, self.triplet, *of_all_views(output)),
            "estimate": weights.ESTIMATE_WEIGHT * estimate,
            "id_erased": weights.ERASED_WEIGHT * id_erased,
            "mutual_erased": weights.ERASED_WEIGHT * mutual_erased,
        }

    def parts(self, output: Output, visible: Output, infrared: Output) -> tuple[Tensor, Tensor, Tensor]:
        """EST, ID_E, KL_E."""
        shapes = visible.shape_part[0], infrared.shape_part[0]
        return (
            F.mse_loss(full_precision(output.part), full_precision(output.teacher_part))
            + self.says(output.part_logits[0], output.teacher_logits[0]),
            F.cross_entropy(full_precision(output.erased_logits[0]), output.labels),
            self.mutual(visible.erased_logits[0], infrared.erased_logits[0], shapes, visible.labels),
        )

    def balanced(self, output: Output, parts: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
        """The parts times their weights, which are 2 together."""
        estimate, id_erased, mutual_erased = parts
        if self.weights.BALANCE == "none":
            return parts
        sizes = [
            output.gradient(loss, "pooled")[0].norm(dim=1).mean() for loss in (estimate, id_erased + mutual_erased)
        ]
        of_estimate, of_erased = (2 * size / sum(sizes) for size in sizes)
        if self.weights.BALANCE == "smaller":
            of_estimate, of_erased = of_erased, of_estimate
        return of_estimate * estimate, of_erased * id_erased, of_erased * mutual_erased

    @staticmethod
    def mixed(output: Output, logits: Tensor) -> Tensor:
        """ID of a mixed batch, by whose pixels an image has how many."""
        kept, pasted = (F.cross_entropy(full_precision(logits), of) for of in (output.labels, output.pasted[0]))
        return output.kept * kept + (1 - output.kept) * pasted
