"""Methods side by side on one data set: what they reach, which of them the seeds tell apart, and what they cost.

    python scripts/compare_methods.py --configs configs/sysu_agw.yaml configs/sysu_cmfn.yaml --seeds 0,1,2 \\
        DATA.ROOT datasets/SYSU-MM01
    python scripts/compare_methods.py --configs configs/sysu_*.yaml --cost-only DATA.ROOT datasets/SYSU-MM01

Each config and seed is a run in a folder of its own, OUTPUT/<config>/seed<k>, and each config's costs are in
OUTPUT/<config>/cost.json; run the script again after a stop, and what is there is kept. Writes comparison.md,
comparison.tex and comparison.json, and of Rank-1 beside cost a picture, comparison.png and comparison.svg; the note
above the table says what its figures mean.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import numpy as np
from scipy import stats
from yacs.config import CfgNode

from assembly.experiment import (
    EMBEDDED,
    METRICS,
    ExperimentError,
    measure,
    options_of,
    percent,
    run,
    seeds_of,
    write_table,
)
from configs.load import ConfigError, load_config
from models.build import MODELS
from utils.arguments import count
from utils.output import OutputError, require_files
from utils.reporting.report import ReportError, import_plots
from utils.reporting.results import rerankings, trained_elsewhere

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def named(files: Sequence[str]) -> dict[str, str]:
    """The files by their names without folder and suffix.

    raises   ExperimentError
    """
    by_name: dict[str, str] = {}
    for file in files:
        name = Path(file).stem
        if name in by_name:
            raise ExperimentError(f"{by_name[name]} and {file} have the same name, which is their folder's: rename one")
        by_name[name] = file
    return by_name


def reference_of(wanted: str | None, names: Sequence[str]) -> str:
    """The config of that name, or whose name ends in it (agw: sysu_agw); by default agw, or else the first.

    raises   ExperimentError
    """
    if wanted and wanted in names:
        return wanted
    found = [name for name in names if f"_{name}".endswith(f"_{wanted or 'agw'}")]
    if wanted and len(found) != 1:
        raise ExperimentError(f"--reference {wanted} is {len(found)} of the configs; name one of {', '.join(names)}")
    return [*found, *names][0]


def check_one_data_set(cfgs: dict[str, CfgNode]) -> None:
    """
    raises   ExperimentError
    """
    (first, one), *others = ((n, (c.DATA.NAME, Path(c.DATA.ROOT).resolve(), c.DATA.SPLIT)) for n, c in cfgs.items())
    for name, data in others:
        if data != one:
            there, here = ("{} in {}, split {}".format(*found) for found in (one, data))
            raise ExperimentError(
                f"methods are compared on one data set, but {first} is on {there}, and {name} on {here}: choose "
                "configs of one data set, or set DATA.ROOT and DATA.SPLIT after the command"
            )


def reported(results: dict) -> list[dict]:
    """The entries of a results file by the weighting that its network is reported with.

    raises   ExperimentError
    """
    weighting = next(iter(MODELS[results["config"]["MODEL"]["NAME"]].weightings))
    entries = [entry for entry in results["results"] if entry["weighting"] == weighting]
    if not entries:
        raise ExperimentError(
            f"{results['config']['OUTPUT']} has no figures by {weighting!r}, the weighting that its network is "
            "reported with: add it to TEST.WEIGHTINGS, or leave that away"
        )
    return entries


def check_comparable(results: dict, first: dict) -> None:
    """
    raises   ExperimentError
    """
    folder = results["config"]["OUTPUT"]
    if results["data"]["fingerprint"] != first["data"]["fingerprint"]:
        raise ExperimentError(f"{folder} was tested on other data than {first['config']['OUTPUT']} (by fingerprint)")
    here, there = ([entry["protocol"] for entry in reported(r)] for r in (results, first))
    if here != there:
        raise ExperimentError(f"{folder} was tested by {', '.join(here)}; {', '.join(there)} came before")
    by, before = (rerankings(reported(r)) for r in (results, first))
    if by != before:
        raise ExperimentError(f"TEST.RERANK: {folder} has the re-ranking {by}, {first['config']['OUTPUT']} {before}")
    for one in (results, first):
        elsewhere = trained_elsewhere(one)
        if elsewhere:
            raise ExperimentError(f"{one['config']['OUTPUT']} was tested on another data set than {elsewhere}, its own")


def figures_of(runs: Sequence[dict]) -> dict[tuple[str, str], list[float]]:
    """By protocol and metric: of each seed's run, the mean over trials."""
    figures: dict[tuple[str, str], list[float]] = {}
    for entry in itertools.chain.from_iterable(map(reported, runs)):
        for metric in METRICS:
            figures.setdefault((entry["protocol"], metric), []).append(entry["mean"][metric])
    return figures


def told_apart(samples: dict[str, Sequence[float]]) -> dict[str, list[str]]:
    """Of one figure, by method: the methods that it is above, best first; methods above none are left out.

    By Tukey's honestly significant difference at 5 %: all pairs are tested together, by a deviation that is common to
    all methods (docs/tables.md).

    samples   of each method, a number for each seed, two at least
    """
    order = sorted(samples, key=lambda name: -statistics.mean(samples[name]))
    with np.errstate(divide="ignore", invalid="ignore"):  # where every seed gives a method the same
        p_values = stats.tukey_hsd(*(samples[name] for name in order)).pvalue
    above = {
        name: [order[j] for j in range(i + 1, len(order)) if p_values[i, j] < 0.05] for i, name in enumerate(order)
    }
    return {better: worse for better, worse in above.items() if worse}


def limit(seeds: int, methods: int) -> float:
    """What a difference of means must exceed, in its standard errors."""
    return float(stats.studentized_range.ppf(0.95, methods, methods * (seeds - 1)) / 2 ** 0.5)


def short(names: Sequence[str]) -> dict[str, str]:
    """The names without the word that all begin with: agw and cmfn of sysu_agw and sysu_cmfn."""
    start = os.path.commonprefix([*names]).rfind("_") + 1
    return {name: name[start:] for name in names}


def verdicts(figures: dict[str, dict], seeds: int) -> str:
    """What the seeds tell apart, a line for each protocol and metric, and one below it for each method above others.

    figures   what `figures_of` returned, by config
    """
    if seeds == 1:
        return "One seed: no deviation, and no difference here can be told from what another seed would change."
    kinds, names = list(next(iter(figures.values()))), short([*figures])
    pairs = len(figures) * (len(figures) - 1) // 2
    text = (
        f"Methods are told apart by Tukey's test of {seeds} seeds each, at 5 % for all {pairs} pairs of a figure "
        "together: were all methods equal, a figure would name any pair in one case of twenty. Figures are not "
        f"corrected for one another, and here are {len(kinds)}. Means must differ by "
        f"{limit(seeds, len(figures)):.2f} standard errors of their difference, by the deviation of all methods "
        "together. Pairs that are not named are not told apart, which doesn't show them equal.\n"
    )
    for kind in kinds:
        above = told_apart({names[name]: found[kind] for name, found in figures.items()})
        number = sum(map(len, above.values()))
        text += f"\n- {kind[0]} {METRICS[kind[1]]}: {number or 'none'} of {pairs}"
        for worse, alike in itertools.groupby(above, key=above.__getitem__):  # neighbours above the same methods
            text += f"\n  - {', '.join(alike)} above {', '.join(worse)}"
    return text


def ratios(cost: dict) -> dict[str, list[float]]:
    """Of each round, time over the reference's: of an update, and of each pair of images that it draws."""
    step = [own / other for own, other in zip(cost["seconds"], cost["reference_seconds"])]
    return {"step": step, "pair": [ratio * cost["reference_pairs"] / cost["pairs"] for ratio in step]}


def median_and_quartiles(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def row(name: str, cfg: CfgNode, runs: Sequence[dict], cost: dict | None, reference: str) -> dict[str, str]:
    """A line of the table, by column.

    runs   the contents of results.json of each seed, or none
    cost   the content of cost.json, or none
    """
    solver = cfg.SOLVER
    accumulated = f"{solver.ACCUMULATION}x" if solver.ACCUMULATION > 1 else ""
    cells = {
        "Config": name,
        "Image": f"{cfg.DATA.HEIGHT}x{cfg.DATA.WIDTH}",
        "Epochs": str(solver.EPOCHS),
        "Batch": f"{accumulated}{solver.IDENTITIES}x{solver.IMAGES}",
        "Parameters": f"{(runs[0] if runs else cost or {})['parameters'] / 1e6:.2f} M",
    }
    if cost:
        cells |= {"GFLOPs": f"{cost['operations'] / 1e9:.2f}", "Images a step": str(cost["images"])}
        cells |= {f"{kind} / {reference}": median_and_quartiles(values) for kind, values in ratios(cost).items()}
        cells |= {"Peak GB": f"{cost['peak'] / 1e9:.2f}"}
    if runs:
        entries = reported(runs[0])
        helped = f", re-ranked by {rerankings(entries)}" * any(entry["rerank"] for entry in entries)
        cells |= {"Embedding": entries[0]["weighting"] + ", flip" * entries[0]["flip"] + helped}
        cells |= {f"{p} {METRICS[metric]}": percent(values) for (p, metric), values in figures_of(runs).items()}
    return cells


def cost_note(cost: dict, reference: str) -> str:
    """
    cost   the reference's
    """
    on_cpu = cost["device_type"] == "cpu"
    return (
        f"Costs on {cost['device']}{', threads: {}'.format(cost['threads']) if on_cpu else ''}, torch {cost['torch']}. "
        "GFLOPs: of embedding one image, not mirrored; convolutions, matrix products and attention, a multiplication "
        "with its addition being two operations. "
        f"step: an update of train.py with the method's own batch, over one of {reference}; pair: the same for each "
        "pair of images that is drawn from the data set (Batch: identities x images of each in a modality, of "
        "blind_chunks in both), which is what an epoch takes. "
        f"Medians (quartiles) of {cost['rounds']} rounds in which both took turns; {reference}, whose step took "
        f"{1e3 * statistics.median(cost['seconds']):.0f} ms, took turns with a second copy of itself. Peak GB: 10^9 "
        f"bytes {'of resident memory beyond that of the libraries' if on_cpu else 'allocated on the device'}, training."
    )


def tuned_on_test_data(runs: dict[str, list[dict]]) -> list[str]:
    return [name for name, of_seeds in runs.items() if of_seeds[0]["config"]["SOLVER"]["CHOOSE_BEST_ON_TEST_DATA"]]


def figures_note(runs: dict[str, list[dict]], seeds: Sequence[int]) -> str:
    spread = ", mean ± standard deviation over the seeds (of the sample)" if len(seeds) > 1 else ""
    tuned = tuned_on_test_data(runs)
    inflated = f" Inflated, for the epoch was chosen on test data: {', '.join(tuned)}." if tuned else ""
    return (
        f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}. Figures in percent{spread}; a seed's is the mean "
        "over the protocol's trials, by the weighting of pooled and neck features that the method is reported with "
        f"(Embedding; flip: with the mirrored image). Parameters include the classifier.{inflated}"
    )


def picture(
    figures: dict[str, dict], costs: dict[str, dict], tuned: Sequence[str], data: str, seeds: Sequence[int]
) -> "Figure":
    """Rank-1 of the first protocol beside the operations of an embedding, a figure of matplotlib's.

    figures, costs   by config
    tuned            the configs whose epoch was chosen on test data
    """
    first = next(kind for kind in next(iter(figures.values())) if kind[1] == "rank1")
    names = short([*figures])
    points = [
        (names[name] + "*" * (name in tuned), costs[name]["operations"] / 1e9, [100 * value for value in found[first]])
        for name, found in figures.items()
    ]
    which = f"{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    spread = f"Mean over seed{which}; bars: standard deviation." if len(seeds) > 1 else f"Seed{which} alone."
    counted = "a multiplication with its addition is two operations; methods of about one cost stand side by side"
    note = [f"Data set: {data}. {spread} GFLOPs: {counted}."]
    note += ["* inflated: the epoch was chosen on test data."] * bool(tuned) + [EMBEDDED] * (data == "synthetic")
    return import_plots().accuracy_and_cost(
        points, f"{first[0]}: Rank-1, %", "GFLOPs of one image's embedding", " ".join(note)
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", required=True, nargs="+", metavar="FILE", help="yaml files of configs/")
    parser.add_argument("--seeds", type=seeds_of, default=[0, 1, 2], help="such as 0,1,2, the default")
    parser.add_argument("--reference", metavar="CONFIG", help="whose step is the unit of time; default: agw")
    parser.add_argument("--rounds", type=count(1), default=10, help="timed steps of each config")
    parser.add_argument("--output", type=Path, default=Path("runs/comparison"))
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--cost-only", action="store_true", help="train nothing")
    parts.add_argument("--no-cost", action="store_true", help="measure no costs")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the files', for all configs")
    args = parser.parse_intermixed_args()
    # KEY VALUE pairs right after the files are taken for files by argparse.
    files = list(itertools.takewhile(lambda word: word.endswith((".yaml", ".yml")), args.configs))
    if not files:
        parser.error(f"--configs wants yaml files, such as configs/sysu_cmfn.yaml, and not {args.configs[0]}")
    args.configs, args.overrides = files, [*args.configs[len(files):], *args.overrides]
    return args


def main() -> None:
    args = parse()
    files, options = named(args.configs), options_of(args.overrides)
    if {"OUTPUT", "SEED"} & set(options) or len(set(args.seeds)) < len(args.seeds):
        raise ExperimentError("OUTPUT and SEED are set by --output and --seeds, and each seed is named once")
    cfgs = {name: load_config(file, args.overrides) for name, file in files.items()}
    check_one_data_set(cfgs)
    reference = reference_of(args.reference, list(files))

    table = args.output / "comparison"
    png, svg = pictures = table.with_suffix(".png"), table.with_suffix(".svg")
    require_files(*map(table.with_suffix, (".md", ".tex", ".json")), *pictures, fix="choose another --output")
    plots = None if args.cost_only or args.no_cost else import_plots()  # what is not installed is named before all else

    costs: dict[str, dict] = {}
    runs: dict[str, list[dict]] = {name: [] for name in files}
    for name, file in {} if args.no_cost else files.items():  # before any training: all of them run here, or it ends
        output = args.output / name / "cost.json"
        run("scripts/cost.py", "--config", file, "--reference", files[reference], "--output", str(output),
            "--rounds", str(args.rounds), *args.overrides)
        costs[name] = json.loads(output.read_text(encoding="utf-8"))
    for seed in [] if args.cost_only else args.seeds:
        for name, file in files.items():
            runs[name].append(measure(file, args.output / name / f"seed{seed}", {**options, "SEED": seed}))
            check_comparable(runs[name][-1], next(iter(runs.values()))[0])

    data = next(iter(cfgs.values())).DATA.NAME
    notes = [f"Methods on {data}. {EMBEDDED if data == 'synthetic' else ''}".strip()]
    figures = {name: figures_of(of_seeds) for name, of_seeds in runs.items()}
    if costs:
        notes.append(cost_note(costs[reference], reference))
    if not args.cost_only:
        notes += [figures_note(runs, args.seeds), *([verdicts(figures, len(args.seeds))] if len(runs) > 1 else [])]
    rows = [row(name, cfg, runs[name], costs.get(name), reference) for name, cfg in cfgs.items()]
    content = {"data": data, "seeds": args.seeds, "reference": reference, "notes": notes, "methods": [
        {"cells": cells, "cost": costs.get(name), "figures": [
            {"protocol": protocol, "metric": metric, "seeds": values} for (protocol, metric), values in found.items()
        ]} for cells, (name, found) in zip(rows, figures.items())
    ]}
    others: dict[Path, str | bytes] = {table.with_suffix(".json"): json.dumps(content, indent=1) + "\n"}
    if plots:
        figure = picture(figures, costs, tuned_on_test_data(runs), data, args.seeds)
        others |= {png: plots.png(figure), svg: plots.svg(figure)}
    else:
        for path in pictures:
            path.unlink(missing_ok=True)  # one of another run would not belong to this table
    text = write_table(table, "\n\n".join(notes) + "\n", [*rows[0]], [[*r.values()] for r in rows], others)
    print(f"\n{text}\nwritten: {table}.md, comparison.tex", *(path.name for path in others), sep=", ")
    if args.no_cost:
        print("no comparison.png: it shows what a figure costs, and --no-cost leaves that out")


if __name__ == "__main__":
    fail_clearly(main, (ConfigError, ExperimentError, OutputError, ReportError))
