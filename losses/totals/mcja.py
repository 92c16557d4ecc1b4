"""MCJA's total (docs/compared_methods.md)."""

from typing import ClassVar

from torch import Tensor, nn
from yacs.config import CfgNode

from common.batch import Output
from common.options import option
from losses.cross_modality_retrieval import CrossModalityRetrievalLoss
from losses.totals.terms import identity, weighted


class MCJATotal(nn.Module):
    """ID + CMR on the neck's features, of any mix of modalities, with the weight of LOSS.MCJA.

    options   the LOSS section of the configuration
    """

    options: ClassVar = {
        "MCJA.RETRIEVAL_WEIGHT": option(1.0, "of the cross-modality retrieval", at_least=0, at_most=1000),
        "MCJA.STRENGTH": option(0.5, "ε of its soft ranks: the smaller, the more like ranks", at_least=0.001,
                                at_most=1000),
    }

    def __init__(self, options: CfgNode):
        super().__init__()
        self.weight, self.retrieval = options.MCJA.RETRIEVAL_WEIGHT, CrossModalityRetrievalLoss(options.MCJA.STRENGTH)

    def forward(self, output: Output, epoch: int) -> dict[str, Tensor]:
        return {
            "id": identity(output),
            "retrieval": weighted(self.weight, self.retrieval, output.neck[0], output.labels, output.infrared),
        }
