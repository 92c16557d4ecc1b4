"""CMFN's total (docs/method.md section 7)."""

from torch import Tensor
from yacs.config import CfgNode

from common.batch import Output
from common.options import option
from losses.dcl import DCLLoss
from losses.totals.deen import DEENTotal
from losses.totals.terms import weight_at, weighted


class CMFNTotal(DEENTotal):
    """ID + triplet + λ1 (CPM1 + CPM2) + λ2 ORT + λ3(epoch) (DCL0 + DCL1 + DCL2): DEEN's, and centre contrast.

    options   the LOSS section of the configuration
    """

    options = DEENTotal.options | {
        "DCL_WEIGHTS": option([[0, 0.1], [11, 0.01], [21, 0.0]], "centre contrast: [first epoch, weight from then on]",
                              at_least=0, at_most=1000, from_start=True),
    }

    def __init__(self, options: CfgNode):
        super().__init__(options)
        self.dcl, self.dcl_weights = DCLLoss(), options.DCL_WEIGHTS

    def forward(self, output: Output, epoch: int) -> dict[str, Tensor]:
        terms = super().forward(output, epoch)
        terms["dcl"] = weighted(weight_at(self.dcl_weights, epoch), self.contrast, output.pooled, output)
        return terms

    def contrast(self, views: Tensor, output: Output) -> Tensor:
        """DCL0 + DCL1 + DCL2, of as many views as there are."""
        return sum(self.dcl(view, output.labels, output.infrared) for view in views)
