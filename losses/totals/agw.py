"""The totals of AGW and the two-stream baseline, and of CAJ (docs/compared_methods.md)."""

from torch import Tensor, nn
from yacs.config import CfgNode

from common.batch import Output
from common.options import option
from losses.labels import full_precision
from losses.logit_divergence import LogitDivergenceLoss
from losses.totals.terms import TRIPLET, TRIPLET_KIND, identity, of_all_views, triplet_of, weighted


class AGWTotal(nn.Module):
    """ID + triplet, of which LOSS.TRIPLET says the kind: weighted of AGW, batch-hard of the baseline.

    options   the LOSS section of the configuration
    """

    options = TRIPLET | TRIPLET_KIND

    def __init__(self, options: CfgNode):
        super().__init__()
        self.triplet, self.triplet_weight = triplet_of(options.TRIPLET, options.TRIPLET_MARGIN), options.TRIPLET_WEIGHT

    def forward(self, output: Output, epoch: int) -> dict[str, Tensor]:
        return {
            "id": identity(output),
            "triplet": weighted(self.triplet_weight, self.triplet, *of_all_views(output)),
        }


class CAJTotal(AGWTotal):
    """AGW's, and the divergence of the plain visible logits from the infrared ones.

    options   the LOSS section of the configuration
    """

    options = AGWTotal.options | {
        "DIVERGENCE_WEIGHT": option(0.0, "visible logits from infrared ones (KL)", at_least=0, at_most=1000),
    }

    def __init__(self, options: CfgNode):
        super().__init__(options)
        self.divergence, self.divergence_weight = LogitDivergenceLoss(), options.DIVERGENCE_WEIGHT

    def forward(self, output: Output, epoch: int) -> dict[str, Tensor]:
        terms = super().forward(output, epoch)
        if self.divergence_weight:
            visible, infrared = output.where(infrared=False, view=0), output.where(infrared=True)
            logits = (full_precision(rows.logits[0]) for rows in (visible, infrared))
            terms["divergence"] = self.divergence_weight * self.divergence(*logits)
        return terms
