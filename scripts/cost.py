"""What a configuration costs: parameters, operations of an embedding, time and peak memory of a training step.

    python scripts/cost.py --config configs/sysu_cmfn.yaml --reference configs/sysu_agw.yaml --output cost.json \\
        DATA.ROOT datasets/SYSU-MM01

Time is measured beside the reference's: in each round both take one step, so that what else the machine does meets
both. Steps are those of train.py, on batches of the data set that were read before. Run again, it keeps what is there
if configurations, device, threads and torch are the same.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import torch
import yaml
from yacs.config import CfgNode

from assembly.errors import EXPECTED_ERRORS
from assembly.recipe import (
    body_shapes,
    build_loss,
    build_network,
    check_together,
    less_memory,
    train_batches,
)
from assembly.update import Update
from configs.load import load_config
from data.dataset import hold_out, open_data
from utils.arguments import count
from utils.measure import Clock, device_name, operations, peak_memory, resident
from utils.output import OutputError, require_files, write_or_keep
from utils.training.run import memory_advice, select_algorithms, select_device


class Training:
    """A training whose updates can be timed, on the batches of one of them."""

    def __init__(self, cfg: CfgNode, device: torch.device):
        check_together(cfg, device)
        select_algorithms(cfg.DETERMINISTIC, cfg.SOLVER.TF32)
        self.cfg, self.device = cfg, device
        benchmark = open_data(cfg.DATA)
        records, _ = hold_out(benchmark.train, cfg.SOLVER.VALIDATION_IDS, cfg.SEED, benchmark.held_out)
        drawn = train_batches(cfg, records, shapes=body_shapes(cfg, benchmark))
        # Weights change no duration, so none are downloaded.
        self.model = build_network(cfg, len(drawn.identities), pretrained=False)
        self.model = self.model.to(device).to(memory_format=torch.channels_last).train()
        self.update = Update(cfg, self.model, build_loss(cfg), device)
        for group in (group for optimizer in self.update.optimizers.values() for group in optimizer.param_groups):
            group["lr"] = 0.0  # the same batches again and again would lead anywhere
        self.batches = [drawn[0, i] for i in range(min(cfg.SOLVER.ACCUMULATION, drawn.length(0)))]
        self.images = sum(map(len, self.batches))
        draws = [drawn.sampler.batch(0, i) for i in range(len(self.batches))]
        self.pairs = sum(len(part.rows) for draw in draws for part in draw) / 2
        if device.type == "cuda":
            self.batches = [batch.pin_memory() for batch in self.batches]

    def step(self) -> float:
        """Seconds that an update took."""
        advice, clock = less_memory(self.cfg, self.model.parts), Clock(self.device)
        with memory_advice(advice):
            self.update(self.batches, 0, 0, False)
        clock.mark()
        return clock.durations()[0]


def measure(cfg: CfgNode, reference: CfgNode, rounds: int, device: torch.device) -> dict:
    """The costs of `cfg`, and the seconds of updates of both, which took turns.

    pairs    half the number of images that an update draws from the data set, of all accumulated batches
    images   that it computes with, those that are shown twice counted so
    """
    warm_up = 3 if device.type == "cuda" else 2  # the first step allocates, the second has the optimiser's state too
    before = resident("VmRSS")
    training = Training(cfg, device)
    for _ in range(warm_up):
        training.step()
    peak = peak_memory(device, before)
    beside = Training(reference, device)
    for _ in range(warm_up):
        beside.step()
    seconds = [(training.step(), beside.step()) for _ in range(rounds)]
    model = training.model.eval()
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

    overrides = [*args.overrides, "OUTPUT", "unused"]
    cfg, reference = (load_config(file, overrides) for file in (args.config, args.reference))
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
