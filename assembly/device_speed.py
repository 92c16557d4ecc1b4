"""How fast a device is: figures for scripts/check_device.py, as findings of the same kind as its checks.

Nothing here is judged, but for the memory that a step needs.
"""

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from yacs.config import CfgNode

from assembly.device_checks import (
    Finding,
    Machine,
    attempted,
    config_file,
    failed,
    small_name,
    tiny,
    update_of,
)
from assembly.drawn_protocols import draw_features, llcm, regdb, sysu
from assembly.recipe import (
    body_shapes,
    build_loss,
    build_network,
    cached_images,
    image_size,
    train_batches,
    train_loader,
)
from assembly.timed_step import PHASES, RECOMPUTE, Plain, TimedStep, drawn_batch, plain_network, products_as
from assembly.update import Update
from common.words import how_many
from configs.load import load_config
from data.dataset import open_benchmark
from data.records import Record
from data.sampler import SAMPLERS
from data.synthetic import write_synthetic
from models.build import class_of
from utils.evaluation.evaluator import evaluate_protocol
from utils.measure import operations
from utils.retrieval.nearest import search_exact

BEST = "bfloat16+channels_last"
EVERY = [BEST, "float32+channels_last", "tf32+channels_last", "float16+channels_last"]
MORE = ["bfloat16", f"{BEST}+recompute"]
COMPILED = [f"{BEST}+compile", f"{BEST}+graphs"]
PEOPLE = {  # of data sets: training identities, their visible and infrared images
    "sysu": (395, 22_258, 11_909), "regdb": (206, 2_060, 2_060), "llcm": (713, 16_946, 13_975),
}
CLASSES = 395


def paper_config(machine: Machine, name: str, *words: object) -> CfgNode:
    """A configuration with the paper's batch and images; of a quick run, a tiny one."""
    file, options = config_file(name), ["MODEL.PRETRAINED", "none", *map(str, words)]
    small = ["SOLVER.IDENTITIES", "2", "SOLVER.IMAGES", "2"]
    return load_config(file, [*options, *tiny(name), *small] if machine.quick else options)


def paper_names(machine: Machine) -> list[str]:
    """Of the methods' configurations; quick ones on the embedded data set, whose images every network takes."""
    return [small_name(method) if machine.quick else f"sysu_{method}" for method in machine.methods]


def timed(machine: Machine, run: Callable[..., object], *arguments: object, **options: object) -> float:
    """Median seconds of a call of `run(*arguments, **options)`, after one that is not counted."""
    seconds = []
    for _ in range(1 + (1 if machine.quick else 3)):
        begun = time.perf_counter()
        run(*arguments, **options)
        if machine.on_cuda:
            torch.cuda.synchronize(machine.device)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


def forget(machine: Machine) -> None:
    """What the last row held on the device."""
    gc.collect()
    if machine.on_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(machine.device)


def step_of(machine: Machine, name: str, setting: str, plain: bool = False) -> TimedStep:
    """A step of the network of a configuration, or of its plain trunk, warmed up."""
    forget(machine)
    torch.compiler.reset()  # one function is compiled for so many networks at most
    cfg = paper_config(machine, name)
    if "recompute" in setting.split("+"):
        parts = [part for part in RECOMPUTE if part in class_of(cfg.MODEL).parts]
        cfg = load_config(overrides=["MODEL.RECOMPUTE", repr(parts)], base=cfg)
    torch.manual_seed(0)
    model = plain_network(cfg, CLASSES) if plain else build_network(cfg, CLASSES)
    criterion = model.loss if isinstance(model, Plain) else build_loss(cfg)
    step = TimedStep(model, criterion, cfg, setting, machine.device, cfg.SOLVER.IDENTITIES, cfg.SOLVER.IMAGES,
                     backend="eager" if machine.quick else "inductor")
    for _ in range(1 if machine.quick else step.warm_up):
        step.step()
    return step


def measured_step(machine: Machine, name: str, setting: str, plain: bool = False) -> Finding:
    """Its time, and what goes with it; kept in `machine.seconds`."""
    what = f"{name}{', plain trunk' if plain else ''}, {setting}"
    try:
        with products_as(setting):
            begun = time.perf_counter()
            step = step_of(machine, name, setting, plain)
            prepared = time.perf_counter() - begun
            seconds = statistics.median(sum(step.step()) for _ in range(1 if machine.quick else 5))
            peak = torch.cuda.max_memory_allocated(machine.device) / 1e9 if machine.on_cuda else None
    except torch.OutOfMemoryError:
        return Finding(what, "out of memory")
    except Exception as error:  # noqa: BLE001 - whatever it is: its line says so, and the others go on
        return failed(what, error)
    if not step.loss.isfinite():
        return Finding(what, f"the loss became {step.loss.item()}", "finite", False)
    key = (f"{name}, plain trunk" if plain else name, setting)
    machine.seconds[key] = seconds
    text = f"{1e3 * seconds:.1f} ms, {step.rows / seconds:.0f} images/s"
    beside = machine.seconds.get((f"{machine_first(machine)}, plain trunk", setting))
    text += f", {seconds / beside:.2f} x plain" if beside and not plain and name == machine_first(machine) else ""
    text += f", compiled in {prepared:.0f} s" if step.compiled else ""
    if peak is None:
        return Finding(what, text, value=seconds)
    there = torch.cuda.get_device_properties(machine.device).total_memory / 1e9
    return Finding(what, f"{text}, peak {peak:.1f} GB", f"at most {there:.0f} GB", peak <= there, seconds)


def machine_first(machine: Machine) -> str:
    return paper_names(machine)[0]


def steps(machine: Machine) -> Iterator[Finding]:
    """A training step of each method at its paper's batch, and of the plain trunk of the first; nothing compiled."""
    first, *others = paper_names(machine)
    for setting in EVERY[:3] if machine.quick else EVERY:  # a CPU takes seconds for a product in float16
        yield measured_step(machine, first, setting, plain=True)
        yield measured_step(machine, first, setting)
    for setting in MORE:
        yield measured_step(machine, first, setting)
    for setting in EVERY[:1] if machine.quick else EVERY[:2]:
        for name in others:
            yield measured_step(machine, name, setting)


def settings(machine: Machine) -> Iterator[Finding]:
    """Compiled steps, which take minutes before the first of them, and what of the other methods `steps` leaves out."""
    first, *others = paper_names(machine)
    for setting in COMPILED[-1:] if machine.quick else COMPILED:
        for plain in (True,) if machine.quick else (True, False):
            yield measured_step(machine, first, setting, plain)
    for setting in [] if machine.quick else [*EVERY[2:], *MORE, *COMPILED]:
        for name in others:
            yield measured_step(machine, name, setting)


def profile(machine: Machine) -> Iterator[Finding]:
    """What a step of the first method spends its time on, and how much of it the device is busy."""
    name = machine_first(machine)
    with products_as(BEST):
        step = step_of(machine, name, BEST)
        phases = step.step()
        operators = step.operators()
    total = sum(operator.seconds for operator in operators)
    yield Finding(f"{name}, {BEST}: phases", ", ".join(f"{p} {1e3 * s:.1f} ms" for p, s in zip(PHASES, phases)))
    if machine.on_cuda:
        busy = min(1.0, total / sum(phases))
        yield Finding(f"{name}, {BEST}: the device is busy", f"{100 * busy:.0f} % of a step", value=busy)
    for operator in operators[:15]:
        text = f"{1e3 * operator.seconds:.1f} ms, {100 * operator.seconds / total:.1f} %, {operator.calls} calls"
        yield Finding(f"{operator.name} {operator.shapes[:60]}".rstrip(), text, value=operator.seconds)


def data(machine: Machine) -> Iterator[Finding]:
    """How many images loader processes give, and how long an update in bfloat16 waits for them."""
    root = machine.folder / "photographs"
    people, images = (6, 1) if machine.quick else (20, 4)  # no more than `update_of` has classes
    size = (64, 32) if machine.quick else (384, 160)
    write_synthetic(root, 0, people, 4, images, *size, workers=1 if machine.quick else os.cpu_count() or 1)
    most = 1 if machine.quick else os.cpu_count() or 1
    numbers = [number for number in (1, 2, 4, 8, 16) if number <= most]
    name, cache = machine_first(machine), machine.folder / "cache"
    update, drawn = update_of(paper_config(machine, name, "SOLVER.PRECISION", "bfloat16"), machine.device)
    for _ in range(1 if machine.quick else 3):
        update([drawn], 0, 0, False)
    for workers, place in [*((number, "") for number in numbers), (numbers[-1], cache), (0, cache)]:
        what = f"{how_many(workers, 'loader process', 'loader processes')}{', from the cache' if place else ''}"
        cfg = paper_config(
            machine, name, "DATA.NAME", "synthetic", "DATA.ROOT", root, "DATA.WORKERS", workers, "DATA.CACHE",
            place or '""', "SOLVER.EPOCHS", 10_000,
        )
        yield attempted(what, loading, machine, what, cfg, update)


def loading(machine: Machine, what: str, cfg: CfgNode, update: Update) -> Finding:
    """Of one number of processes: first alone, then beside updates.

    Batches come in bursts of as many as there are processes, and that many are read ahead twice: those don't count.
    """
    workers, benchmark = cfg.DATA.WORKERS, open_benchmark(cfg.DATA.NAME, cfg.DATA.ROOT)
    number = 2 if machine.quick else max(12, 2 * workers)
    cache, shapes = cached_images(cfg, benchmark), body_shapes(cfg, benchmark)
    batches = train_batches(cfg, benchmark.train, cache=cache, shapes=shapes)
    loader = iter(train_loader(batches, cfg, 0, 0, machine.device))
    for _ in range(1 + 3 * workers):
        next(loader)
    begun = time.perf_counter()
    images = sum(len(next(loader)) for _ in range(number))
    rate = images / (time.perf_counter() - begun)
    waits, ends = [], []
    for step in range(2 * workers + 1 + number):
        begun = time.perf_counter()
        batch = next(loader)
        waits.append(time.perf_counter() - begun)
        update([batch], 0, step, False)
        ends.append(time.perf_counter())
    wait, each = 1e3 * sum(waits[-number:]) / number, 1e3 * (ends[-1] - ends[-1 - number]) / number
    text = f"{rate:.0f} images/s alone; {wait:.1f} of an update's {each:.1f} ms are waiting"
    return Finding(what, text, value=rate)


def embedding(machine: Machine) -> Iterator[Finding]:
    """Images a second that test.py's network embeds, read already; of the first method also what TF32 would give."""
    first, *others = paper_names(machine)
    for name, setting in [(first, "float32"), (first, "tf32"), *((name, "float32") for name in others)]:
        what = f"{name}, {setting}"
        yield attempted(what, embedding_of, machine, what, name, setting)


def embedding_of(machine: Machine, what: str, name: str, setting: str) -> Finding:
    forget(machine)
    cfg = paper_config(machine, name, "TEST.BATCH", 4) if machine.quick else paper_config(machine, name)
    model = build_network(cfg, CLASSES).to(machine.device).to(memory_format=torch.channels_last).eval()
    images = torch.randn(cfg.TEST.BATCH, 3, *image_size(cfg), device=machine.device)
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), products_as(setting):
        seconds = timed(machine, model.embed, images, True, cfg.TEST.FLIP)
    return Finding(what, f"{len(images) / seconds:.0f} images/s", value=len(images) / seconds)


def evaluator(machine: Machine) -> Iterator[Finding]:
    """An evaluation of all trials from embeddings of 2,048 numbers, at the data sets' sizes."""
    quick, trials = machine.quick, 1 if machine.quick else 10
    for identities, protocol in (sysu(1, trials, quick), sysu(10, trials, quick), regdb(quick), llcm(trials, quick)):
        what = f"{protocol.name}, {how_many(len(protocol.trials), 'trial')}"
        features = draw_features(identities, 64 if quick else 2048, machine.device)
        seconds = timed(machine, evaluate_protocol, features, identities, protocol, flip=False, weighting="equal")
        yield Finding(what, f"{1e3 * seconds:.0f} ms", value=seconds)


def search(machine: Machine) -> Iterator[Finding]:
    """A hundred queries among a million embeddings of 512 numbers in float16, in the host's memory."""
    rows, width = (2_000, 32) if machine.quick else (1_000_000, 512)
    what = f"100 queries among {rows:,} embeddings of {width} numbers"
    matrix = np.empty((rows, width), dtype=np.float16)
    for start in range(0, rows, 100_000):
        part = torch.randn(min(100_000, rows - start), width, device=machine.device)
        matrix[start:start + len(part)] = torch.nn.functional.normalize(part).half().cpu().numpy()
    queries = torch.from_numpy(matrix[:: rows // 100][:100]).float().to(machine.device)
    current = np.ones(rows, dtype=bool)
    seconds = timed(machine, search_exact, queries, matrix, current, top=10)
    yield Finding(what, f"{seconds:.3f} s", value=seconds)


def hours(machine: Machine) -> Iterator[Finding]:
    """Of a whole training by each paper's configuration, where the loaders keep up: estimated.

    Steps are those of the method on SYSU-MM01, times how many operations the other configuration's step has.
    """
    for name, method in zip(paper_names(machine), machine.methods[:1] if machine.quick else machine.methods):
        settings = [setting for setting in EVERY if (name, setting) in machine.seconds]
        if not settings:
            yield measured_step(machine, name, BEST)
            settings = [setting for setting in (BEST,) if (name, setting) in machine.seconds]
        if settings:
            unit = operations_of(f"sysu_{method}")
            for data_set, people in PEOPLE.items():
                config = f"{data_set}_{method}"
                yield attempted(config, hours_of, machine, name, settings, config, people, unit)


def hours_of(machine: Machine, name: str, settings: list[str], config: str, people: tuple, unit: int) -> Finding:
    cfg = load_config(config_file(config), ["MODEL.PRETRAINED", "none"])
    times = operations_of(config) / unit
    sampler = SAMPLERS[cfg.SOLVER.SAMPLER](drawn_records(*people), cfg.SOLVER.IDENTITIES, cfg.SOLVER.IMAGES, cfg.SEED)
    steps = sampler.length(0) * cfg.SOLVER.EPOCHS
    found = {setting: steps * times * machine.seconds[name, setting] / 3600 for setting in settings}
    text = ", ".join(f"{value:.1f} in {setting.partition('+')[0]}" for setting, value in found.items())
    return Finding(f"{config}: hours for {steps:,} steps", text, value=found[settings[0]] * 3600)


def operations_of(config: str) -> int:
    """Of a training pass at the configuration's batch; nothing is computed."""
    cfg = load_config(config_file(config), ["MODEL.PRETRAINED", "none"])
    with torch.device("meta"):
        model = build_network(cfg, CLASSES).train()
    with FakeTensorMode():
        model._apply(lambda x: torch.empty(x.shape, dtype=x.dtype))
        return operations(model, drawn_batch(cfg, cfg.SOLVER.IDENTITIES, cfg.SOLVER.IMAGES))


def drawn_records(people: int, visible: int, infrared: int) -> list[Record]:
    """Of a data set of that size, evenly."""
    return [Record("", i % people, 1, False) for i in range(visible)] + [
        Record("", i % people, 3, True) for i in range(infrared)
    ]
