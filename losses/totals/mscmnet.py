"""MSCMNet's total (docs/compared_methods.md)."""

from typing import ClassVar

from torch import Tensor, nn
from yacs.config import CfgNode

from common.batch import Output
from common.options import option
from losses.quadruple_center import QuadrupleCenterTripletLoss
from losses.totals.terms import identity, weighted
from losses.view_center import ViewCenterLoss


class MSCMNetTotal(nn.Module):
    """ID + QCT, of the rows of all four views, and the paper's term of views at the weight of LOSS.MSCMNET.

    options   the LOSS section of the configuration
    """

    options: ClassVar = {
        "MSCMNET.CENTER_WEIGHT": option(1.0, "of the quadruple centre triplet", at_least=0, at_most=1000),
        "MSCMNET.CENTER_MARGIN": option(0.7, "between a row and the centres of others", at_least=0, at_most=100),
        "MSCMNET.VIEW_WEIGHT": option(0.0, "of rows near the centre of their own view", at_least=0, at_most=1000),
    }

    def __init__(self, options: CfgNode):
        super().__init__()
        self.weights = options.MSCMNET
        self.center, self.view = QuadrupleCenterTripletLoss(self.weights.CENTER_MARGIN), ViewCenterLoss()

    def forward(self, output: Output, epoch: int) -> dict[str, Tensor]:
        rows = output.pooled[0], output.labels, output.infrared
        terms = {"id": identity(output), "center": weighted(self.weights.CENTER_WEIGHT, self.center, *rows)}
        if self.weights.VIEW_WEIGHT:
            terms["view"] = self.weights.VIEW_WEIGHT * self.view(*rows, output.rows.view)
        return terms
