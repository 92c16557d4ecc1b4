"""AGW (Ye et al., TPAMI 2021), which is CAJ's network too (Ye et al., ICCV 2021), as its authors' code computes it."""

from torch import Tensor, nn

from common.options import option
from models.network import MethodError
from models.parts.backbone import after_last
from models.parts.mfa import NonLocal, chain
from models.two_stream import TwoStreamNetwork

NON_LOCALS = (0, 2, 3, 0)  # after how many of the last blocks of each stage


class SelfNonLocal(NonLocal):
    """Every position takes up all positions of the same map, by an affinity without softmax.

    x         (B, C, H, W)
    inner     channels of the projections; with one, as in the authors' code, this is θ · mean over positions of φ·g
    returns   (B, C, H, W): x + BN(conv1(affinity · g))
    """

    def __init__(self, channels: int, inner: int):
        super().__init__(channels, channels, inner)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = (project(x).flatten(2) for project in (self.theta, self.phi, self.g))  # (B, inner, HW)
        y = chain(g, phi.transpose(1, 2), theta, divisor=phi.shape[2])
        return x + self.out(y.unflatten(2, x.shape[2:]))


class NonLocalStage(nn.Module):
    """A ResNet stage with a non-local block after each of its last blocks.

    x         (B, C, H, W)
    returns   (B, C', H', W')
    """

    def __init__(self, blocks: nn.Sequential, channels: int, count: int, inner: int):
        super().__init__()
        self.blocks = blocks
        self.non_local = nn.ModuleList(SelfNonLocal(channels, inner) for _ in range(min(count, len(blocks))))

    def forward(self, x: Tensor) -> Tensor:
        return after_last(self.blocks, self.non_local, x)


class AGW(TwoStreamNetwork):
    """Two-stream ResNet with non-local blocks, one view, one head.

    options   the MODEL section of the configuration. Without non-local blocks, with average pooling and the batch-hard
              triplet it is the two-stream baseline
    classes   number of training identities
    raises    MethodError for stages that end in a non-local block before GeM
    """

    options = TwoStreamNetwork.options | {
        "NON_LOCAL": option("one", "one inner channel (the authors'), half of the channels, or none",
                            one_of=("one", "half", "none")),
    }
    weightings = {"neck": (0.0, 1.0), "pooled": (1.0, 0.0)}
    unit_after_flip = True
    authors_names = (
        (r"backbone\.stages\.(\d)\.non_local\.(\d)\.g\.", lambda m: f"NL_{int(m[1]) + 1}.{m[2]}.g.0."),
        (r"backbone\.stages\.(\d)\.non_local\.(\d)\.out\.", lambda m: f"NL_{int(m[1]) + 1}.{m[2]}.W."),
        (r"backbone\.stages\.(\d)\.non_local\.(\d)\.", lambda m: f"NL_{int(m[1]) + 1}.{m[2]}."),
        (r"backbone\.stages\.(\d)\.blocks\.", lambda m: f"base_resnet.base.layer{int(m[1]) + 1}."),
    )

    @classmethod
    def title(cls, options: dict) -> str:
        baseline = {"NON_LOCAL": "none", "POOL": "average"}
        return "Two-stream baseline" if baseline.items() <= options.items() else super().title(options)

    def __init__(self, options, classes: int):
        super().__init__(options, classes)
        if options.STAGES < 4 and options.NON_LOCAL != "none" and options.POOL != "average":
            raise MethodError(
                f"MODEL.STAGES is {options.STAGES}: the last map would come from a non-local block and have negative "
                f"values, of which MODEL.POOL {options.POOL} is no number. Set MODEL.STAGES to 4, as on every data set"
            )
        for i, (channels, count) in enumerate(zip(self.backbone.channels, NON_LOCALS)):
            if count and options.NON_LOCAL != "none":
                inner = {"one": 1, "half": channels // 2}[options.NON_LOCAL]
                self.backbone.stages[i] = NonLocalStage(self.backbone.stages[i], channels, count, inner)
        self.build_head(views=1)

    def encode(self, x: Tensor) -> Tensor:
        *early, last = self.backbone.stages
        for stage in early:
            x = self.run("early", stage, x)
        return self.run("last", last, x)


class CAJ(AGW):
    """AGW's network; CAJ differs in its images and its loss."""

    @classmethod
    def title(cls, options: dict) -> str:
        return "CAJ"
