"""SEFEL (Feng et al., CVPR 2023, "Shape-Erased Feature Learning"), as its authors' code computes it."""

import copy
import re
from collections.abc import Callable, Iterable
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from yacs.config import CfgNode

from common.batch import Batch, Output
from common.options import option
from models.network import MethodError, Network, mirrored_added, with_mirrored
from models.parts import backbone
from models.parts.backbone import Backbone
from models.parts.grouped_norms import Group, GroupedStage, GroupedStem, Norms
from models.parts.head import GeM, unit

GROUPS = ("visible", "infrared", "shape")
OF_NORM = {"visible": "", "infrared": "_ir", "shape": "_shape"}
OF_SHORTCUT = {"visible": "downsample.1", "infrared": "dsbn_ir", "shape": "dsbn_shape"}
STEM = {"visible": "visible_module.visible", "infrared": "thermal_module.thermal"}
ANY = "(visible|infrared|shape)"
OWN = r"(?:student|teacher)\."


class ShapeErasure(nn.Module):
    """One of the two networks: a stem for each modality, shared convolutions, norms and a neck for each group.

    A group is the visible images, the infrared ones, or the body shapes of both, each a batch of its own.

    options   the MODEL section of the configuration
    classes   C, number of training identities
    """

    def __init__(self, options: CfgNode, classes: int):
        super().__init__()
        resnet = Backbone(options.BACKBONE, pretrained=options.PRETRAINED)
        width, parts = resnet.channels[-1], options.SEFEL.SHAPE_WIDTH              # D, d
        self.stems = nn.ModuleDict({
            "visible": GroupedStem(resnet.visible_stem, ("visible", "shape")),
            "infrared": GroupedStem(resnet.infrared_stem, ("infrared", "shape")),
        })
        self.stages = nn.ModuleList(GroupedStage(stage.children(), GROUPS) for stage in resnet.stages)
        self.pool = GeM(width, learned=False)
        self.necks = Norms(nn.BatchNorm1d(width), GROUPS)
        for neck in cast(Iterable[nn.BatchNorm1d], self.necks.values()):
            nn.init.normal_(neck.weight, mean=1.0, std=0.01)
            neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(width, classes, bias=False)                    # W
        self.shape_classifier = nn.Linear(parts, classes, bias=False)              # W_S
        self.projection = nn.Parameter(torch.empty(width, parts))                  # P
        self.shape_projection = nn.Parameter(torch.empty(width, parts))            # P_S
        for classifier in (self.classifier, self.shape_classifier):
            nn.init.normal_(classifier.weight, std=0.001)
        for projection in (self.projection, self.shape_projection):
            nn.init.normal_(projection, std=1 / parts)

    def stem_map(self, images: Tensor, modality: Group, group: Group) -> Tensor:
        """(B, 3, H, W) -> (B, 64, H/4, W/4)."""
        if isinstance(modality, str):
            return self.stems[modality](images, group)
        visible, infrared = (self.stems[name](images, name) for name in ("visible", "infrared"))
        return torch.where(modality.view(-1, 1, 1, 1), infrared, visible)

    def features(self, x: Tensor, group: Group, run: Callable[..., Tensor]) -> Tensor:
        """Stem maps (B, 64, H/4, W/4) of a group -> f (B, D)."""
        *early, last = self.stages
        for stage in early:
            x = run("early", stage, x, group)
        return self.pool(run("last", last, x, group))                              # of maps (B, D, H/16, W/16)

    def of_groups(self, batch: Batch, run: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        """f of the images and f_S of their body shapes, (B, D) each: the convolutions are all that groups share."""
        pooled, shapes = [], []
        for infrared, name in enumerate(("visible", "infrared")):
            pooled.append(self.features(self.stem_map(batch.images(bool(infrared)), name, name), name, run))
            shapes.append(self.stem_map(batch.images(bool(infrared), shape=True), name, "shape"))
        return torch.cat(pooled), self.features(torch.cat(shapes), "shape", run)

    def neck(self, pooled: Tensor, visible: int) -> Tensor:
        """(B, D) -> n (B, D) of images, of which the first rows are visible."""
        parts = pooled.split([visible, len(pooled) - visible])
        return torch.cat([self.necks["visible"](parts[0]), self.necks["infrared"](parts[1])])


class SEFEL(Network):
    """A network that is trained, and its running mean, the teacher, which judges body shapes and is what is tested.

    options   the MODEL section of the configuration
    classes   C, number of training identities
    """

    options = backbone.OF_ITS_KIND | {
        "SEFEL.SHAPE_WIDTH": option(512, "numbers of a feature's part that tells the body's shape", at_least=1,
                                    at_most=4096),
        "SEFEL.TEACHER_RATES": option([[0, 1e-3], [20, 1e-4], [85, 1e-5]], "how far the teacher goes towards the "
                                      "trained network in an update: [first epoch, rate]", at_least=0, at_most=1,
                                      from_start=True),
        "SEFEL.HEAD_FACTOR": option(2.0, "its classifiers, necks and projections go this many times as far",
                                    at_least=0, at_most=100),
    }
    paper = "Feng et al., CVPR 2023"
    weightings: ClassVar = {"neck": (1.0,)}
    parts = ("early", "last")
    reads_modality = True
    reads_shapes = True
    in_pairs = True
    neck_and_classifiers = tuple(
        f"{which}.{part}" for which in ("student", "teacher")
        for part in ("necks.", "classifier.", "shape_classifier.", "projection", "shape_projection")
    )
    authors_names = (
        (OWN + r"stems\.(visible|infrared)\.convolution\.", lambda m: f"{STEM[m[1]]}.conv1."),
        (OWN + r"stems\.(visible|infrared)\.norms\.shape\.", lambda m: f"{STEM[m[1]]}.bn1_shape."),
        (OWN + r"stems\.(visible|infrared)\.norms\.\w+\.", lambda m: f"{STEM[m[1]]}.bn1."),
        (OWN + r"stages\.(\d)\.(\d+)\.convolutions\.(\d)\.", lambda m: f"{block(m)}.conv{int(m[3]) + 1}."),
        (OWN + rf"stages\.(\d)\.(\d+)\.norms\.(\d)\.{ANY}\.",
         lambda m: f"{block(m)}.bn{int(m[3]) + 1}{OF_NORM[m[4]]}."),
        (OWN + r"stages\.(\d)\.(\d+)\.shortcut\.", lambda m: f"{block(m)}.downsample.0."),
        (OWN + rf"stages\.(\d)\.(\d+)\.shortcut_norms\.{ANY}\.", lambda m: f"{block(m)}.{OF_SHORTCUT[m[3]]}."),
        (OWN + rf"necks\.{ANY}\.", lambda m: f"bottleneck{OF_NORM[m[1]]}."),
        (OWN + r"classifier\.", "classifier."),
        (OWN + r"shape_classifier\.", "classifier_shape."),
        (OWN + r"projection$", "projs.0"),
        (OWN + r"shape_projection$", "projs.1"),
    )

    def __init__(self, options: CfgNode, classes: int):
        super().__init__(options, classes)
        self.rates, self.head_factor = options.SEFEL.TEACHER_RATES, options.SEFEL.HEAD_FACTOR
        self.student = ShapeErasure(options, classes)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    @classmethod
    def layout(cls, options: CfgNode) -> str:
        return f"{options.BACKBONE}, a stem for each modality, batch norms for each modality and for body shapes"

    @classmethod
    def check_images(cls, options: CfgNode, size: tuple[int, int], views: tuple[int, int]) -> None:
        if views != (1, 1):
            raise MethodError(
                f"sefel takes one view of each image, and DATA.VISIBLE has {views[0]}, DATA.INFRARED {views[1]}: write "
                "one list of steps in each"
            )

    def forward(self, batch: Batch) -> Output:
        """The training pass. B rows of images, each with its body shape; d numbers of a feature's shape part.

        pooled, neck                  (1, B, D): f, n
        logits, erased_logits         (1, B, C): z, z̃
        part, part_logits             (1, B, d), (1, B, C): p, and what W_S, held constant, makes of it
        shape_part, shape_logits      (1, B, d), (1, B, C): p_S, z_S
        teacher_part, teacher_logits  likewise of the teacher, without gradient
        pasted                        (1, B) int64, of a mixed batch alone: the identity of what is pasted
        common                        columns (D, d): P̂; of a mixed batch, kept (): λ
        """
        with torch.no_grad():  # the teacher's norms count all groups
            of_teacher = self.teacher.of_groups(batch, lambda _, module, *inputs: module(*inputs))
        of_student = self.student.of_groups(batch, self.run)
        return self.heads(batch, *of_student, *of_teacher)

    @torch.compiler.disable  # a total asks for gradients by f, of which what comes after it must have been computed
    def heads(self, batch: Batch, pooled: Tensor, shapes: Tensor, *of_teacher: Tensor) -> Output:
        """`forward` from the pooled features on, never in half precision."""
        student, rows, pooled = self.student, batch.rows, pooled[None]
        with torch.autocast(pooled.device.type, enabled=False):
            neck = student.neck(pooled[0], rows.sizes[0])                          # n (B, D)
            columns = F.normalize(student.projection, dim=0)                       # P̂ (D, d)
            part = neck @ student.projection                                       # p (B, d)
            shape_part = student.necks["shape"](shapes) @ student.shape_projection
            entries = {
                "neck": neck, "logits": student.classifier(neck),
                "erased_logits": student.classifier(neck - neck @ columns @ columns.T),
                "part": part, "part_logits": F.linear(part, student.shape_classifier.weight.detach()),
                "shape_part": shape_part, "shape_logits": student.shape_classifier(shape_part),
            }
            with torch.no_grad():
                teacher, (images, bodies) = self.teacher, of_teacher
                teacher.neck(images, rows.sizes[0])                                # for its running statistics
                entries["teacher_part"] = teacher.necks["shape"](bodies) @ teacher.shape_projection
                entries["teacher_logits"] = teacher.shape_classifier(entries["teacher_part"])
        common = {"columns": columns}
        if batch.pasted is not None:
            entries["pasted"], common["kept"] = batch.pasted
        return Output(rows, common, pooled=pooled, **{name: entry[None] for name, entry in entries.items()})

    @torch.no_grad()
    def after_update(self, epoch: int) -> None:
        """The teacher follows the trained network."""
        rate = [rate for first_epoch, rate in self.rates if first_epoch <= epoch][-1]
        followed: dict[bool, tuple[list, list]] = {True: ([], []), False: ([], [])}  # the head's, the others
        for name, parameter in self.named_parameters():
            mean, trained = followed[name.startswith(self.neck_and_classifiers)]
            (mean if name.startswith("teacher.") else trained).append(parameter)
        for is_head, (mean, trained) in followed.items():
            torch._foreach_lerp_(mean, trained, min(1.0, rate * (self.head_factor if is_head else 1)))

    def embed(self, images: Tensor, infrared: bool, flip: bool = True) -> Tensor:
        """The teacher's neck feature of length 1: E = D (`Network.embed`).

        flip   the mean with that of the mirrored images, as it is
        """
        group: Group = "infrared" if infrared else "visible"
        if images.shape[1] == 4:                                                   # `keep_for_embedding`
            images, group = images[:, :3], images[:, 3, 0, 0] > 0
        if flip:
            images = with_mirrored(images)
            group = group if isinstance(group, str) else torch.cat([group, group])
        _, neck = self.features(images, group)
        return mirrored_added(unit(neck)) / 2 if flip else unit(neck)

    def features(self, images: Tensor, group: Group) -> tuple[Tensor, Tensor]:
        """The teacher's f and n, (B, D) each, of images (B, 3, H, W) of visible or infrared ones."""
        pooled = self.teacher.features(self.teacher.stem_map(images, group, group), group, self.run)
        return pooled, self.teacher.necks(pooled, group)

    def last_map(self, infrared: bool = False) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        teacher, group = self.teacher, "infrared" if infrared else "visible"
        return teacher.stages[-1], lambda last: teacher.classifier(teacher.necks(teacher.pool(last), group))[None]

    def column_scale(self, weighting: str) -> Tensor:
        return torch.ones(self.teacher.classifier.in_features)

    def keep_for_embedding(self, modality: str) -> None:
        del self.student
        for name in ("classifier", "shape_classifier", "projection", "shape_projection"):
            delattr(self.teacher, name)
        kept = GROUPS[:2] if modality == "both" else (modality,)
        for name in {*GROUPS[:2]} - {*kept}:
            del self.teacher.stems[name]
        for module in self.teacher.modules():
            if isinstance(module, Norms):
                module.keep(kept)

    def authors_unused(self) -> list[str]:
        """The stages inside the stems' ResNets, the stem of the shared one, a third classifier."""
        return [
            r"(visible_module\.visible|thermal_module\.thermal)\.(layer[1-4]|fc)\.",
            r"base_resnet\.base\.(conv1|bn1|bn1_ir|bn1_shape|fc)\.", r"classifier_ir\.",
        ]


def block(found: re.Match[str]) -> str:
    """The authors' name of a block, by stage and place."""
    return f"base_resnet.base.layer{int(found[1]) + 1}.{found[2]}"
