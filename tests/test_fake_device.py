"""What only a GPU would notice, noticed without one: tensors on two devices, and waiting in the middle of a step.

Networks, losses and training steps run on torch's fake tensors, which have a device, a shape and a dtype but no values.
The evaluator has to read values: it runs on a stand-in for a device, which computes on the CPU.
"""

import contextlib
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from thin import shortest, small_trunk
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import export

from assembly import gallery as searching
from assembly.recipe import build_loss, build_network, image_size, train_batches
from assembly.update import AUTOCAST, Update
from common.batch import Batch, Kind, Output, Rows, Stream
from configs.load import load_config
from data.records import Protocol, Record, Trial
from models.build import MODELS, build_model
from utils.evaluation.distances import distance_counts
from utils.evaluation.evaluator import embed_images, evaluate_protocol
from utils.retrieval.compress import principal_directions, project
from utils.retrieval.nearest import search_exact
from utils.training.run import HostCopy

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
INDEXING = ("aten::index", "aten::_unsafe_index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
SHIPPED = {  # the precision in which a network is tested; with --all in each
    "sysu_cmfn": "bfloat16", "sysu_cmfn_as_drawn": "float32", "sysu_agw": "float32", "sysu_caj": "bfloat16",
    "sysu_deen": "bfloat16", "sysu_base": "float32", "sysu_mpanet": "bfloat16", "sysu_pmt": "float16",
    "sysu_mscmnet": "float16", "sysu_mcja": "float16", "sysu_dns": "float16", "sysu_sefel": "float32",
    "sysu_mclnet": "float32",
}


class Waited(AssertionError):
    """The host would wait for the device."""


class NoWaiting(TorchDispatchMode):
    """Refuses operators for which the host waits until the device has done all that was queued before.

    They are those whose result's value or size the host needs, and copies between host and device that do not say
    non_blocking. A number of the CPU's (a tensor without dimensions) travels with the kernel's other arguments.

    device   "cuda", or "cpu" to take the CPU for the device
    """

    def __init__(self, device: str = "cuda"):
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.prim.device.default:  # two in three calls
            return device_of(args[0])
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if any(map(self.there, tensors)) or torch.device(kwargs.get("device") or "cpu").type == self.device:
            self.check(func, args, kwargs)
        if func._schema.name == "aten::_fused_sgd_":  # fake tensors do not know it; it changes its arguments only
            assert tensors and all(map(self.there, tensors))
            return None
        return func(*args, **kwargs)

    def there(self, x: torch.Tensor) -> bool:
        return device_of(x).type == self.device

    def check(self, func, args, kwargs) -> None:
        name, indices = func._schema.name, []
        if name in INDEXING:
            indices = [x for x in args[1] if x is not None]
            if any(x.dtype in (torch.bool, torch.uint8) for x in indices):
                raise Waited(f"{name} by a mask, of which the size has to be known")
            if any(device_of(x) != device_of(args[0]) for x in indices):
                raise Waited(f"{name} of one device by indices of another")
        if torch.Tag.data_dependent_output in func.tags:
            raise Waited(f"{name} reads a value")
        if torch.Tag.dynamic_output_shape in func.tags and not indices:
            raise Waited(f"{name} has a result of which the size has to be known")
        if name in ("aten::_to_copy", "aten::copy_"):
            source, target, blocking = device_of(args[0]), kwargs.get("device"), not kwargs.get("non_blocking")
            if name == "aten::copy_":
                source, target, blocking = device_of(args[1]), device_of(args[0]), not (args[2:] or [False])[0]
            if blocking and target is not None and source.type != torch.device(target).type:
                raise Waited(f"{name} from {source} to {target}, blocking")


def device_of(x: torch.Tensor) -> torch.device:
    return getattr(x, "fake_device", None) or x.device  # a fake tensor's `device` is an operator of its own


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


@contextlib.contextmanager
def faked(cfg=None, device=CUDA):
    """Inside, tensors are fake, and the device must not be waited for.

    cfg      gives the network of this configuration, on the device. What is neither its parameter nor its buffer stays
             where it was made
    """
    model = None
    if cfg is not None:
        with torch.device("meta"):  # where nothing is drawn
            model = build_network(cfg, classes=395)
    with FakeTensorMode(), NoWaiting(device.type):
        yield model and model._apply(lambda x: empty(x.shape, device, x.dtype))


def empty(shape, device=CUDA, dtype=torch.float32):
    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    return torch.empty(tuple(shape), dtype=dtype, device=device, memory_format=layout)


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


class Elsewhere(torch.Tensor):
    """A tensor that says it is on a CUDA device; its values are held on the CPU."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=CUDA
        )

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})

    def tolist(self):
        return self.cpu().tolist()


class StandIn(FakeTensorMode):
    """Inside, "cuda" is a device that computes, on the CPU; tensors of both devices do not mix."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


class TwoDevices(AssertionError):
    """An operator got tensors of the device and of the CPU."""


def computed(func, args, kwargs):
    """The operator's result, by the rules of CUDA: a number of the CPU's mixes with all, and so do indices from there.
    """
    name, tensors = func._schema.name, [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = any(isinstance(x, Elsewhere) for x in tensors)
    if name not in ("aten::copy_", "aten::_to_copy"):
        first = tensors[0] if tensors else None
        mixing = tensors if name not in INDEXING or not isinstance(first, Elsewhere) else [first, *args[2:3]]
        if there and any(not isinstance(x, Elsewhere) and x.dim() for x in mixing):
            raise TwoDevices(f"{name} of tensors on {[str(x.device) for x in tensors]}")
    if kwargs.get("device") is not None:
        there, kwargs = torch.device(kwargs["device"]).type == "cuda", {**kwargs, "device": CPU}
    held = tree_map(lambda x: x.held if isinstance(x, Elsewhere) else x, (args, kwargs))
    result = func(*held[0], **held[1])
    returned = func._schema.returns
    if returned and returned[0].alias_info is not None and returned[0].alias_info.is_write:  # in place
        return args[0]
    return tree_map(lambda x: Elsewhere(x) if isinstance(x, torch.Tensor) else x, result) if there else result


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def random_protocol(images=60):
    """Embeddings, identities and a protocol of two trials, in which some gallery images are ignored."""
    rows = np.arange(images)
    trials = tuple(Trial(query=rows[::2], gallery=np.roll(rows[1::2], shift)) for shift in (0, 7))
    protocol = Protocol("drawn", trials, "identities", np.where(rows % 3, -1, rows % 4), rows % 4)
    return drawn(images, 12), (rows * 7 % 11).tolist(), protocol


def evaluated(device):
    features, identities, protocol = random_protocol()
    scale = torch.tensor([0.0] * 4 + [1.0] * 8)  # as the network gives it: on the CPU
    features, results = features.to(device), []
    for rerank, counts in (("none", "identities"), ("none", "images"), ("k_reciprocal", "identities")):
        protocol = Protocol(**{**vars(protocol), "counts": counts})
        results.append(evaluate_protocol(
            features, identities, protocol, flip=False, weighting="neck", scale=scale, rerank=rerank, per_query=True
        ))
    infrared = [row % 2 == 0 for row in range(len(identities))]
    results.append(distance_counts(features, identities, infrared, weighting="neck", scale=scale.to(device), block=16))
    return results


def embedded(device):
    loaders = [
        ([(drawn(3, 3, 4, 2), torch.tensor([4, 0, 2]))], False), ([(drawn(2, 3, 4, 2), torch.tensor([1, 3]))], True),
    ]
    features = embed_images(lambda images, infrared: images.mean(dim=(2, 3)), loaders, [*"abcde"], device)
    assert features.device == device
    return features.tolist()


def compressed(device):
    found = []
    for images in (20, 5):
        features = drawn(images, 12).to(device)
        found.append(project(features, principal_directions(features, 4)).cpu().tolist())
    return found


def searched(device):
    matrix, current = drawn(40, 12).numpy(), np.arange(40) % 5 > 0
    return [x.tolist() for x in search_exact(drawn(3, 12).to(device), matrix, current, top=4, chunk_bytes=600)]


def found_by_search(device):
    """As scripts/search.py embeds, compressed and not; beside the network nothing waits."""
    scale, rows = torch.tensor([0.0] * 4 + [2.0] * 8), []
    network = SimpleNamespace(embed=lambda images, infrared, flip: images.flatten(1))
    for directions in (None, drawn(8, 3)):
        embedder = searching.Embedder(network, scale, directions, False, device)
        with NoWaiting():
            rows.append(embedder(drawn(5, 3, 2, 2), False))
        assert rows[-1].device == device and rows[-1].shape == (5, embedder.numbers)
    return [x.tolist() for x in rows]


@pytest.mark.parametrize("what", [evaluated, embedded, compressed, searched, found_by_search])
def test_what_reads_values_gives_those_of_the_cpu(what):
    expected = what(CPU)
    with StandIn():
        found = what(CUDA)
    assert found == expected


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


WAITING = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x[0]),
    "if": lambda x: 1 if x.any() else 0,
    "tolist": lambda x: x.tolist(),
    "equal": lambda x: torch.equal(x, x + 1),
    "allclose": lambda x: torch.allclose(x, x + 1),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "mask": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "mask_written": lambda x: x.index_put_((x > 0,), x),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.long().bincount(),
    "repeated": lambda x: x.repeat_interleave(x.long()),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "copied_out": lambda x: torch.empty(3).copy_(x),
    "copied_in": lambda x: x.copy_(torch.empty(3)),
    "listed": lambda x: x + torch.tensor([1.0, 2.0, 3.0], device=x.device),
    "new_tensor": lambda x: x + x.new_tensor([1.0, 2.0, 3.0]),
    "indexed": lambda x: x[[0, 2]],
    "indexed_by_array": lambda x: x[np.array([0, 2])],
}
NOT_WAITING = {
    "made_there": lambda x: x + torch.arange(3, device=x.device) + x.new_zeros(3),
    "filled": lambda x: torch.full((3,), 2.0, device=x.device),
    "number": lambda x: x * torch.tensor(2.0) + 1,
    "masked": lambda x: torch.where(x > 0, 1.0, -1.0).masked_fill(x > 1, torch.inf),
    "indexed_there": lambda x: x[torch.arange(2, device=x.device)] + x[:2],
    "copied": lambda x: torch.empty(3).copy_(x, non_blocking=True),
    "moved": lambda x: torch.empty(3).to(x.device, non_blocking=True),
    "drawn": lambda x: x.new_empty(3).bernoulli_(0.5) + torch.nn.functional.dropout(x),
}


@pytest.mark.parametrize("name", WAITING)
def test_waiting_is_noticed(name):
    with faked():
        x = torch.ones(3, device=CUDA)
        with pytest.raises(Waited):
            WAITING[name](x)


@pytest.mark.parametrize("name", NOT_WAITING)
def test_what_does_not_wait_passes(name):
    with faked():
        NOT_WAITING[name](torch.ones(3, device=CUDA))


MIXING = {
    "made_here": lambda x: x + torch.arange(3),
    "joined": lambda x: torch.cat([x, torch.zeros(3)]),
    "multiplied": lambda x: x @ torch.eye(3),
    "indexed": lambda x: torch.zeros(3)[x.long()],
    "attribute": lambda x: ForgotItsBuffer()(x),
}


class ForgotItsBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = torch.ones(3)

    def forward(self, x):
        return self._apply(lambda y: y.to(x.device)).factor * x


@pytest.mark.parametrize("mode, error", [(faked, (RuntimeError, Waited)), (StandIn, TwoDevices)])
@pytest.mark.parametrize("name", MIXING)
def test_two_devices_are_noticed(name, mode, error):
    with mode():
        x = torch.ones(3, device=CUDA)
        with pytest.raises(error):
            MIXING[name](x)


def test_the_stand_in_refuses_what_a_device_does():
    with StandIn():
        x = torch.arange(3, device=CUDA)
        assert x.device == CUDA and x.sum().item() == 3 and x[np.array([2])].tolist() == [2] and int(x.cpu()[1]) == 1
        with pytest.raises((TypeError, RuntimeError)):
            x.numpy()
