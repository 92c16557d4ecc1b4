"""MPANet's total (docs/compared_methods.md)."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from common.batch import Output
from common.options import option
from losses.center_cluster import CenterClusterLoss
from losses.labels import full_precision
from losses.mutual_mean import MutualMeanLoss
from losses.totals.terms import identity


class MPANetTotal(nn.Module):
    """ID + 0.5 SEP + CC + (ID_V + ID_I) + 2.5 MML, with the weights of LOSS.MPANET.

    options   the LOSS section of the configuration
    """

    options: ClassVar = {
        "MPANET.SEPARATION_WEIGHT": option(0.5, "of the overlap of masks", at_least=0, at_most=1000),
        "MPANET.CENTER_WEIGHT": option(1.0, "of the centre cluster", at_least=0, at_most=1000),
        "MPANET.CENTER_MARGIN": option(0.7, "between the centres of two identities", at_least=0, at_most=100),
        "MPANET.MODALITY_WEIGHT": option(1.0, "of each modality's ID", at_least=0, at_most=1000),
        "MPANET.MUTUAL_WEIGHT": option(2.5, "of mutual mean learning", at_least=0, at_most=1000),
    }

    def __init__(self, options: CfgNode):
        super().__init__()
        self.weights = options.MPANET
        self.center_cluster, self.mutual = CenterClusterLoss(self.weights.CENTER_MARGIN), MutualMeanLoss()

    def forward(self, output: Output, epoch: int) -> dict[str, Tensor]:
        visible, infrared = output.where(infrared=False), output.where(infrared=True)
        return {
            "id": identity(output),
            "separation": self.weights.SEPARATION_WEIGHT * output.overlap.mean(),
            "center_cluster": self.weights.CENTER_WEIGHT
            * self.center_cluster(output.pooled[0], output.labels, output.infrared),
            "id_visible": self.weights.MODALITY_WEIGHT * own_identity(visible),
            "id_infrared": self.weights.MODALITY_WEIGHT * own_identity(infrared),
            "mutual": self.weights.MUTUAL_WEIGHT * self.mutual(output.own_logits[0], output.other_logits[0]),
        }


def own_identity(output: Output) -> Tensor:
    """Cross entropy of the classifier of the rows' own modality."""
    return F.cross_entropy(full_precision(output.own_logits[0]), output.labels)
