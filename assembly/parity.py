"""Each method against its authors' arithmetic on any device: weights and images by rule, the numbers stored.

The rules are those by which the files in tests/data were made. tests/ compare more of them, on the CPU; here are
embeddings, outputs, losses and gradient norms, which every operator of a network has a part in.
"""

import json
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from assembly.adversary import adversary_steps
from assembly.recipe import build_loss, build_network
from common.batch import Batch, Kind, Stream
from configs.load import load_config
from models.authors_checkpoint import authors_name
from models.network import Network

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
VISIBLE, INFRARED = Kind(False), Kind(True)
BLOCKS = "blocks/{}/"          # where features of images of blocks stand, by modality
TINY = 1e-8                    # a gradient of that share of the largest one is the rounding of a 0


def weight(key: str, shape: tuple[int, ...], salt: str = "") -> np.ndarray:
    """The values of an entry of a state dict, by the authors' name; another salt gives others."""
    n = np.random.RandomState(zlib.crc32((key + salt).encode()) & 0xFFFFFFFF).standard_normal(shape)
    last = key.rsplit(".", 1)[-1]
    if last == "running_mean":
        return 0.1 * n
    if last == "running_var":
        return np.exp(0.2 * n)
    if last == "fusion_weights":
        return 0.5 * n
    if last in ("relative_position_bias_table", "cls_token", "pos_embed"):
        return 0.2 * n
    if "wavelet_scale" in key:
        return 0.1 * (1 + 0.1 * n)
    if "base_scale" in key:
        return 1 + 0.1 * n
    if last in ("bias", "in_proj_bias"):
        return 0.05 * n
    if len(shape) == 1:
        return 1 + 0.1 * n
    w = n * np.sqrt(1 / np.prod(shape[1:]))
    if ".CNL." in key or ".PNL." in key:
        w *= 0.3 if key.endswith(".W.0.weight") else 0.1
    return w


@lru_cache(maxsize=1200)  # a network's; drawing them takes seconds
def rounded_weight(key: str, shape: tuple[int, ...], factor: float, salt: str = "") -> Tensor:
    return torch.from_numpy(factor * weight(key, shape, salt)).float()


def image(seed: int, batch: int, height: int, width: int, block: int) -> Tensor:
    """(batch, 3, height, width) float64: noise in blocks of `block` x `block` pixels."""
    values = np.random.RandomState(seed).standard_normal((batch, 3, height // block, width // block))
    return torch.from_numpy(values.repeat(block, axis=2).repeat(block, axis=3))


def relative(value: Any, reference: Any) -> float:
    """Norm of the difference over norm of the reference."""
    value, reference = np.asarray(value), np.asarray(reference)
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


@contextmanager
def nothing_drawn() -> Iterator[None]:
    """Networks are built without drawing their weights, which takes seconds: all are loaded afterwards."""
    with ExitStack() as patches:
        for name in ("kaiming_normal_", "kaiming_uniform_", "normal_", "uniform_", "trunc_normal_"):
            patches.enter_context(mock.patch.object(nn.init, name, lambda tensor, *_, **__: tensor))
        yield


def still(model: Network) -> Network:
    """Without what is drawn in a training pass: dropout and drop path."""
    for module in model.modules():
        for name in ("probability", "drop_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@dataclass(frozen=True)
class Case:
    """A network whose numbers are stored, and by which rule.

    config     of configs/
    options    over those of the file
    stored     which files in tests/data
    scaled     factors of the rule's weights, by patterns of the authors' names
    classes    training identities
    size       height and width of the images that are embedded; None: no embedding is stored
    block      of these images
    features   where their features stand, by modality
    parts      of them that make an embedding
    rounded    whether images are rounded to float32
    within     by which float64 agrees, relative to the norm
    step       height and width in the training step
    epoch      of the step
    kinds      of its streams, eight images each; None: `infrared` says it, row by row
    images     of the step
    people     its identities, four images each in a stream, where the labels are not stored
    terms      where the losses stand; ours of other names than theirs
    outputs    of which name theirs is
    norms      part of the file of gradient norms
    salted     of the step: starts of our names, and what salts their weights
    weighted   terms that are stored without their weight, and where that stands
    """

    config: str
    stored: str
    scaled: tuple = ()
    classes: int = 395
    size: tuple[int, int] | None = (288, 144)
    block: int = 24
    features: str = BLOCKS
    parts: tuple[str, ...] = ("pooled", "neck")
    rounded: bool = True
    within: float = 1e-6
    step: tuple[int, int] = (96, 48)
    epoch: int = 0
    kinds: tuple[Kind, ...] | None = (VISIBLE, INFRARED)
    images: int = 16
    people: tuple[int, int] = (7, 3)
    terms: str = "loss/"
    names: tuple[tuple[str, str], ...] = ()
    outputs: tuple[tuple[str, str], ...] = (("pooled", "pooled"), ("logits", "logits"))
    norms: str = ""
    salted: tuple[tuple[str, str], ...] = ()
    weighted: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()


def weak(stage: str) -> tuple[str, float]:
    """Residual branches of the last stage, weak: features then lie where losses are sensitive."""
    return rf"{re.escape(stage)}\..*\.(bn3|downsample\.1)\.(weight|bias)$", 0.05


SHARED_STAGE, OWN_STAGE = "base_resnet.base.layer4", "backbone.layer4"
CMFN: dict[str, Any] = {
    "features": "{}/", "within": 1e-7, "epoch": 1, "terms": "epoch1/", "people": (0, 1), "rounded": False,
}
ID = (("pooled", "pooled"), ("logits", "logits/id"))
CASES = (
    Case("sysu_base", "base", (weak(SHARED_STAGE),), outputs=()),
    Case("sysu_agw", "agw", (weak(SHARED_STAGE),), names=(("triplet", "wrt"),)),
    Case("sysu_caj", "caj", (weak(SHARED_STAGE),), size=None, kinds=(VISIBLE, Kind(False, 1), INFRARED), images=24,
         names=(("triplet", "squared_difference"),)),
    Case("sysu_deen", "deen_sysu", (weak(SHARED_STAGE),), size=(384, 144)),
    Case("regdb_deen", "deen_regdb", (weak("base_resnet.base.layer3"),), classes=206, size=(384, 144)),
    Case("sysu_mpanet", "mpanet", (weak(OWN_STAGE), (r"spatial_attention\.weight$", 0.5)), size=(384, 128), block=16,
         features="384x128/blocks/", parts=("neck",), images=24, outputs=ID),
    Case("sysu_mscmnet", "mscmnet", (weak(SHARED_STAGE), (r"NL_.*\.W\.0\.weight$", 0.3)), size=(384, 192),
         parts=("neck",), kinds=(VISIBLE, Kind(False, 1), INFRARED, Kind(True, 1)), images=48,
         names=(("center", "qct"),)),
    Case("sysu_dns", "dns", (weak("base.base.layer4"),), epoch=99, outputs=ID),
    Case("sysu_mclnet", "mclnet", (weak(SHARED_STAGE), (r"(identity|camera)\.centers$", 2048 ** 0.5)), size=None,
         images=24, options=("MODEL.MCLNET.DISCRIMINATOR_LR", "0.01")),
    Case("sysu_mcja", "mcja", (weak(OWN_STAGE),), size=(384, 192), features="m2/blocks/", parts=("neck",), kinds=None,
         images=18),
    Case("sysu_sefel", "sefel", (
        (r"base_resnet\.base\.layer4\..*\.(bn3\w*|dsbn\w*|downsample\.1)\.(weight|bias)$", 0.05), (r"projs\.", 0.5),
    ), parts=("neck",), kinds=(VISIBLE, INFRARED, Kind(False, shape=True), Kind(True, shape=True)), images=48,
         outputs=(("pooled", "pooled"), ("erased_logits", "logits_erased"), ("teacher_logits", "teacher/shape/logits")),
         salted=(("teacher.", "#teacher"),),
         weighted=(("estimate", "w1"), ("id_erased", "w2"), ("mutual_erased", "w2"))),
    Case("sysu_pmt", "pmt", size=(256, 128), block=16, features="blocks/", parts=("neck",), step=(64, 40), epoch=6,
         terms="epoch7/", outputs=(("pooled", "features"), ("logits", "logits")), norms="epoch7"),
    Case("regdb_cmfn", "regdb", classes=206, size=(384, 144), **CMFN),
    Case("sysu_cmfn", "sysu", size=(384, 192), **CMFN),
)


def filled(case: Case, size: tuple[int, int], device: torch.device) -> tuple[Network, CfgNode]:
    """The network for images of a size, with the rule's weights rounded to float32, and its configuration."""
    height, width = map(str, size)
    cfg = load_config(
        ROOT / f"configs/{case.config}.yaml",
        ["MODEL.PRETRAINED", "none", "DATA.HEIGHT", height, "DATA.WIDTH", width, *case.options],
    )
    with nothing_drawn():
        model = still(build_network(cfg, case.classes))
    state = {}
    for name, value in model.state_dict().items():
        key = authors_name(name, model)
        if not value.is_floating_point():
            state[name] = torch.zeros_like(value)
            continue
        factor = float(np.prod([factor for pattern, factor in case.scaled if re.match(pattern, key)]))
        salt = next((salt for start, salt in case.salted if name.startswith(start) and size == case.step), "")
        state[name] = rounded_weight(key, tuple(value.shape), factor, salt)
    model.load_state_dict(state)
    return model.to(device).to(memory_format=torch.channels_last), cfg


def drawn(case: Case, seed: int, number: int, size: tuple[int, int], block: int) -> Tensor:
    images = image(seed, number, *size, block)
    return images.float() if case.rounded else images


def embedding_error(case: Case, model: Network) -> float:
    """The largest error of an embedding of images of both modalities, in the network's own precision."""
    assert case.size is not None
    stored, like = np.load(DATA / f"eval_{case.stored}.npz"), next(model.parameters())
    images = drawn(case, 1234, 2, case.size, case.block).to(like)
    errors = []
    with torch.inference_mode():
        for modality in ("visible", "infrared"):
            place = case.features.format(modality)
            expected = np.concatenate([stored[place + part].reshape(-1, 2, stored[place + part].shape[-1])
                                       for part in case.parts])                     # (parts · views, 2, D)
            expected = expected.transpose(1, 0, 2).reshape(2, -1)
            found = model.eval().embed(images, modality == "infrared", flip=False).double().cpu().numpy()
            errors.append(relative(found[:, ::found.shape[1] // expected.shape[1]], expected))
    return max(errors)


def step_errors(case: Case, model: Network, cfg: CfgNode) -> tuple[float, float]:
    """The largest error of outputs and losses of a training step, and of its gradient norms."""
    stored, like = np.load(DATA / f"train_{case.stored}.npz"), next(model.parameters())
    images = drawn(case, 77, case.images, case.step, 8).to(like)
    model.train().before_update(case.epoch)
    output = model(batch_of(case, stored, images))
    steps = adversary_steps(model.adversary, cfg.SOLVER)
    if steps is not None:
        steps(output)
    terms = build_loss(cfg)(output, case.epoch)
    total = sum(terms.values())
    errors = []
    for ours, theirs in case.outputs:
        found, expected = output.entries[ours].detach().flatten(0, 1).double().cpu().numpy(), stored[theirs]
        errors.append(relative(found[:, ::found.shape[1] // expected.shape[1]], expected))
    names, weights = dict(case.names), {name: float(stored[key]) for name, key in case.weighted}
    for name, term in {**terms, "total": total}.items():
        expected = float(stored[case.terms + names.get(name, name)]) * weights.get(name, 1.0)
        errors.append(abs(term.item() - expected) / max(abs(expected), 1e-12))
    total.backward()
    norms = json.loads((DATA / f"train_{case.stored}_gradient_norms.json").read_text())
    norms = norms[case.norms] if case.norms else norms
    gradients = ((authors_name(key, model), p.grad) for key, p in model.named_parameters())
    found = {key: gradient.norm().item() for key, gradient in gradients if gradient is not None}
    largest = max(norms.values())
    of_norms = max(abs(found[key] - norm) / norm for key, norm in norms.items() if norm > TINY * largest)
    return max(errors), of_norms


def batch_of(case: Case, stored: Any, images: Tensor) -> Batch:
    """Images of the step as its streams."""
    if case.kinds is None:
        infrared = stored["infrared"]
        cuts = [0, *(np.flatnonzero(infrared[1:] != infrared[:-1]) + 1), len(infrared)]
        kinds = [Kind(bool(infrared[first])) for first in cuts[:-1]]
        sizes = [int(end - first) for first, end in pairwise(cuts)]
    else:
        kinds, sizes = [*case.kinds], [len(images) // len(case.kinds)] * len(case.kinds)
    labels = stored["labels"] if "labels" in stored else np.tile(np.repeat(case.people, 4), len(kinds))
    labels = np.tile(labels, len(images) // len(labels))  # body shapes have those of their images
    labels, cameras = (
        torch.from_numpy(numbers).to(images.device).split(sizes)
        for numbers in (labels, stored["cameras"] if "cameras" in stored else np.zeros_like(labels))
    )
    return Batch([Stream(*part) for part in zip(images.split(sizes), labels, kinds, cameras)])
