"""How long a training step takes, and where the time goes: a method, its plain trunk, and CMFN computed literally.

    python scripts/benchmark_training.py                        # 384x192, 16 images: a quarter of an hour on two cores
    python scripts/benchmark_training.py --config configs/sysu_agw.yaml     # another method than CMFN
    python scripts/benchmark_training.py --device cuda --identities 6 --compile
    python scripts/benchmark_training.py --settings float32+recompute --recompute early,hce,mfa,mbue,last
    python scripts/benchmark_training.py --profile --settings float32       # the operators that take longest
    python scripts/benchmark_training.py --quick                # a minute, to see it run

A setting is float32, tf32 (all products in TF32), bfloat16 or float16 (autocast), with +channels_last, +recompute
(parts of the network computed again in the backward pass, MODEL.RECOMPUTE), +compile or +graphs (compiled, with CUDA
graphs). Images are drawn; "data" is taking a batch and bringing it to the device in the wanted layout: reading and
augmenting images has a benchmark of its own. Each row is measured in its own process.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import torch
from torch import nn
from yacs.config import CfgNode

from assembly.literal_network import make_literal, make_literal_optimizer
from assembly.recipe import build_loss, build_network, streams_of
from assembly.timed_step import (
    EXTRAS,
    PHASES,
    PRECISIONS,
    RECOMPUTE,
    Plain,
    TimedStep,
    plain_network,
    products_as,
)
from assembly.titles import method_title
from common.words import how_many
from configs.load import ConfigError, is_read, load_config
from models.build import class_of
from models.network import MethodError
from models.parts.mfa import ImageSizeError
from utils.arguments import count
from utils.measure import operations, peak_memory, resident
from utils.training.run import DeviceError, select_device

NETWORKS = ("plain", "literal", "method")


class Training(TimedStep):
    """One network in one setting, as the command line describes it."""

    def __init__(self, network: str, setting: str, options: argparse.Namespace):
        cfg, device = configuration(setting, options), select_device(options.device)
        torch.manual_seed(0)
        plain = network == "plain"
        model = plain_network(cfg, options.classes) if plain else build_network(cfg, options.classes)
        criterion = model.loss if isinstance(model, Plain) else build_loss(cfg)
        if network == "literal":
            make_literal(model)
            make_literal(cast(nn.Module, criterion))
        super().__init__(model, criterion, cfg, setting, device, options.identities, options.images)
        if network == "literal":
            make_literal_optimizer(self.optimizer)


def configuration(setting: str, options: argparse.Namespace) -> CfgNode:
    """The yaml file, or the defaults, under the command line's options.

    raises   ConfigError
    """
    # A size that every network takes. Not narrower: where the plain network's last map is one wide, bfloat16
    # convolutions of stride 2 return memory that nobody wrote, on CPUs with AMX (oneDNN as of torch 2.14).
    cfg = load_config(options.config, ["MODEL.PRETRAINED", "none", *options.overrides])
    if options.quick:
        backbone = ["MODEL.BACKBONE", "resnet18"] if is_read("MODEL.BACKBONE", cfg.MODEL.NAME) else []
        small = [*backbone, "DATA.HEIGHT", "96", "DATA.WIDTH", "48"]
        cfg = load_config(options.config, ["MODEL.PRETRAINED", "none", *small, *options.overrides])
    recompute: list[str] = []
    if "recompute" in setting.split("+"):
        recompute = options.recompute or [part for part in RECOMPUTE if part in class_of(cfg.MODEL).parts]
    return load_config(overrides=["MODEL.RECOMPUTE", repr(recompute)], base=cfg)


def name_of(network: str, cfg: CfgNode) -> str:
    return {"plain": "plain trunk", "literal": "CMFN, literal"}.get(network, method_title(cfg.MODEL))


def measure(network: str, setting: str, options: argparse.Namespace) -> dict:
    """The fastest of some steps, phase by phase in seconds, and the peak memory in bytes.

    Peak memory is what the device allocated or, on the CPU, the process's resident memory beyond the libraries'.
    """
    before = resident("VmRSS")
    with products_as(setting):
        training = Training(network, setting, options)
        steps = [training.step() for _ in range(training.warm_up + options.steps)][training.warm_up:]
    if not training.loss.isfinite():
        raise FloatingPointError(f"the loss in {setting} became {training.loss.item()}")
    on_cuda = training.device.type == "cuda"
    return {
        "seconds": dict(zip(PHASES, min(steps, key=sum))),
        "peak": peak_memory(training.device, before),
        # Of the training pass; a backward pass has twice as many, in every network.
        "operations": operations(training.model, next(training.batches).to(training.device, training.layout)),
        "parameters": sum(parameter.numel() for parameter in training.model.parameters()),
        "device": (
            torch.cuda.get_device_name(training.device) if on_cuda else how_many(torch.get_num_threads(), "thread")
        ),
    }


def top_operators(network: str, setting: str, options: argparse.Namespace, lines: int = 25) -> str:
    """A table of the operators, by the shapes they work on, that take most of one step by their own time."""
    with products_as(setting):
        training = Training(network, setting, options)
        for _ in range(training.warm_up):
            training.step()
        operators = training.operators()
    total = sum(operator.seconds for operator in operators)
    table = [f"{name_of(network, configuration(setting, options))}, {setting}: {1e3 * total:.1f} ms in all"]
    table.append(f"{'ms':>10s}{'%':>7s}{'calls':>7s}  operator")
    for seconds, calls, name, shapes in operators[:lines]:
        table.append(f"{1e3 * seconds:10.1f}{100 * seconds / total:7.1f}{calls:7d}  {name}  {shapes[:90]}")
    return "\n".join(table)


def references(setting: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """The plain and the literal row to compare a setting with: the literal network runs as it is written."""
    precision, *extras = setting.split("+")
    plain = "+".join([precision, *(extra for extra in extras if extra != "recompute")])
    return ("plain", plain), ("literal", precision)


def rows_of(settings: list[str], literal: bool) -> list[tuple[str, str]]:
    """(network, setting) of each row of the table, references first and each of them once."""
    plain_rows, literal_rows = zip(*(references(setting) for setting in settings))
    rows = [*plain_rows, *(literal_rows if literal else ()), *(("method", setting) for setting in settings)]
    return list(dict.fromkeys(rows))


def measured_apart(row: tuple[str, str], arguments: list[str]) -> dict:
    """What `measure` returns in a process of its own, or {"error": why it returned nothing}."""
    command = [sys.executable, __file__, *arguments, "--row", *row]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode == 0:
        return json.loads(ended.stdout.splitlines()[-1])
    if ended.returncode == -9:  # SIGKILL, which not every system has a name for
        return {"error": "killed, as happens where memory runs out"}
    return {"error": f"exit status {ended.returncode}: {' '.join(ended.stderr.split()[-20:])}"}


def table_head() -> str:
    columns = ["step", *PHASES, "images/s", "peak GB", "x plain", "x its ops", "literal /"]
    return f"{'network':21s}{'setting':39s}" + "".join(f"{column:>10s}" for column in columns)


def table_line(row: tuple[str, str], name: str, results: dict, images: int) -> str:
    """One row of the table.

    name      of its network
    results   what `measured_apart` returned, by row; the references' are there, unless they were left out or failed
    images    in a batch
    """
    line, result = f"{name:21s}{row[1]:39s}", results[row]
    if "error" in result:
        return f"{line}  {'not compiled here' if is_compiled(row[1]) else 'failed'}: {result['error']}"

    def seconds(of: tuple[str, str]) -> float:
        return sum(results.get(of, {}).get("seconds", {"": float("nan")}).values())

    plain, literal = references(row[1])
    step = seconds(row)
    own_operations = result["operations"] / results.get(plain, {}).get("operations", math.nan)
    durations = "".join(f"{1e3 * s:10.1f}" for s in (step, *result["seconds"].values()))
    over_plain, under_literal = step / seconds(plain), seconds(literal) / step if row[0] == "method" else math.nan
    ratios = [over_plain, over_plain / own_operations, under_literal]
    return f"{line}{durations}{images / step:10.1f}{result['peak'] / 1e9:10.2f}" + "".join(
        f"{'-':>10s}" if math.isnan(ratio) else f"{ratio:10.2f}" for ratio in ratios
    )


def is_compiled(setting: str) -> bool:
    return setting.endswith(("compile", "graphs"))


def setting_of(text: str) -> str:
    """The setting with its extras in one order, each once.

    raises   argparse.ArgumentTypeError
    """
    precision, *extras = text.split("+")
    if precision not in PRECISIONS or not set(extras) <= set(EXTRAS):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no setting: it is {', '.join(PRECISIONS)}, then +{', +'.join(EXTRAS)} or none of them"
        )
    return "+".join([precision, *(extra for extra in EXTRAS if extra in extras)])


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto (CUDA if there is one), cpu, cuda or cuda:N")
    parser.add_argument("--config", help="a yaml file of configs/; default: CMFN on SYSU-MM01")
    parser.add_argument("--identities", type=count(1), default=2, help="P of a batch")
    parser.add_argument("--images", type=count(1), default=4, help="K of a batch, in each stream of images")
    parser.add_argument("--steps", type=count(1), default=3, help="timed steps, of which the fastest counts")
    parser.add_argument("--classes", type=count(1), default=395, help="training identities")
    parser.add_argument("--settings", type=lambda text: [setting_of(t) for t in text.split(",")], metavar="A,B,...",
                        help="by default both precisions in both layouts, and with +recompute in the faster one")
    parser.add_argument("--recompute", type=lambda text: text.split(","), metavar="A,B,...",
                        help="the parts in MODEL.RECOMPUTE for settings with +recompute (default: early,hce,mfa of "
                             "CMFN, of other methods those that they have, or blocks)")
    parser.add_argument("--compile", action="store_true", help="each setting also with torch.compile; takes minutes")
    parser.add_argument("--literal", action=argparse.BooleanOptionalAction, default=True,
                        help="measure the literal network too, of CMFN alone")
    parser.add_argument("--profile", nargs="?", const="method", choices=NETWORKS,
                        help="instead of the table: the operators that take longest, of one network")
    parser.add_argument("--quick", action="store_true", help="a tiny network, which only shows that all works")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)  # what the process of one row is started with
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the file's, DATA.HEIGHT 288")
    options = parser.parse_intermixed_args(arguments)
    if options.quick:
        options.identities, options.images, options.steps, options.classes = 2, 2, 1, 10
    if options.settings is None:
        extras = ("", "+channels_last", "+channels_last+recompute")
        options.settings = [precision + extra for precision in ("float32", "bfloat16") for extra in extras]
    if options.compile:
        options.settings = list(dict.fromkeys(s for t in options.settings for s in (t, setting_of(t + "+compile"))))
    return options


def run(arguments: list[str]) -> int:
    """The table; 1 if a row is missing for another reason than that this machine cannot compile."""
    options = parse(arguments)
    if options.row:
        try:
            network, setting = options.row
            result = measure(network, setting, options)
        except Exception as error:  # noqa: BLE001 - whatever it is: its row says so, and the others go on
            result = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
        print(json.dumps(result))
        return 0
    for setting in options.settings:
        cfg = configuration(setting, options)  # a wrong option ends here, before minutes of measuring
        if options.profile == "literal" and cfg.MODEL.NAME != "cmfn":
            raise ConfigError(f"only CMFN has a literal network; profile {cfg.MODEL.NAME} with --profile method")
        if options.profile:
            print(top_operators(options.profile, setting, options), end="\n\n", flush=True)
    if options.profile:
        return 0

    images = streams_of(cfg) * options.identities * options.images
    print(
        f"Training steps on {how_many(images, 'image')} of {cfg.DATA.HEIGHT}x{cfg.DATA.WIDTH}, torch "
        f"{torch.__version__}."
    )
    print(
        f"Milliseconds of the fastest of {how_many(options.steps, 'step')}. peak GB: 10^9 bytes, on the CPU resident "
        "memory"
    )
    print("beyond the libraries'. x plain: step over that of the plain trunk (torchvision's ResNet, timm's ViT) in the")
    print("same setting; x its ops: that over how many times its multiplications a training pass has. literal /:")
    print("step of the literal network in the same precision over this one.\n")
    print(table_head(), flush=True)
    results = {}
    for row in rows_of(options.settings, options.literal and cfg.MODEL.NAME == "cmfn"):
        results[row] = measured_apart(row, arguments)
        print(table_line(row, name_of(row[0], cfg), results, images), flush=True)
    print("\nmeasured on:", ", ".join(sorted({r["device"] for r in results.values() if "device" in r})))
    return int(any("error" in result and not is_compiled(row[1]) for row, result in results.items()))


if __name__ == "__main__":
    fail_clearly(lambda: sys.exit(run(sys.argv[1:])), (ConfigError, DeviceError, ImageSizeError, MethodError))
