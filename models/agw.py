"""AGW (Ye et al., TPAMI 2021), which is CAJ's network too (Ye et al., ICCV 2021), as its authors' code computes it."""

from typing import ClassVar

from torch import Tensor
from yacs.config import CfgNode

from models.network import MethodError, Names
from models.parts import non_local
from models.parts.non_local import add_non_locals
from models.two_stream import TwoStreamNetwork


class AGW(TwoStreamNetwork):
    """Two-stream ResNet with non-local blocks, one view, one head.

    options   the MODEL section of the configuration. Without non-local blocks, with average pooling and the batch-hard
              triplet it is the two-stream baseline
    classes   number of training identities
    raises    MethodError for stages that end in a non-local block before GeM
    """

    options = TwoStreamNetwork.options | non_local.OPTIONS
    paper = "Ye et al., TPAMI 2021"
    weightings: ClassVar = {"neck": (0.0, 1.0), "pooled": (1.0, 0.0)}
    unit_after_flip = True
    one_modality = True
    authors_names: Names = (
        (r"backbone\.stages\.(\d)\.non_local\.(\d)\.g\.", lambda m: f"NL_{int(m[1]) + 1}.{m[2]}.g.0."),
        (r"backbone\.stages\.(\d)\.non_local\.(\d)\.out\.", lambda m: f"NL_{int(m[1]) + 1}.{m[2]}.W."),
        (r"backbone\.stages\.(\d)\.non_local\.(\d)\.", lambda m: f"NL_{int(m[1]) + 1}.{m[2]}."),
        (r"backbone\.stages\.(\d)\.blocks\.", lambda m: f"base_resnet.base.layer{int(m[1]) + 1}."),
    )

    @classmethod
    def title(cls, options: dict) -> str:
        baseline = {"NON_LOCAL": "none", "POOL": "average"}
        return "Two-stream baseline" if baseline.items() <= options.items() else super().title(options)

    def __init__(self, options: CfgNode, classes: int):
        super().__init__(options, classes)
        if options.STAGES < 4 and options.NON_LOCAL != "none" and options.POOL != "average":
            raise MethodError(
                f"MODEL.STAGES is {options.STAGES}: the last map would come from a non-local block and have negative "
                f"values, of which MODEL.POOL {options.POOL} is no number. Set MODEL.STAGES to 4, as on every data set"
            )
        add_non_locals(self.backbone.stages, self.backbone.channels, options.NON_LOCAL)
        self.build_head(views=1)

    def encode(self, x: Tensor) -> Tensor:
        *early, last = self.backbone.stages
        for stage in early:
            x = self.run("early", stage, x)
        return self.run("last", last, x)


class CAJ(AGW):
    """AGW's network; CAJ differs in its images and its loss."""

    paper = "Ye et al., ICCV 2021"
    one_modality = False  # its loss may compare both

    @classmethod
    def title(cls, options: dict) -> str:
        return "CAJ"
