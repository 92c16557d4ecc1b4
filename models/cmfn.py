"""CMFN: the method's figure as code (docs/method.md sections 1 to 6 and 9)."""

from torch import Tensor, nn
from yacs.config import CfgNode

from models.parts import hce, mbue, mfa
from models.parts.hce import context_stages
from models.parts.mbue import MBUE
from models.two_stream import TwoStreamNetwork


class CMFN(TwoStreamNetwork):
    """Two-stream ResNet with context (HCE) fused in (MFA), three views (MBUE) and one head.

    options   the MODEL section of the configuration
    classes   number of training identities
    """

    options = TwoStreamNetwork.options | hce.OPTIONS | mfa.OPTIONS | mbue.OPTIONS
    parts = ("early", "hce", "mfa", "mbue", "last")

    def __init__(self, options: CfgNode, classes: int):
        super().__init__(options, classes)
        *early, _ = self.backbone.channels
        self.context, self.mfa = nn.ModuleList(), nn.ModuleList()
        if options.HCE.ENABLED:
            stem = self.backbone.stem_channels
            self.context = context_stages(stem, early, tuple(options.HCE.DILATIONS), options.HCE.THIRD)
            self.build_mfa(options.MFA.POSITIONS)
        self.mbue = None
        if options.MBUE.ENABLED:
            self.mbue = MBUE(
                early[-1],
                separate_compressions=options.MBUE.SEPARATE_COMPRESSIONS,
                dropout=options.MBUE.DROPOUT,
                layout=options.MBUE.TOKEN_LAYOUT,
                fusion="csc_cma" if options.CSC_CMA.ENABLED else "average",
                keys=options.CSC_CMA.KEYS,
                context_path=options.MBUE.CONTEXT_PATH,
                drop_path=options.MBUE.DROP_PATH,
            )
        self.build_head(views=1 if self.mbue is None else MBUE.views)

    def encode(self, x: Tensor) -> Tensor:
        """Stem output (B, 64, H/4, W/4) -> last map (views * B, D, H/16, W/16); RegDB's network ends at the same."""
        *early, last = self.backbone.stages
        for i, stage in enumerate(early):
            high = self.run("early", stage, x)
            x = self.run("mfa", self.mfa[i], high, self.run("hce", self.context[i], x)) if self.mfa else high
        if self.mbue is not None:
            x = self.run("mbue", self.mbue, x)                  # (3B, C, H/16, W/16)
        return self.run("last", last, x)
