"""How well a network searches when visible test images are corrupted: SYSU-MM01-C, RegDB-C, LLCM-C.

    python scripts/corruptions.py --checkpoint runs/sysu_cmfn
    python scripts/corruptions.py --checkpoint runs/sysu_cmfn --order native --repeats 10 --grid

Writes corruptions.json and corruptions.md beside the checkpoint; with --grid, which tests each of the twenty
corruptions in each of its five severities alone, corruptions-grid.csv and a heat map for each order too. Run again
after a stop, it keeps what is there and goes on. docs/robustness.md has the rules.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import numpy as np
import torch

from assembly.corrupted_search import CorruptedSearch, needed_rows
from assembly.corruption_tables import grid_csv, grids, of_first_weighting, page, summary, summary_rows
from assembly.embedding import described, learned_directions
from assembly.errors import EXPECTED_ERRORS
from assembly.experiment import markdown_table
from assembly.recipe import require_any_pair, weightings_of
from assembly.results import (
    kept_results,
    place_of_results,
    put_aside,
    tested,
    tested_elsewhere,
    wanted_protocols,
)
from assembly.titles import method_title
from assembly.trained import load_run, open_tested
from data.corrupted import ORDERS, VERSION, CorruptedReader
from data.corruptions import CORRUPTIONS, SEVERITIES
from utils.arguments import count
from utils.evaluation.evaluator import check_reranking
from utils.lock import only_one
from utils.output import OutputError, require_files, write_or_keep
from utils.reporting.report import ReportError, import_plots
from utils.reporting.results import protocol_of
from utils.retrieval.compress import CompressionError
from utils.training.run import select_device


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a checkpoint of train.py, or a run's folder")
    parser.add_argument("--order", action="append", choices=ORDERS,
                        help="corrupted after the resize or before it; default: one after the other")
    parser.add_argument("--repeats", type=count(0), default=10, help="how often corruptions are drawn (default: 10)")
    parser.add_argument("--seed", type=count(0), default=0, help="of the corruptions (default: 0)")
    parser.add_argument("--grid", action="store_true", help="each corruption and severity alone, too")
    parser.add_argument("--protocol", action="append", metavar="NAME",
                        help="a protocol; may be repeated; default: the data set's usual ones")
    parser.add_argument("--output", type=Path, help="the JSON file; default: corruptions.json beside the checkpoint")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the checkpoint's")
    return parser.parse_intermixed_args()


def wanted_runs(orders: list[str], repeats: int, grid: bool) -> Iterator[dict]:
    """What describes each run, in the order in which they are done."""
    for order in orders:
        yield from ({"order": order, "repeat": repeat} for repeat in range(repeats))
    for order in orders if grid else []:
        for name in CORRUPTIONS:
            yield from ({"order": order, "corruption": name, "severity": severity} for severity in SEVERITIES)


def reader(root: Path, seed: int, run: dict) -> CorruptedReader:
    only = (run["corruption"], run["severity"]) if "corruption" in run else None
    return CorruptedReader(root.as_posix(), run["order"], seed, run.get("repeat", 0), only)


def kept(output: Path, saved: dict, names: list[str], labels: list[str]) -> tuple[list | None, list[dict]]:
    """The clean results and the runs of a file that holds these very figures; None and [] without one."""
    clean = kept_results(output, saved, names, labels, per_query=False)
    found = json.loads(output.read_text(encoding="utf-8")) if clean else {}
    same = all(found.get(key) == saved[key] for key in ("corruptions", "versions"))
    return (clean, found["runs"]) if same else (None, [])


def described_run(run: dict) -> str:
    what = f"{run['corruption']} {run['severity']}" if "corruption" in run else f"repeat {run['repeat']}"
    return f"{run['order']}, {what}"


def figures_of(result: dict) -> str:
    return f"{result['protocol']} Rank-1 {100 * result['mean']['rank1']:.2f} mAP {100 * result['mean']['mAP']:.2f}"


def main() -> None:
    args = arguments()
    plots = import_plots() if args.grid else None  # what is not installed is named before all else
    model, cfg, checkpoint = load_run(args.checkpoint, args.overrides, complete=False)
    benchmark, device = open_tested(cfg, checkpoint), select_device(cfg.DEVICE)
    names = wanted_protocols(args.protocol, args.overrides, cfg, checkpoint, benchmark)
    protocols = [benchmark.protocol(name) for name in names]
    infrared = np.array([record.infrared for record in benchmark.test])
    needed_rows(protocols, infrared)  # refuses what isn't across
    check_reranking(cfg.TEST.RERANK, protocols, infrared, (cfg.TEST.AIM.K1, cfg.TEST.AIM.K2))
    weightings = weightings_of(model, cfg)
    if cfg.EMBEDDING.DIM:
        require_any_pair(model, "EMBEDDING.DIM")
    if cfg.TEST.RERANK != "none":
        require_any_pair(model, "TEST.RERANK")
    orders = [*dict.fromkeys(args.order or ORDERS)]
    place = place_of_results(None, args.overrides, cfg, checkpoint)
    output = args.output or place.with_name(place.name.replace("results", "corruptions"))
    if output.suffix != ".json":
        raise OutputError(f"--output is {output}; it is the JSON file, beside which the tables lie: name it .json")
    maps = {order: output.with_name(f"{output.stem}-{order}.png") for order in orders if args.grid}
    tables = [output.with_suffix(".md"), *[output.with_name(f"{output.stem}-grid.csv")] * args.grid]
    require_files(output, *tables, *maps.values(), fix="name another file by --output")
    saved = tested(model, checkpoint, benchmark, cfg, device) | {
        "corruptions": {"seed": args.seed, "version": VERSION, "names": [*CORRUPTIONS], "frost": "drawn"},
    }
    print(saved["data_summary"])
    with only_one(output.parent, "corruptions"):
        saved["results"], saved["runs"] = kept(output, saved, names, [described(w, cfg) for w in weightings])
        done = {described_run(run) for run in saved["runs"]}
        missing = [run for run in wanted_runs(orders, args.repeats, args.grid) if described_run(run) not in done]
        if saved["results"] is None or missing:
            model = model.to(device).to(memory_format=torch.channels_last).eval()
            directions = {}
            if cfg.EMBEDDING.DIM:
                directions = learned_directions(model, weightings, lambda: benchmark.train, cfg, checkpoint, device)
            elsewhere = tested_elsewhere(cfg, checkpoint)
            search = CorruptedSearch(model, benchmark.test, protocols, cfg, device, directions, elsewhere)
            measure(search, output, saved, missing, lambda run: reader(benchmark.root, args.seed, run))
        saved["summary"] = summary(saved["results"], saved["runs"])
        contents: dict[Path, str | bytes] = {
            output: json.dumps(saved, indent=1) + "\n", tables[0]: page(method_title(cfg.MODEL), saved),
        }
        if plots:
            contents[tables[1]] = grid_csv(saved["runs"])
            contents |= {path: heat_map(plots, saved, order, method_title(cfg.MODEL)) for order, path in maps.items()}
        write_or_keep(contents)
    print(f"\n{markdown_table(*summary_rows(saved['summary']))}")
    print("\n".join(f"written: {path}" for path in contents))


def measure(
    search: CorruptedSearch, output: Path, saved: dict, missing: list[dict],
    reader_of: Callable[[dict], CorruptedReader],
) -> None:
    """The clean results, where there are none, and the missing runs; each is written when it is done.

    saved   the content of the file, is completed
    """
    if saved["results"] is None:
        put_aside(output, saved["checkpoint"])
        saved["results"] = search.clean()
    print(f"clean: {figures_of(saved['results'][0])}", flush=True)
    for run in missing:
        results = search.corrupted(reader_of(run))
        run["results"] = [{key: result[key] for key in result if key != "trials"} for result in results]
        saved["runs"].append(run)
        saved["summary"] = summary(saved["results"], saved["runs"])
        write_or_keep({output: json.dumps(saved, indent=1) + "\n"})
        print(f"{described_run(run)}: {figures_of(run['results'][0])}", flush=True)


def heat_map(plots: ModuleType, saved: dict, order: str, title: str) -> bytes:
    """The mAP of each corruption and severity by the first weighting, a panel for each protocol."""
    panels = []
    for result in of_first_weighting(saved["results"]):
        heading = f"{protocol_of(result)}\nclean {100 * result['mean']['mAP']:.1f}"
        panels.append((heading, 100 * grids(saved["runs"], result, "mAP")[order]))
    shown = f"{title}, weighting {saved['results'][0]['weighting']}, order {order}: mAP in percent by severity"
    return plots.png(plots.heat_maps(panels, [*CORRUPTIONS], [*map(str, SEVERITIES)], shown))


if __name__ == "__main__":
    fail_clearly(main, (*EXPECTED_ERRORS, CompressionError, ReportError))
