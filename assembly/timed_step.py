"""Training steps whose phases are timed: of a method or its plain trunk, in any precision and layout, on drawn images.

A setting is a precision, then extras, joined by "+", such as bfloat16+channels_last+compile: float32, tf32 (all
products in TF32), bfloat16 or float16 (autocast), and of EXTRAS what it has; graphs is compile with CUDA graphs.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from yacs.config import CfgNode

from assembly.adversary import adversary_steps
from assembly.recipe import image_size
from assembly.update import AUTOCAST
from common.batch import Batch, Kind, Output, Stream
from data.sampler import SAMPLERS
from models.build import class_of
from models.network import Network
from utils.measure import Clock
from utils.training.compiling import compile_training_pass
from utils.training.optimizer import build_optimizer, rate_at

PHASES = ("data", "forward", "losses", "backward", "optimiser")
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
EXTRAS = ("channels_last", "recompute", "compile", "graphs")
RECOMPUTE = ("early", "hce", "mfa", "blocks")  # of these the parts that a method has, unless others are named


class Operator(NamedTuple):
    """What a profile has of an operator, by the shapes that it worked on."""

    seconds: float
    calls: int
    name: str
    shapes: str


class Plain(nn.Module):
    """A library's own network (`Network.plain`) and cross entropy, on the same images."""

    adversary = None

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> Output:
        return Output(batch.rows, logits=self.network(batch.images())[None])

    def parameter_groups(self, base_lr: float, factor: float) -> list[dict]:
        return [{"params": [*self.parameters()], "base_lr": base_lr * factor}]

    @staticmethod
    def loss(output: Output, _epoch: int) -> dict[str, Tensor]:
        return {"id": F.cross_entropy(output.logits[0].float(), output.labels)}


class TimedStep:
    """A network ready to take the steps that train.py takes.

    model        on the CPU
    criterion    (output, epoch) -> {name: weighted scalar}
    cfg          gives optimiser, streams and size of images
    identities   P of a batch
    images       K
    backend      of torch.compile
    """

    def __init__(
        self, model: Network | Plain, criterion: Callable, cfg: CfgNode, setting: str, device: torch.device,
        identities: int, images: int, backend: str = "inductor",
    ):
        precision, *extras = setting.split("+")
        self.device, self.criterion = device, criterion
        self.dtype = AUTOCAST.get(precision)
        self.layout = torch.channels_last if "channels_last" in extras else torch.contiguous_format
        self.model = model.to(device).to(memory_format=self.layout).train()
        groups = self.model.parameter_groups(cfg.SOLVER.BASE_LR, cfg.SOLVER.BACKBONE_LR_FACTOR)
        self.optimizer = build_optimizer(groups, cfg.SOLVER)
        self.adversary = adversary_steps(model.adversary, cfg.SOLVER)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(group["base_lr"], 0, cfg.SOLVER)
        mode = "reduce-overhead" if "graphs" in extras else "default" if "compile" in extras else None
        self.compiled = mode is not None and compile_training_pass(self.model, mode, device, backend)
        batches = [drawn_batch(cfg, identities, images) for _ in range(2)]
        if device.type == "cuda":
            batches = [batch.pin_memory() for batch in batches]
        self.batches, self.rows = itertools.cycle(batches), len(batches[0])
        # The first steps allocate, choose algorithms and compile.
        self.warm_up = 3 if device.type == "cuda" or self.compiled else 1

    def step(self) -> list[float]:
        """Seconds of each of PHASES."""
        clock = Clock(self.device)
        if self.compiled:
            torch.compiler.cudagraph_mark_step_begin()  # where there are graphs, they may be written over
        batch = next(self.batches).to(self.device, self.layout)
        clock.mark()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            output = self.model(batch)
        clock.mark()
        if self.adversary is not None:
            self.adversary(output)
        self.loss = sum(self.criterion(output, 0).values())
        clock.mark()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(self.loss).backward()
        clock.mark()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        clock.mark()
        return clock.durations()

    def operators(self) -> list[Operator]:
        """Of one more step, by their own time on the device, the longest first."""
        on_cuda = self.device.type == "cuda"
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_cuda
        with profile(activities=activities, record_shapes=True) as profiler:
            self.step()
        kind = "self_device_time_total" if on_cuda else "self_cpu_time_total"
        # Kernels are listed once more beside the operators that launched them, as events of the device: left out.
        events = [e for e in profiler.key_averages(group_by_input_shape=True) if e.device_type == DeviceType.CPU]
        events.sort(key=lambda event: -getattr(event, kind))
        shapes = [" ".join(str(shape).replace(" ", "") for shape in event.input_shapes if shape) for event in events]
        return [Operator(getattr(e, kind) / 1e6, e.count, e.key, text) for e, text in zip(events, shapes)]


def drawn_batch(cfg: CfgNode, identities: int, images: int) -> Batch:
    """Drawn images of `images` times `identities` rows in each of a method's streams, on the CPU."""
    labels = torch.arange(identities).repeat_interleave(images)
    kinds = [Kind(False, i) for i in range(len(cfg.DATA.VISIBLE))]
    kinds += [Kind(True, i) for i in range(len(cfg.DATA.INFRARED))]
    kinds += [Kind(infrared, shape=True) for infrared in (False, True) if class_of(cfg.MODEL).reads_shapes]
    parts = [labels[::2], labels[1::2]] if SAMPLERS[cfg.SOLVER.SAMPLER].blind else [labels, labels]
    return Batch([
        Stream(torch.randn(len(part), 3, *image_size(cfg)), part, kind, torch.arange(len(part)) % 2 + 2 * kind.infrared)
        for kind in kinds for part in [parts[kind.infrared]]
    ])


def plain_network(cfg: CfgNode, classes: int) -> Plain:
    """The plain trunk of the method's network."""
    return Plain(class_of(cfg.MODEL).plain(cfg.MODEL, classes, image_size(cfg)))


@contextmanager
def products_as(setting: str) -> Iterator[None]:
    """Inside, convolutions and matrix products in float32 are those of the setting, by the fastest algorithms."""
    before = (
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    )
    in_tf32 = setting.partition("+")[0] == "tf32"
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, in_tf32
    torch.set_float32_matmul_precision("high" if in_tf32 else "highest")
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = before[:2]
        torch.set_float32_matmul_precision(before[2])
