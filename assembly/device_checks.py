"""What holds on a device: checks for scripts/check_device.py, each with its measured figure and its bound.

A check is a generator of findings over a `Machine`. What one of them raises is a finding too, and the rest go on.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from yacs.config import CfgNode

from assembly.drawn_protocols import draw_features, llcm, regdb, sysu
from assembly.parity import CASES, Case, embedding_error, filled, relative, rounded_weight, step_errors, still
from assembly.recipe import build_loss, build_network, image_size
from assembly.timed_step import drawn_batch, products_as
from assembly.trained import load_run
from assembly.update import AUTOCAST, Update
from common.batch import Batch
from configs.load import is_read, load_config
from data.pixels import eval_transform
from data.records import Protocol
from data.synthetic import write_synthetic
from models.network import Network
from utils.evaluation.evaluator import FIGURES, Versions, evaluate_protocol, scaled
from utils.training.checkpoint import read_own_checkpoint
from utils.training.run import first_line, select_algorithms

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
CLASSES = 20  # training identities of the small networks
TINY = {"MODEL.BACKBONE": "resnet18", "MODEL.PMT.DEPTH": "2", "MODEL.PMT.HEADS": "2", "MODEL.PMT.HEAD_WIDTH": "16"}
WEAK = re.compile(r"bn2\.weight$|out\.1\.weight$")  # gains of residual branches


class Finding(NamedTuple):
    """A line of the table.

    what       was looked at
    measured   as the table prints it
    bound      what it is allowed to be; "" for a figure that only says how fast or how much
    holds      None: not judged
    value      the figure itself, in SI units
    """

    what: str
    measured: str
    bound: str = ""
    holds: bool | None = None
    value: float | None = None


def at_most(what: str, value: float, limit: float) -> Finding:
    return Finding(what, f"{value:.1e}" if value else "0", f"at most {limit:g}", value <= limit, value)


def at_least(what: str, value: float, limit: float) -> Finding:
    return Finding(what, f"{value:.4f}", f"at least {limit:g}", value >= limit, value)


class CheckFailed(RuntimeError):
    """A program that a check started has failed; the message has the last that it said."""


@dataclass
class Machine:
    """What is checked, and what the checks share.

    device     where
    quick      tiny networks and few steps, which only show that all works
    methods    that are looked at, by MODEL.NAME
    folder     for what the checks write; it exists
    seconds    that a step took, by configuration and setting
    """

    device: torch.device
    quick: bool
    methods: list[str]
    folder: Path
    seconds: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def data(self) -> Path:
        """The embedded data set, a small one."""
        root, people = self.folder / "people", (6, 1) if self.quick else (100, 6)
        write_synthetic(root, 0, people[0], 4, people[1], workers=1 if self.quick else os.cpu_count() or 1)
        return root

    def run(self) -> Path:
        """The folder of a deterministic run of the small CMFN, trained when it is first asked for."""
        folder = self.folder / "whole"
        if not (folder / "last.pth").exists():
            self.train(folder, 2, "quickstart_cmfn", "DETERMINISTIC", "true")
        return folder

    def train(self, folder: Path, epochs: int, config: str, *words: object) -> None:
        """Train on the embedded data set, or go on with it.

        raises   CheckFailed
        """
        workers = 0 if self.quick else min(8, os.cpu_count() or 1)
        options = [*words, "DATA.NAME", "synthetic", "DATA.ROOT", self.data(), "DATA.WORKERS", workers]
        options += [*tiny(config), "SOLVER.IDENTITIES", 2] if self.quick else []
        self.start("train.py", "--config", config_file(config), "--resume", "DEVICE", self.device, "OUTPUT", folder,
                   "SOLVER.EPOCHS", epochs, *options)

    def start(self, program: str, *arguments: object) -> None:
        """
        raises   CheckFailed
        """
        command = [sys.executable, str(ROOT / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
            raise CheckFailed(f"what a check started has failed: {program}, status {done.returncode}: {last}")


def attempted(what: str, find: Callable[..., Finding], *arguments: object) -> Finding:
    """What `find(*arguments)` finds, or that it could not be found, which fails."""
    try:
        return find(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is: its line says so, and the others go on
        return failed(what, error)


def failed(what: str, error: Exception) -> Finding:
    return Finding(what, f"{type(error).__name__}: {first_line(error)}", "no error", False)


def config_file(name: str) -> Path:
    return ROOT / f"configs/{name}.yaml"


def small_name(method: str) -> str:
    """The method's configuration on the embedded data set."""
    return f"quickstart_{method}"


def tiny(config: str) -> list[str]:
    """Options for a network and images that take no time; with the images' size of a small configuration, theirs."""
    cfg = load_config(config_file(config))
    words = ["MODEL.PRETRAINED", "none"]
    for key, value in TINY.items():
        words += [key, value] if is_read(key, cfg.MODEL.NAME) else []
    return words if max(image_size(cfg)) <= 96 else [*words, "DATA.HEIGHT", "64", "DATA.WIDTH", "32"]


def small(method: str, *words: str) -> CfgNode:
    """A method's small configuration, of four images of two people in each stream."""
    name = small_name(method)
    return load_config(config_file(name), [*tiny(name), "SOLVER.IDENTITIES", "2", "SOLVER.IMAGES", "4", *words])


def parity(machine: Machine) -> Iterator[Finding]:
    """Each method's embedding, training step and gradients against its authors' numbers, in float64 and float32."""
    cases = [case for case in CASES if load_config(config_file(case.config)).MODEL.NAME in machine.methods]
    with products_as("float32"):
        for case in CASES[:1] if machine.quick else cases:
            yield from parity_of(machine, case, torch.float64, case.within, case.within)
            yield from parity_of(machine, case, torch.float32, 1e-4, 1e-3)
    rounded_weight.cache_clear()


def parity_of(
    machine: Machine, case: Case, dtype: torch.dtype, of_embedding: float, of_step: float
) -> Iterator[Finding]:
    name = f"{case.config}, {str(dtype).removeprefix('torch.')}"

    def embedding(size: tuple[int, int]) -> Finding:
        model, _ = filled(case, size, machine.device)
        return at_most(f"{name}: embedding", embedding_error(case, model.to(dtype)), of_embedding)

    if case.size and not machine.quick:
        yield attempted(f"{name}: embedding", embedding, case.size)
    try:
        model, cfg = filled(case, case.step, machine.device)
        outputs, gradients = step_errors(case, model.to(dtype), cfg)
    except Exception as error:  # noqa: BLE001 - whatever it is: its line says so, and the others go on
        yield failed(f"{name}: training step", error)
        return
    yield at_most(f"{name}: outputs and losses", outputs, of_step)
    if dtype == torch.float64:
        yield at_most(f"{name}: gradient norms", gradients, 1e-5)


def as_on_the_cpu(machine: Machine) -> Iterator[Finding]:
    """A small network of each method: outputs, losses and gradients of a training step beside the CPU's."""
    with products_as("float32"):
        for method in machine.methods:
            for precision, of_outputs, of_gradients in (("float64", 1e-9, 1e-7), ("float32", 1e-3, 1e-2)):
                name = f"{method}, {precision}"
                try:
                    outputs, gradients = zip(*(
                        small_step(method, device, dtype=getattr(torch, precision)) for device in (CPU, machine.device)
                    ))
                except Exception as error:  # noqa: BLE001 - whatever it is: its line says so, and the others go on
                    yield failed(name, error)
                    continue
                worst = max(relative(outputs[1][key], outputs[0][key]) for key in outputs[0] if outputs[0][key].any())
                yield at_most(f"{name}: outputs and losses", worst, of_outputs)
                yield at_most(f"{name}: gradients", relative(gradients[1], gradients[0]), of_gradients)


def small_step(
    method: str, device: torch.device, dtype: torch.dtype = torch.float32, autocast: torch.dtype | None = None,
    scale: float = 1.0,
) -> tuple[dict[str, Tensor], Tensor]:
    """Outputs and losses by name, and the gradients as one vector, of a step without dropout; on the CPU.

    autocast   of the training pass; None: none
    scale      of the loss while its gradients are computed, which float16 needs
    """
    cfg = small(method)
    model = still(build_network(cfg, CLASSES))
    for name, parameter in model.named_parameters():
        if WEAK.search(name):  # as in a trained network: else every block amplifies any difference
            nn.init.constant_(parameter, 0.2)
    model = model.to(device, dtype).to(memory_format=torch.channels_last).train()
    torch.manual_seed(0)
    batch = drawn_batch(cfg, cfg.SOLVER.IDENTITIES, cfg.SOLVER.IMAGES)
    batch = batch.map(lambda x: x.to(device, dtype if x.is_floating_point() else None))
    with torch.autocast(device.type, autocast, enabled=autocast is not None):
        output = model(batch)
    terms = build_loss(cfg)(output, 0)
    (scale * sum(terms.values())).backward()
    gradients = [p.grad.flatten() / scale for p in model.parameters() if p.grad is not None]
    found = {name: value.detach().double().cpu() for name, value in {**output.entries, **terms}.items()}
    return found, torch.cat(gradients).double().cpu()


def half(machine: Machine) -> Iterator[Finding]:
    """A small network of each method: losses and gradients of a step in half precision beside those in float32."""
    for method in machine.methods[:1] if machine.quick else machine.methods:
        try:
            _, expected = small_step(method, machine.device)
        except Exception as error:  # noqa: BLE001 - whatever it is: its line says so, and the others go on
            yield failed(f"{method}, float32", error)
            continue
        for precision, dtype in AUTOCAST.items():
            if dtype is not None:
                yield attempted(f"{method}, {precision}", half_beside, machine, method, precision, expected)


def half_beside(machine: Machine, method: str, precision: str, expected: Tensor) -> Finding:
    _, found = small_step(method, machine.device, autocast=AUTOCAST[precision], scale=1024.0)
    cosine = torch.cosine_similarity(found, expected, dim=0).item()
    return at_least(f"{method}, {precision}: cosine of the gradients", cosine, 0.95)


def deterministic(machine: Machine) -> Iterator[Finding]:
    """Two updates of a small network of each method, twice: weights that differ in any bit."""
    with repeatable():
        for method in machine.methods:
            yield attempted(method, trained_twice, machine, method)


def trained_twice(machine: Machine, method: str) -> Finding:
    first, second = (trained(small(method), machine.device).state_dict() for _ in range(2))
    return at_most(f"{method}: weights that differ", differing(first, second), 0)


@contextmanager
def repeatable() -> Iterator[None]:
    """Inside, DETERMINISTIC's algorithms."""
    flash, lean = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()
    with products_as("float32"):
        select_algorithms(deterministic=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)
            torch.backends.cuda.enable_flash_sdp(flash)
            torch.backends.cuda.enable_mem_efficient_sdp(lean)


def update_of(cfg: CfgNode, device: torch.device) -> tuple[Update, Batch]:
    """Ready for updates on a drawn batch."""
    model = build_network(cfg, CLASSES).to(device).to(memory_format=torch.channels_last).train()
    update = Update(cfg, model, build_loss(cfg), device)
    update.set_rate(0)
    torch.manual_seed(0)
    batch = drawn_batch(cfg, cfg.SOLVER.IDENTITIES, cfg.SOLVER.IMAGES)
    return update, batch.pin_memory() if device.type == "cuda" else batch


def trained(cfg: CfgNode, device: torch.device, updates: int = 2) -> Network:
    update, batch = update_of(cfg, device)
    for step in range(updates):
        update([batch], 0, step, False)
    return update.model


def differing(first: object, second: object) -> int:
    """How many tensors of two checkpoints differ in any bit."""
    pairs = zip(tree_leaves(first), tree_leaves(second), strict=True)
    return sum(not torch.equal(a, b) for a, b in pairs if isinstance(a, Tensor))


def resume(machine: Machine) -> Iterator[Finding]:
    """train.py in one go, and cut after the first epoch: weights and optimiser's state that differ in any bit."""
    whole, cut = machine.run(), machine.folder / "cut"
    for epochs in (1, 2):
        machine.train(cut, epochs, "quickstart_cmfn", "DETERMINISTIC", "true")
    first, second = (read_own_checkpoint(folder / "last.pth") for folder in (whole, cut))
    for part in ("model", "optimizer"):
        yield at_most(f"resumed run: tensors of the {part} that differ", differing(first[part], second[part]), 0)


def waiting(machine: Machine) -> Iterator[Finding]:
    """An update of each method in each precision: nothing in it waits for the device."""
    for method in machine.methods:
        for precision in AUTOCAST if machine.on_cuda else ("float32",):
            yield attempted(f"{method}, {precision}", without_waiting, machine, method, precision)


def without_waiting(machine: Machine, method: str, precision: str) -> Finding:
    update, batch = update_of(small(method, "SOLVER.PRECISION", precision), machine.device)
    for step in range(2 * machine.on_cuda):  # the first ones allocate and choose algorithms
        update([batch], 0, step, False)
    with no_waiting(machine.device):
        update([batch], 0, 2, False)
    if not machine.on_cuda:
        return Finding(f"{method}, {precision}", "an update was made; only CUDA tells whether it waits")
    return Finding(f"{method}, {precision}", "0 waits", "none", True, 0)


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """
    raises   RuntimeError where the host waits for the device inside; the host's own devices have no such mode
    """
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def evaluation(machine: Machine) -> Iterator[Finding]:
    """Figures and re-rankings on the device beside the CPU's."""
    quick, trials = machine.quick, 1 if machine.quick else 2
    for identities, protocol in (sysu(1, trials, quick), sysu(10, trials, quick), regdb(quick), llcm(trials, quick)):
        whole = torch.randint(-4, 5, (len(identities), 256), generator=torch.Generator().manual_seed(0)).float()
        drawn = draw_features(identities, 512, CPU)
        for kind, features, limit in (("exact products", whole, 0), ("drawn", drawn, 1e-4)):
            what = f"{protocol.name}, {kind}: difference of figures"
            yield attempted(what, same_figures, what, limit, machine, features, identities, protocol)
    identities, protocol = regdb(quick)
    features, half_of_them = draw_features(identities, 256, CPU), len(identities) // 2
    generator = torch.Generator().manual_seed(1)
    others = features + 0.01 * torch.randn(3, *features.shape, generator=generator)
    versions = Versions(np.arange(len(identities)) < half_of_them, others)
    for rerank in ("k_reciprocal", "mser"):
        what = f"{protocol.name}, re-ranked by {rerank}: difference of figures"
        yield attempted(what, same_figures, what, 1e-3, machine, features, identities, protocol, rerank, versions)


def same_figures(
    what: str, limit: float, machine: Machine, features: Tensor, identities: np.ndarray, protocol: Protocol,
    rerank: str = "none", versions: Versions | None = None,
) -> Finding:
    """The largest difference between a figure on the device and the CPU."""
    found = []
    for device in (machine.device, CPU):
        there = versions and Versions(versions.infrared, versions.features.to(device))
        result = evaluate_protocol(features.to(device), identities, protocol, flip=False, weighting="equal",
                                   rerank=rerank, versions=there)
        found.append([[trial[key] for key in FIGURES] + trial["cmc"] for trial in result["trials"]])
    on_device, on_cpu = found
    return at_most(what, float(np.abs(np.subtract(on_device, on_cpu)).max()), limit)


def export(machine: Machine) -> Iterator[Finding]:
    """Files of scripts/export.py, read on the device, beside the network."""
    run = machine.run()
    model, cfg, _ = load_run(run, [], complete=False)
    weighting = next(iter(model.weightings))
    model = model.to(machine.device).eval()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (3, 3, *image_size(cfg)), dtype=torch.uint8, generator=generator)
    with products_as("float32"), torch.inference_mode():
        images = torch.stack([eval_transform(image) for image in pixels.permute(0, 2, 3, 1).contiguous().numpy()])
        embedding = model.embed(images.to(machine.device), True, cfg.TEST.FLIP)
        expected = scaled(embedding, model.column_scale(weighting)).cpu()
        for name, read in [*READERS.items()][:1 if machine.quick else None]:
            yield attempted(name, exported_beside, machine, run, name, read, pixels, expected)


def exported_beside(
    machine: Machine, run: Path, name: str, read: Callable[[Path, torch.device], nn.Module], pixels: Tensor,
    expected: Tensor,
) -> Finding:
    file = machine.folder / f"network.{name}"
    machine.start("scripts/export.py", "--checkpoint", run, "--format", name, "--output", file)
    infrared = torch.ones(len(pixels), dtype=torch.bool, device=machine.device)
    found = read(file, machine.device)(pixels.to(machine.device), infrared).cpu()
    return at_most(f"{name}: error of an embedding", relative(found, expected), 1e-4)


def read_pt2(file: Path, device: torch.device) -> nn.Module:
    from torch.export.passes import move_to_device_pass  # of newer versions than some that have all else

    program = torch.export.load(file)
    return move_to_device_pass(program, device).module() if device.type != "cpu" else program.module()


READERS = {"torchscript": lambda file, device: torch.jit.load(file, map_location=device), "pt2": read_pt2}


def training(machine: Machine) -> Iterator[Finding]:
    """Short trainings by train.py, resumed once: finite and falling; CMFN at full size in bfloat16 is among them."""
    yield falling("the quickstart's network", machine.run(), machine)
    folder = machine.folder / "full"
    for epochs in (2,) if machine.quick else (1, 2):  # of a quick run, `resume` has been asked that
        machine.train(folder, epochs, "sysu_cmfn", "MODEL.PRETRAINED", "none", "SOLVER.PRECISION", "bfloat16")
    what = "configs/sysu_cmfn.yaml in bfloat16" + ("" if machine.quick else ", resumed once")
    yield falling(what, folder, machine)


def falling(what: str, run: Path, machine: Machine) -> Finding:
    """Of the loss, from the first epoch of a run to the last; of a quick run it is not judged."""
    epochs = [json.loads(line)["total"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    text = ", then ".join(f"{total:.3f}" for total in epochs)
    good = bool(np.isfinite(epochs).all()) and (machine.quick or epochs[-1] < epochs[0])
    return Finding(f"{what}: mean loss of its epochs", text, "finite" if machine.quick else "falls", good, epochs[-1])
