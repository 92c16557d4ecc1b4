"""PMT's total (docs/compared_methods.md)."""

from typing import ClassVar

from torch import Tensor, nn
from yacs.config import CfgNode

from common.batch import Output
from common.options import MOST_EPOCHS, option
from losses.dcl import DCLLoss
from losses.msel import MSELLoss
from losses.totals.terms import identity, of_all_views, weighted
from losses.triplet import TripletLoss


class PMTTotal(nn.Module):
    """ID + triplet, at first in each modality alone, later across both, with DCL and MSEL; the weights of LOSS.PMT.

    options   the LOSS section of the configuration
    """

    options: ClassVar = {
        "PMT.PROGRESSIVE_EPOCHS": option(6, "first epochs, with a triplet in each modality alone and no DCL and MSEL",
                                         at_least=0, at_most=MOST_EPOCHS),
        "PMT.MARGIN": option(0.1, "of the batch-hard triplet", at_least=0, at_most=100),
        "PMT.DCL_WEIGHT": option(0.5, "of the centre contrast, after those epochs", at_least=0, at_most=1000),
        "PMT.MSEL_WEIGHT": option(0.5, "of modality-shared enhancement, likewise", at_least=0, at_most=1000),
    }

    def __init__(self, options: CfgNode):
        super().__init__()
        self.settings = options.PMT
        self.triplet, self.dcl, self.msel = TripletLoss(self.settings.MARGIN), DCLLoss(), MSELLoss()

    def forward(self, output: Output, epoch: int) -> dict[str, Tensor]:
        visible, infrared = output.where(infrared=False), output.where(infrared=True)
        terms = {"id": identity(visible) + identity(infrared)}
        if epoch < self.settings.PROGRESSIVE_EPOCHS:
            return terms | {"triplet": sum(self.triplet(*of_all_views(rows)) for rows in (visible, infrared))}
        rows = of_all_views(output)
        return terms | {
            "triplet": self.triplet(*rows),
            "dcl": weighted(self.settings.DCL_WEIGHT, self.dcl, *rows),
            "msel": weighted(self.settings.MSEL_WEIGHT, self.msel, *rows),
        }
