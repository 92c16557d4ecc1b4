"""DNS's total (docs/compared_methods.md)."""

from typing import ClassVar

from torch import Tensor, nn
from yacs.config import CfgNode

from common.batch import Output
from common.options import option
from losses.circle import CircleLoss
from losses.domain_alignment import DomainAlignmentLoss
from losses.domain_distillation import DomainDistillationLoss
from losses.totals.terms import identity, weighted


class DNSTotal(nn.Module):
    """ID + CIR + 0.2 DA + DD, with the weights of LOSS.DNS.

    options   the LOSS section of the configuration
    """

    options: ClassVar = {
        "CIRCLE_MARGIN": option(0.45, "m of the circle loss", at_least=0, at_most=1),
        "DNS.CIRCLE_SCALE": option(64.0, "γ of the circle loss", above=0, at_most=1000),
        "DNS.CIRCLE_MEAN": option("twice", "over rows, and divided by their number once more (the authors'); or once",
                                  one_of=("twice", "once")),
        "DNS.CIRCLE_WEIGHT": option(1.0, "of the circle loss", at_least=0, at_most=1000),
        "DNS.ALIGNMENT_WEIGHT": option(0.2, "of domain alignment", at_least=0, at_most=1000),
        "DNS.DISTILLATION_WEIGHT": option(1.0, "of domain distillation", at_least=0, at_most=1000),
    }

    def __init__(self, options: CfgNode):
        super().__init__()
        self.weights = options.DNS
        self.circle = CircleLoss(options.CIRCLE_MARGIN, options.DNS.CIRCLE_SCALE)
        self.alignment, self.distillation = DomainAlignmentLoss(), DomainDistillationLoss()

    def forward(self, output: Output, epoch: int) -> dict[str, Tensor]:
        rows, visible, infrared = (output.labels, output.infrared), output.where(False), output.where(True)
        share = len(output.labels) if self.weights.CIRCLE_MEAN == "twice" else 1
        distillation = sum(
            self.distillation(own, other, *rows) for own, other in zip(output.own_logits, output.other_logits)
        )
        return {
            "id": identity(output),
            "circle": weighted(self.weights.CIRCLE_WEIGHT / share, self.circle, output.neck[0], *rows),
            "alignment": weighted(
                self.weights.ALIGNMENT_WEIGHT, self.alignment,
                visible.pooled[0], infrared.pooled[0], *visible.shifted, *infrared.shifted,
            ),
            "distillation": self.weights.DISTILLATION_WEIGHT * distillation,
        }
