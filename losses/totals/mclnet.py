"""MCLNet's total (docs/compared_methods.md)."""

from torch import Tensor
from yacs.config import CfgNode

from common.batch import Output
from common.options import option
from losses.center_aggregation import CenterAggregationLoss
from losses.modality_confusion import ModalityConfusionLoss
from losses.totals.agw import AGWTotal
from losses.totals.terms import weighted


class MCLNetTotal(AGWTotal):
    """AGW's, + confusion + 0.0005 (MCCA of identities + MCCA of cameras), with the weights of LOSS.MCLNET.

    options   the LOSS section of the configuration
    """

    options = AGWTotal.options | {
        "MCLNET.CONFUSION_WEIGHT": option(1.0, "of the modality confusion", at_least=0, at_most=1000),
        "MCLNET.IDENTITY_WEIGHT": option(0.0005, "of the aggregation at centres of identities", at_least=0,
                                         at_most=1000),
        "MCLNET.CAMERA_WEIGHT": option(0.0005, "of the aggregation at centres of cameras", at_least=0, at_most=1000),
        "MCLNET.ROWS": option(8, "m of an identity in its centre's pull, whatever K is (the authors'); 0: its rows",
                              at_least=0, at_most=10_000),
    }

    def __init__(self, options: CfgNode):
        super().__init__(options)
        self.weights, self.confusion = options.MCLNET, ModalityConfusionLoss()
        self.of_identities, self.of_cameras = CenterAggregationLoss(rows=options.MCLNET.ROWS), CenterAggregationLoss()

    def forward(self, output: Output, epoch: int) -> dict[str, Tensor]:
        return super().forward(output, epoch) | {
            "confusion": weighted(self.weights.CONFUSION_WEIGHT, self.confusion, output.judged[0]),
            "mcca_id": weighted(
                self.weights.IDENTITY_WEIGHT, self.of_identities, output.identity_distance[0], output.identity_gap[0],
                output.labels,
            ),
            "mcca_camera": weighted(
                self.weights.CAMERA_WEIGHT, self.of_cameras, output.camera_distance[0], output.camera_gap[0],
                output.camera[0],
            ),
        }
