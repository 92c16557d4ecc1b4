"""Networks, losses and training steps on fake tensors of a GPU: all on one device, and nothing waits."""

import contextlib
from itertools import product
from types import SimpleNamespace

import export
import numpy as np
import pytest
import torch
from fake_device import CPU, CUDA, NEW_TORCH, NoWaiting, device_of, empty, faked
from programs import ROOT
from thin import shortest, small_trunk
from torch._subclasses.fake_tensor import FakeTensorMode

from assembly.recipe import build_loss, image_size, train_batches
from assembly.update import AUTOCAST, Update
from common.batch import Batch, Kind, Output, Rows, Stream
from configs.load import load_config
from data.records import Record
from models.build import MODELS, build_model
from utils.training.run import HostCopy

pytestmark = NEW_TORCH

SHIPPED = {  # the precision in which a network is tested; with --all in each
    "sysu_cmfn": "bfloat16", "sysu_cmfn_as_drawn": "float32", "sysu_agw": "float32", "sysu_caj": "bfloat16",
    "sysu_deen": "bfloat16", "sysu_base": "float32", "sysu_mpanet": "float16", "sysu_pmt": "float16",
    "sysu_mscmnet": "float16", "sysu_mcja": "float16", "sysu_dns": "float16", "sysu_sefel": "float32",
    "sysu_mclnet": "float32",
}


@pytest.fixture(autouse=True)
def short(whole):
    """By default, a stage has a block or two: every operator takes its time, and further blocks have the same ones."""
    with contextlib.nullcontext() if whole else shortest():
        yield


@pytest.fixture(autouse=True)
def cuda_is_believed_in(monkeypatch):
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    grad = torch.autograd.grad  # which asks for the device itself, that fake tensors are not enough for

    def faked_grad(loss, x, **options):
        return (torch.empty_like(x),) if device_of(x).type == "cuda" else grad(loss, x, **options)

    monkeypatch.setattr(torch.autograd, "grad", faked_grad)


def configured(name, *overrides, backbone="resnet18"):
    file = ROOT / f"configs/{name}.yaml"
    trunk = small_trunk(load_config(file).MODEL.NAME) if backbone == "resnet18" else []
    return load_config(file, ["MODEL.PRETRAINED", "none", *trunk, *overrides])


def batch(cfg, device=CUDA):
    """The images of a step; on the CPU as a loader gives them."""
    number, size = cfg.SOLVER.IDENTITIES * cfg.SOLVER.IMAGES, (3, *image_size(cfg))
    kinds = [Kind(False, view) for view in range(len(cfg.DATA.VISIBLE))]
    kinds += [Kind(True, view) for view in range(len(cfg.DATA.INFRARED))]
    kinds += [Kind(infrared, shape=True) for infrared in (False, True) if MODELS[cfg.MODEL.NAME].reads_shapes]
    return Batch([Stream(empty((number, *size), device), empty((number,), device, torch.int64), k) for k in kinds])


def check_network(cfg, precisions, embeddings):
    """Training passes with all losses, and test-time embeddings.

    embeddings   (infrared, flip) of each
    """
    criterion = build_loss(cfg)
    with faked(cfg) as model:
        images = batch(cfg)
        infrared = images.images(infrared=True)
        for precision in precisions:
            dtype = AUTOCAST[precision]
            with torch.autocast("cuda", dtype, enabled=dtype is not None):
                output = model.train()(images)
            assert all(x.device == CUDA for x in [*output.entries.values(), output.labels, output.infrared])
            check_losses(criterion(output, epoch=0))
        for is_infrared, flip in embeddings:
            with torch.inference_mode():
                embedding = model.eval().embed(infrared, is_infrared, flip)
            assert (embedding.device, embedding.dtype) == (CUDA, torch.float32)
            assert embedding.shape == (len(infrared), len(model.column_scale("neck")))


def check_losses(terms):
    for name, term in terms.items():
        assert (term.device, term.dtype, term.shape) == (CUDA, torch.float32, ()), name


@pytest.mark.parametrize("name, precision", SHIPPED.items())
def test_networks_as_shipped(name, precision, whole):
    if whole:
        check_network(configured(name, backbone="resnet50"), AUTOCAST, product([False, True], [False, True]))
    else:
        check_network(configured(name), [precision], [(True, True)])


SWITCHES = [  # as drawn, which is a shipped config, has others
    ("cmfn", "MODEL.HCE.ENABLED", "False", "MODEL.MBUE.ENABLED", "False"),
    ("cmfn", "MODEL.CSC_CMA.ENABLED", "False", "MODEL.MFA.POSITIONS", "all"),
    ("agw", "MODEL.POOL", "gem_learned", "MODEL.NON_LOCAL", "half"),
    ("deen", "MODEL.MFA.POSITIONS", "all", "MODEL.STAGES", "3"),
]
EACH_SWITCH = [
    *(("cmfn", key, value) for key, value in (
        ("MODEL.HCE.ENABLED", "False"), ("MODEL.HCE.THIRD", "hce"), ("MODEL.MFA.POSITIONS", "all"),
        ("MODEL.MBUE.ENABLED", "False"), ("MODEL.MBUE.TOKEN_LAYOUT", "aligned"),
        ("MODEL.MBUE.SEPARATE_COMPRESSIONS", "True"), ("MODEL.MBUE.CONTEXT_PATH", "True"),
        ("MODEL.CSC_CMA.ENABLED", "False"), ("MODEL.CSC_CMA.KEYS", "global"), ("MODEL.STAGES", "3"),
        ("MODEL.POOL", "gem"), ("DATA.HEIGHT", "80"), ("MODEL.RECOMPUTE", "['early', 'hce', 'mfa', 'mbue', 'last']"),
    )),
    *(("agw", "MODEL.NON_LOCAL", non_local, "MODEL.POOL", pool)
      for pool, non_local in product(["average", "gem", "gem_learned"], ["none", "one", "half"])),
    ("agw", "MODEL.POOL", "average", "MODEL.STAGES", "3"), ("caj", "DATA.EXCHANGE", "none"),
]


@pytest.mark.parametrize("switches", [*SWITCHES, *EACH_SWITCH], ids=" ".join)
def test_switches(switches, whole):
    if switches not in SWITCHES and not whole:
        pytest.skip("with --all")
    method, *options = switches
    check_network(configured(f"sysu_{method}", *options), AUTOCAST if whole else ["bfloat16"], [(True, True)] * whole)


@pytest.mark.parametrize("triplet", ["batch_hard", "weighted", "weighted_softmax", "squared_difference"])
def test_losses(triplet, whole):
    total = build_loss(configured("sysu_caj", "LOSS.TRIPLET", triplet, "LOSS.DIVERGENCE_WEIGHT", "1"))
    for precision in AUTOCAST if whole else ["bfloat16"]:
        check_total(total, 1, 0, precision)


@pytest.mark.parametrize("method", ["cmfn", "deen"])
def test_totals_of_three_views(method, whole):
    total = build_loss(configured(f"sysu_{method}"))
    for views, epoch, precision in product([1, 3], [0, 11, 21], AUTOCAST) if whole else [(3, 0, "bfloat16")]:
        check_total(total, views, epoch, precision)


def check_total(total, views, epoch, precision):
    with faked():
        dtype = AUTOCAST[precision] or torch.float32
        pooled, neck, logits = (empty((views, 8, width), CUDA, dtype) for width in (64, 64, 5))
        rows = Rows(empty((8,), CUDA, torch.int64), [4, 4], [Kind(False), Kind(True)])
        check_losses(total(Output(rows, pooled=pooled, neck=neck, logits=logits), epoch))


class Event:
    """Of torch.cuda's, what a copy to the host needs."""

    def record(self, stream=None):
        self.stream = stream

    def synchronize(self):
        assert self.stream is not None


@pytest.fixture
def copies(monkeypatch):
    """The copies to the host, which arrive as ones; a stream is the device that it belongs to."""
    found = []

    def read(self):
        found.append(self)
        return [1.0] * len(self.values)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: torch.device(device or "cuda:0"))
    monkeypatch.setattr(HostCopy, "read", read)
    return found


STEPS = [  # on the CPU with the backward pass, for which fake CUDA tensors are not enough
    ("cmfn", "cuda", "bfloat16"), ("agw", "cuda", "float16"), ("caj", "cpu", "float32"), ("deen", "cpu", "bfloat16"),
    ("mpanet", "cuda", "bfloat16"), ("pmt", "cuda", "float16"), ("mscmnet", "cuda", "float16"),
    ("mcja", "cuda", "float16"), ("dns", "cuda", "bfloat16"), ("sefel", "cuda", "float16"),
    ("mclnet", "cuda", "float16"),
]
ALL_STEPS = sorted({*product(MODELS, ["cuda"], AUTOCAST), *product(MODELS, ["cpu"], ["float32", "bfloat16"])})


@pytest.mark.parametrize("method, device, precision", ALL_STEPS)
def test_a_training_step(method, device, precision, copies, monkeypatch, whole):
    if (method, device, precision) not in STEPS and not whole:
        pytest.skip("with --all")
    device = {"cuda": CUDA, "cpu": CPU}[device]
    cfg = configured(
        f"sysu_{method}", "SOLVER.PRECISION", precision, "SOLVER.ACCUMULATION", "2" if method == "agw" else "1",
        "MODEL.RECOMPUTE", repr([*MODELS[method].parts[-1:]]), "SOLVER.CHANNELS_LAST", str(method != "agw"),
    )
    backwards = []
    with faked(cfg, device) as model:
        update = Update(cfg, model.train(), build_loss(cfg), device)

        def backward(loss):
            backwards.append((loss.device, loss.dtype))
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter)

        if device == CUDA:
            monkeypatch.setattr(torch.Tensor, "backward", backward)
        batches = [batch(cfg, CPU) for _ in range(cfg.SOLVER.ACCUMULATION)]
        terms, stopping = update(batches, epoch=1, step=0, stop=False)
        assert terms["total"] == 1 / len(batches) and stopping
        assert all(p.grad.device == device for p in model.parameters() if p.requires_grad)
    arrived, = copies
    assert arrived.values.device == CPU
    each = 1 if model.adversary is None else 2  # the adversary's step has one of its own
    assert backwards == [(CUDA, torch.float32)] * (each * len(batches) if device == CUDA else 0)


def test_numbers_are_copied_after_the_work_of_their_own_device(copies):
    """Which need not be the current one: DEVICE cuda:1 makes it no other."""
    second = torch.device("cuda", 1)
    with FakeTensorMode():
        assert HostCopy(torch.ones(3, device=second)).event.stream == second


def test_the_exported_module(whole):
    cfg = configured("sysu_agw")
    with torch.device("meta"):
        model = build_model(cfg.MODEL, classes=5)
    scale = model.column_scale("neck")
    directions = torch.ones(int(scale.count_nonzero()), 4)
    for modality in ("both", "visible", "infrared") if whole else ("both",):
        embedder = export.Embedder(model, modality, True, scale, directions).eval()
        with FakeTensorMode(), NoWaiting(), torch.no_grad():
            embedder._apply(lambda x: empty(x.shape, CUDA, x.dtype))
            images = torch.empty(2, 3, cfg.DATA.HEIGHT, cfg.DATA.WIDTH, dtype=torch.uint8, device=CUDA)
            which = [torch.empty(2, dtype=torch.bool, device=CUDA)] if modality == "both" else []
            embeddings = embedder(images, *which)
        assert (embeddings.device, embeddings.shape) == (CUDA, (2, 4))


@pytest.mark.parametrize("method", ["", "_caj"])
def test_batches_arrive_as_a_step_takes_them(method):
    """The pipelines compute with numpy and OpenCV; on the device nothing is left to do, not even a copy."""
    cfg = configured(f"quickstart{method}", "SOLVER.IDENTITIES", "2", "SOLVER.IMAGES", "2")
    size = cfg.DATA.HEIGHT, cfg.DATA.WIDTH
    pixels = np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)
    cache = SimpleNamespace(height=size[0], width=size[1], read=lambda path: pixels)
    records = [Record("", identity, camera, camera == 3) for identity in range(4) for camera in (1, 3)]
    drawn = train_batches(cfg, records, cache=cache)[0, 0]
    pairs = zip(drawn.streams, batch(cfg, CPU).streams, strict=True)
    for found, wanted in ((x, y) for pair in pairs for x, y in zip(pair[0][:2], pair[1][:2])):
        assert (found.shape, found.dtype, found.device) == (wanted.shape, wanted.dtype, CPU)
        with FakeTensorMode() as mode, NoWaiting():
            moved = mode.from_tensor(found).to(CUDA, non_blocking=True)
            assert moved.dim() < 4 or moved.contiguous(memory_format=torch.channels_last) is moved
