"""What a configuration costs: parameters, operations of an embedding, time and peak memory of a training step.

    python scripts/cost.py --config configs/sysu_cmfn.yaml --reference configs/sysu_agw.yaml --output cost.json \\
        DATA.ROOT datasets/SYSU-MM01

Time is measured beside the reference's: in each round both take one step, so that what else the machine does meets
both. Steps are those of train.py, on batches of the data set that were read before. Run again, it keeps what is there
if configurations, device, threads and torch are the same.
"""

import argparse
import itertools
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from yacs.config import CfgNode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from configs.load import load_config  # noqa: E402
from train import EXPECTED_ERRORS, Trainer  # noqa: E402
from utils.arguments import count  # noqa: E402
from utils.output import OutputError, require_files, write_or_keep  # noqa: E402
from utils.training.run import memory_advice, select_device  # noqa: E402
from utils.stop import fail_clearly  # noqa: E402


class Clock:
    """Marks points in time: on CUDA in the device's own queue, so that nothing waits in between; else on the host."""

    def __init__(self, device: torch.device):
        self.stream, self.marks = None, []
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            self.stream = torch.cuda.current_stream(device)
        self.mark()

    def mark(self) -> None:
        if self.stream is None:
            self.marks.append(time.perf_counter())
        else:
            self.marks.append(self.stream.record_event(torch.cuda.Event(enable_timing=True)))

    def durations(self) -> list[float]:
        """Seconds between the marks."""
        if self.stream is None:
            return [end - start for start, end in itertools.pairwise(self.marks)]
        self.marks[-1].synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in itertools.pairwise(self.marks)]


def resident(name: str) -> float:
    """Bytes that this process holds (VmRSS) or held at its peak (VmHWM); nan where the system does not tell.

    resource.getrusage would do for the peak, but its figure also covers the process that this one was started from.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next((1024 * float(line.split()[1]) for line in lines if line.startswith(name)), float("nan"))


def peak_memory(device: torch.device, before: float) -> float:
    """Bytes that the device allocated at its peak or, on the CPU, the process's resident memory beyond `before`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resident("VmHWM") - before


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def operations(function: Callable, *inputs) -> int:
    """Floating-point operations of function(*inputs): of convolutions, matrix products and attention alone.

    A multiplication with its addition counts as two.
    """
    # Fused attention kernels are not counted on every device; this way attention is two matrix products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function(*inputs)
    return counter.get_total_flops()


class Training:
    """A training whose updates can be timed, on the batches of one of them.

    folder   where it writes its log and options
    """

    def __init__(self, cfg: CfgNode, folder: str, device: torch.device):
        # Weights change no duration, so none are downloaded; nor does it matter where the images came from.
        changed = ["OUTPUT", folder, "MODEL.PRETRAINED", "none", "DATA.CACHE", ""]
        self.trainer = Trainer(load_config(overrides=changed, base=cfg), False, device)
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = 0.0  # the same batches again and again would lead anywhere
        drawn = self.trainer.batches
        self.batches = [drawn[0, i] for i in range(min(cfg.SOLVER.ACCUMULATION, len(drawn)))]
        self.images = sum(len(visible) + len(infrared) for visible, infrared, _ in self.batches)
        self.pairs = cfg.SOLVER.IDENTITIES * cfg.SOLVER.IMAGES * len(self.batches)
        if device.type == "cuda":
            self.batches = [[t.pin_memory() for t in batch] for batch in self.batches]
        self.trainer.model.train()

    def update(self) -> float:
        """Seconds that it took."""
        clock = Clock(self.trainer.device)
        with memory_advice(self.trainer.less_memory()):
            self.trainer.train_step(self.batches, 0, 0, False)
        clock.mark()
        return clock.durations()[0]


def measure(cfg: CfgNode, reference: CfgNode, rounds: int, device: torch.device) -> dict:
    """The costs of `cfg`, and the seconds of updates of both, which took turns.

    pairs    visible and infrared images that an update draws from the data set: P·K, of all accumulated batches
    images   that it computes with, those that are shown twice counted so
    """
    warm_up = 3 if device.type == "cuda" else 2  # the first step allocates, the second has the optimiser's state too
    before = resident("VmRSS")
    with tempfile.TemporaryDirectory() as folder:
        training = Training(cfg, f"{folder}/config", device)
        for _ in range(warm_up):
            training.update()
        peak = peak_memory(device, before)
        beside = Training(reference, f"{folder}/reference", device)
        for _ in range(warm_up):
            beside.update()
        seconds = [(training.update(), beside.update()) for _ in range(rounds)]
    model = training.trainer.model.eval()
    image = torch.zeros(1, 3, cfg.DATA.HEIGHT, cfg.DATA.WIDTH, device=device)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "operations": operations(model.embed, image, False, False),
        "peak": peak,
        "pairs": training.pairs,
        "images": training.images,
        "reference_pairs": beside.pairs,
        "seconds": [own for own, _ in seconds],
        "reference_seconds": [other for _, other in seconds],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a yaml file of configs/")
    parser.add_argument("--reference", required=True, help="another one, or the same: its step is the unit of time")
    parser.add_argument("--rounds", type=count(1), default=10, help="timed steps of each")
    parser.add_argument("--output", type=Path, required=True, help="the JSON file")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over both files'")
    args = parser.parse_intermixed_args()

    cfg, reference = (load_config(file, [*args.overrides, "OUTPUT", "unused"]) for file in (args.config, args.reference))
    device = select_device(cfg.DEVICE)
    measured_on = {
        "config": yaml.safe_load(cfg.dump()),
        "reference": yaml.safe_load(reference.dump()),
        "rounds": args.rounds,
        "device": device_name(device),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    try:
        saved = json.loads(args.output.read_text(encoding="utf-8"))
        kept = {key: saved[key] for key in measured_on} == measured_on
    except (OSError, ValueError, KeyError, TypeError):
        kept = False  # absent, cut off, or of another version
    if kept:
        print(f"the costs were measured already: {args.output}")
        return
    require_files(args.output, fix="choose another --output")
    costs = measure(cfg, reference, args.rounds, device)
    write_or_keep({args.output: json.dumps({**measured_on, **costs}, indent=1) + "\n"})
    print(f"costs: {args.output}")


if __name__ == "__main__":
    fail_clearly(main, (*EXPECTED_ERRORS, OutputError))
