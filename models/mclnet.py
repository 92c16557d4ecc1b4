"""MCLNet (Hao et al., ICCV 2021): AGW's network against a discriminator, as its authors' code computes it."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from common.batch import Batch, Output
from common.options import option
from models.adversary import Adversary, Learn, value_of
from models.agw import AGW
from models.network import MethodError
from models.parts.layers import full_precision

INNER = 128


class Discriminator(Adversary):
    """Which modality is a pooled feature of? Linear but for its batch norm.

    width   D of the feature
    rate    of its optimiser
    """

    def __init__(self, width: int, rate: float):
        super().__init__(rate)
        self.layers = nn.Sequential(nn.Linear(width, INNER), nn.Linear(INNER, 2))
        self.norm = nn.BatchNorm1d(2)

    def judge(self, output: Output, learn: Learn | None = None) -> Tensor:
        """(1, B, 2): logits of visible and infrared.

        They are those of before the step, and so are the activations and batch statistics through which their gradient
        runs; the weights are those after it, as in the authors' code.
        """
        with torch.autocast(output.pooled.device.type, enabled=False):
            features = full_precision(output.pooled[0])                                 # (B, D)
            decided = self.layers(features.detach())                                    # (B, 2)
            judged = self.norm(decided)
            if learn is not None:
                learn(F.cross_entropy(judged, output.infrared.long()))
            reduce, decide = cast(Iterable[nn.Linear], self.layers)
            again = features @ reduce.weight.detach().T @ decide.weight.detach().T
            again = F.batch_norm(
                value_of(decided, again), None, None, self.norm.weight.detach(), self.norm.bias.detach(), training=True,
                eps=self.norm.eps,
            )
            return value_of(judged, again)[None]


class Centers(nn.Module):
    """Points that are drawn once, one for each class, and never trained.

    features   (B, D)
    labels     (B,)   class
    returns    squared distances (B,) of each row to the centre of its class, and (B,) of that to the nearest other one
    """

    points: Tensor   # (C, D)

    def __init__(self, classes: int, width: int):
        super().__init__()
        self.register_buffer("points", torch.randn(classes, width))

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        own = self.points[labels]
        # |x|² + |y|² - 2xy, cdist's choice for many rows, would lose digits.
        gaps = torch.cdist(own, self.points, compute_mode="donot_use_mm_for_euclid_dist").square()
        gaps = gaps.masked_fill(labels[:, None] == torch.arange(len(self.points), device=labels.device), torch.inf)
        return (full_precision(features) - own).square().sum(dim=1), gaps.amin(dim=1)


class MCLNet(AGW):
    """AGW's network; in training beside it the discriminator, and fixed centres of identities and cameras.

    options   the MODEL section of the configuration
    classes   C, number of training identities
    """

    options = AGW.options | {
        "MCLNET.CAMERAS": option(6, "of the training images, with a centre each", at_least=1, at_most=10_000),
        "MCLNET.DISCRIMINATOR_LR": option(0.1, "rate of the discriminator, in all epochs", at_least=0, at_most=1000),
    }
    paper = "Hao et al., ICCV 2021"
    one_modality = False
    authors_names = (
        (r"adversary\.layers\.0\.", "discriminator.map1."),
        (r"adversary\.layers\.1\.", "discriminator.map3."),
        (r"adversary\.norm\.", "discriminator.bn."),
        (r"(identity|camera)_centers\.points", r"\1.centers"),
        *AGW.authors_names,
    )
    authors_lack = ("adversary.", "identity_centers.", "camera_centers.")

    @classmethod
    def title(cls, options: dict) -> str:
        return "MCLNet"

    @classmethod
    def check_cameras(cls, options: CfgNode, cameras: int) -> None:
        if cameras > options.MCLNET.CAMERAS:
            raise MethodError(
                f"the training images are of {cameras} cameras, and MODEL.MCLNET.CAMERAS is {options.MCLNET.CAMERAS}: "
                f"set it to {cameras}"
            )

    def __init__(self, options: CfgNode, classes: int):
        super().__init__(options, classes)
        width = self.backbone.channels[-1]
        self.adversary = Discriminator(width, options.MCLNET.DISCRIMINATOR_LR)
        self.identity_centers = Centers(classes, width)
        self.camera_centers = Centers(options.MCLNET.CAMERAS, width)

    def forward(self, batch: Batch) -> Output:
        """The training pass: AGW's entries, and (1, B) each,

        identity_distance, identity_gap   squared distance to the own identity's centre, and of that to its nearest one
        camera_distance, camera_gap       likewise of the cameras
        camera                            int64

        and judged (1, B, 2), the discriminator's logits of visible and infrared.
        """
        output, camera = super().forward(batch), batch.cameras
        identity_distance, identity_gap = self.identity_centers(output.neck[0], output.labels)
        camera_distance, camera_gap = self.camera_centers(output.neck[0], camera)
        return Output(
            output.rows, None, {"judged": cast(Adversary, self.adversary).judge}, **output.entries, camera=camera[None],
            identity_distance=identity_distance[None], identity_gap=identity_gap[None],
            camera_distance=camera_distance[None], camera_gap=camera_gap[None],
        )

    def keep_for_embedding(self, modality: str) -> None:
        super().keep_for_embedding(modality)
        del self.adversary, self.identity_centers, self.camera_centers
