"""DEEN's total (docs/compared_methods.md)."""

from torch import Tensor, nn
from yacs.config import CfgNode

from common.batch import Output
from losses.cpm import CPMLoss
from losses.orthogonal import OrthogonalLoss
from losses.totals.terms import BRANCHES, TRIPLET, identity, of_all_views, weighted
from losses.triplet import TripletLoss


class DEENTotal(nn.Module):
    """ID + triplet + λ1 (CPM1 + CPM2) + λ2 ORT, the last two of the plain embedding and its two branches.

    An output of one view has no branches, and no such terms.

    options   the LOSS section of the configuration
    """

    options = TRIPLET | BRANCHES

    def __init__(self, options: CfgNode):
        super().__init__()
        self.triplet, self.cpm = TripletLoss(options.TRIPLET_MARGIN), CPMLoss(options.CPM_MARGIN)
        self.orthogonal = OrthogonalLoss()
        self.triplet_weight, self.cpm_weight = options.TRIPLET_WEIGHT, options.CPM_WEIGHT
        self.orthogonal_weight = options.ORTHOGONAL_WEIGHT

    def forward(self, output: Output, epoch: int) -> dict[str, Tensor]:
        if len(output.pooled) not in (1, 3):
            raise ValueError(f"the total takes 1 view (plain) or 3 (plain, two branches), not {len(output.pooled)}")
        terms = {
            "id": identity(output),
            "triplet": weighted(self.triplet_weight, self.triplet, *of_all_views(output)),
        }
        plain, *branches = output.pooled
        if branches:
            terms["cpm"] = weighted(self.cpm_weight, self.align, plain, *branches, output)
            terms["orthogonal"] = weighted(self.orthogonal_weight, self.orthogonal, *branches)
        return terms

    def align(self, plain: Tensor, first: Tensor, second: Tensor, output: Output) -> Tensor:
        """CPM1 + CPM2."""
        rows = output.labels, output.infrared
        return self.cpm(plain, first, *rows) + self.cpm(plain, second, *rows)
