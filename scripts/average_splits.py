"""RegDB's figures: the mean over the models of its ten splits, written as one results file with ten trials.

    python scripts/average_splits.py runs/regdb_cmfn/*/results.json --output runs/regdb_cmfn/results.json

A protocol such as regdb/3/visible-to-thermal becomes trial 3 of regdb/visible-to-thermal. Every split must be there
once, from a model trained on it (or all from one that was trained on another data set), with the same options. A report
stands beside it; distances remain each model's own.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT.parent), str(ROOT)]

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import numpy as np

from assembly.titles import method_title
from utils.evaluation.evaluator import FIGURES, format_table
from utils.output import OutputError, require_files, write_or_keep
from utils.reporting.report import only_a_warning, write_report
from utils.reporting.results import ResultsError, read_results, setting

SPLITS = range(1, 11)


def read_split(path: Path) -> tuple[int, dict]:
    """The split that a results file is of, and its content."""
    saved = read_results(path)
    name = saved["data"]["name"]
    if name != "regdb":
        raise ResultsError(f"{path} holds figures of {name}, which has no splits to average; RegDB has")
    split = saved.get("config", {}).get("DATA", {}).get("SPLIT")
    if split is None:
        raise ResultsError(f"{path} does not say which split it is of; run test.py again")
    for result in saved["results"]:
        if not result["protocol"].startswith(f"regdb/{split}/"):
            raise ResultsError(f"{path}: a model of split {split} has figures of {result['protocol']}")
    return split, saved


def recipe(saved: dict) -> dict:
    """The options that the models of all splits must share."""
    config = {key: value for key, value in saved["config"].items() if key not in ("OUTPUT", "DEVICE", "SEED")}
    config["DATA"] = {k: v for k, v in config["DATA"].items() if k not in ("SPLIT", "ROOT", "WORKERS", "CACHE")}
    return config


def average(files: dict[int, tuple[Path, dict]]) -> dict:
    """One results file's content from those of all splits.

    raises   ResultsError where a split is missing, or two differ in options or protocols
    """
    missing = [split for split in SPLITS if split not in files]
    if missing:
        raise ResultsError(f"there are no results of split {', '.join(map(str, missing))}: train and test it first")
    first_path, first = files[1]
    by_split = {}
    for split, (path, saved) in sorted(files.items()):
        ours, wanted = recipe(saved), recipe(first)
        differing = [section for section in wanted if ours.get(section) != wanted[section]]
        if differing:
            raise ResultsError(f"{path} and {first_path} differ in their options of {', '.join(differing)}")
        by_split[split] = {
            (f"regdb/{result['protocol'].split('/', 2)[2]}", *setting(result)[1:]): result
            for result in saved["results"]
        }
        if by_split[split].keys() != by_split[1].keys():
            raise ResultsError(f"{path} and {first_path} hold different protocols or weightings")

    results = []
    for key, result in by_split[1].items():
        trials = [by_split[split][key]["trials"][0] for split in SPLITS]
        for trial in trials:
            trial.pop("queries", None)  # their rows count another split's images
        results.append(result | {
            "protocol": key[0],
            "trials": trials,
            "mean": {name: float(np.mean([trial[name] for trial in trials])) for name in FIGURES},
            "std": {name: float(np.std([trial[name] for trial in trials])) for name in FIGURES},
        })
    in_order = [files[split][1] for split in SPLITS]
    shared = {
        key: first[key] for key in ("parameters", "device", "versions")
        if key in first and all(saved.get(key) == first[key] for saved in in_order)
    }
    summaries = dict.fromkeys(saved["data_summary"] for saved in in_order if "data_summary" in saved)
    if summaries:
        shared["data_summary"] = "\n\n".join(summaries)
    fingerprints = "".join(saved["data"]["fingerprint"] for saved in in_order)
    return {
        "data": {"name": "regdb", "fingerprint": hashlib.sha256(fingerprints.encode()).hexdigest()},
        "checkpoint": [saved.get("checkpoint") for saved in in_order],
        "config": recipe(first),
        "results": results,
    } | shared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, help="results.json of each split")
    parser.add_argument("--output", type=Path, required=True, help="the results file of the mean")
    args = parser.parse_args()
    require_files(args.output, fix="choose another --output")
    files: dict[int, tuple[Path, dict]] = {}
    for path in args.results:
        split, saved = read_split(path)
        if split in files:
            raise ResultsError(f"{path} and {files[split][0]} are both of split {split}")
        files[split] = (path, saved)
    averaged = average(files)
    write_or_keep({args.output: json.dumps(averaged, indent=1) + "\n"})
    print(format_table(averaged["results"]))
    print(f"mean ± standard deviation over the models of {len(SPLITS)} splits: {args.output}")
    with only_a_warning("there is no new report"):
        *_, page = write_report(args.output, averaged, method_title(averaged["config"].get("MODEL", {})))
        print(f"report:  {page}")


if __name__ == "__main__":
    fail_clearly(main, (OutputError, ResultsError))
