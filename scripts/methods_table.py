"""The table of methods: paper, command, parameters, and what a training step costs beside a plain trunk's.

    python scripts/methods_table.py                                       # all methods, as on SYSU-MM01: half an hour
    python scripts/methods_table.py --configs configs/sysu_agw.yaml --device cuda --identities 8 --images 4
    python scripts/methods_table.py --no-steps                            # no step is timed: a minute
    python scripts/methods_table.py --quick                               # tiny networks, to see it run

Each method's step and its plain trunk's (torchvision's ResNet-50, timm's ViT-B) are measured by
scripts/benchmark_training.py, on as many images of the method's own size. "per operation" is the step's ratio over that
of the multiplications of a training pass: 1 is what the method's own arithmetic needs where it runs like the plain
trunk's.
Writes methods.md and, for each configuration, a JSON file that is kept where the script is run again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import torch
from yacs.config import CfgNode

from assembly.errors import EXPECTED_ERRORS
from assembly.experiment import ExperimentError, markdown_table
from assembly.recipe import build_network, image_size
from assembly.titles import method_title
from common.words import how_many
from configs.load import load_config
from models.build import class_of
from utils.arguments import count
from utils.measure import device_name, operations
from utils.output import OutputError, require_files, write_or_keep
from utils.training.run import select_device

BENCHMARK = ROOT / "scripts" / "benchmark_training.py"


def step_of(network: str, options: list[str]) -> dict:
    """What benchmark_training.py measured of the plain trunk or the method.

    raises   ExperimentError
    """
    command = [sys.executable, str(BENCHMARK), *options, "--row", network, "float32"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    failed = ended.returncode != 0
    result: dict = {"error": ended.stderr.strip()} if failed else json.loads(ended.stdout.splitlines()[-1])
    if "error" in result:
        raise ExperimentError(f"the step of {network} {' '.join(options)} could not be measured: {result['error']}")
    return result | {"seconds": sum(result["seconds"].values())}


def measured(file: str, options: list[str], asked: dict, kept: Path) -> dict:
    """The method's costs, from the file where they are kept, or measured now."""
    try:
        saved = json.loads(kept.read_text(encoding="utf-8"))
        if saved["asked"] == asked:
            return saved
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent, cut off, or of another version
    plain, method = (step_of(network, ["--config", file, *options]) for network in ("plain", "method"))
    saved = {"asked": asked, "plain": plain, "method": method}
    write_or_keep({kept: json.dumps(saved, indent=1) + "\n"})
    return saved


def cells(file: str, cfg: CfgNode, costs: dict | None) -> dict[str, str]:
    """A line of the table.

    costs   what `measured` returns; None for a table without them
    """
    model = build_network(cfg, classes=395, pretrained=False).eval()
    embedding = operations(model.embed, torch.zeros(1, 3, *image_size(cfg)), False, False)
    line = {
        "Method": method_title(cfg.MODEL),
        "Paper": class_of(cfg.MODEL).paper or "-",
        "Command": f"`python train.py --config {file}`",
        "Parameters": f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} M",
        "GMACs": f"{embedding / 2e9:.1f}",
    }
    if costs is None:
        return line
    plain, method = costs["plain"], costs["method"]
    times = method["seconds"] / plain["seconds"]
    return line | {
        "Step / plain": f"{times:.2f}",
        "per operation": f"{times / (method['operations'] / plain['operations']):.2f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", help="yaml files; default: configs/sysu_*.yaml but CMFN as drawn")
    parser.add_argument("--device", default="auto", help="auto (CUDA if there is one), cpu, cuda or cuda:N")
    parser.add_argument("--identities", type=count(1), default=2, help="P of a batch")
    parser.add_argument("--images", type=count(1), default=2, help="K of a batch, in each stream of images")
    parser.add_argument("--steps", type=count(1), default=3, help="timed steps, of which the fastest counts")
    parser.add_argument("--no-steps", action="store_true", help="leave the steps' times out")
    parser.add_argument("--quick", action="store_true", help="tiny networks, which only show that all works")
    parser.add_argument("--output", type=Path, default=Path("runs/methods"), help="the folder")
    args = parser.parse_args()
    files = args.configs or sorted(
        str(file.relative_to(ROOT)) for file in (ROOT / "configs").glob("sysu_*.yaml") if "drawn" not in file.stem
    )
    configs = {file: load_config(file, ["MODEL.PRETRAINED", "none"]) for file in files}
    require_files(args.output / "methods.md", fix="choose another --output")
    device = device_name(select_device(args.device))
    options = ["--device", args.device, "--identities", str(args.identities), "--images", str(args.images)]
    options += ["--steps", str(args.steps), *["--quick"] * args.quick]
    table = []
    for file, cfg in configs.items():
        asked = {"config": cfg.dump(), "options": options, "device": device, "torch": torch.__version__}
        kept = args.output / f"{Path(file).stem}.json"
        costs = None if args.no_steps else measured(file, options, asked, kept)
        table.append(cells(file, cfg, costs))
        print("  ".join(table[-1].values()), flush=True)
    note = "GMACs: of an image's embedding, a multiplication with its addition being one; parameters with 395 classes."
    if not args.no_steps:
        images = args.identities * args.images
        note += f" Steps of {how_many(images, 'image')} in each stream, float32, on {device}, "
        note += f"torch {torch.__version__}."
    text = markdown_table([*table[0]], [[*row.values()] for row in table])
    write_or_keep({args.output / "methods.md": f"{text}\n{note}\n"})
    print(f"{args.output}/methods.md")


if __name__ == "__main__":
    fail_clearly(main, (*EXPECTED_ERRORS, ExperimentError, OutputError))
