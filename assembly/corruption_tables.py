"""Figures on corrupted images -> their tables (docs/robustness.md)."""

import csv
import io

import numpy as np

from assembly.experiment import METRICS, markdown_table
from data.corruptions import CORRUPTIONS, SEVERITIES
from utils.evaluation.evaluator import FIGURES
from utils.reporting.results import protocol_of, reranking, setting

NOTE = (
    "In percent. *Clean*: the same features without corruption. ±: the standard deviation over the repeats (of the "
    "population), each a mean over its protocol's trials. Order *resized*: corrupted at the network's size; *native*: "
    "at the file's own, before the resize.\n"
)


def summary(clean: list[dict], runs: list[dict]) -> list[dict]:
    """The repeats of each order, for every protocol and weighting.

    clean     results of `evaluate_protocol`
    runs      {"order", "repeat", "results"}, and others
    returns   {"protocol", "order", "flip", "weighting", "rerank", "trained_on" (as there), "repeats", "clean", "mean",
              "std"}, the last three with a fraction for each figure
    """
    found = []
    for order in dict.fromkeys(run["order"] for run in runs if "repeat" in run):
        repeats = [by_setting(run) for run in runs if run["order"] == order and "repeat" in run]
        for result in clean:
            means = [repeat[setting(result)]["mean"] for repeat in repeats]
            described = ("protocol", "flip", "weighting", "rerank", "trained_on")
            found.append({key: result[key] for key in described if key in result} | {
                "order": order, "repeats": len(repeats),
                "clean": result["mean"],
                "mean": {key: float(np.mean([mean[key] for mean in means])) for key in FIGURES},
                "std": {key: float(np.std([mean[key] for mean in means])) for key in FIGURES},
            })
    return found


def by_setting(run: dict) -> dict[tuple, dict]:
    return {setting(result): result for result in run["results"]}


def summary_rows(found: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of a `summary`."""
    header = ["Protocol", "Order", "Flip", "Weighting", "Re-ranking", "Repeats"]
    header += [f"{name} {what}" for name in METRICS.values() for what in ("clean", "corrupted")]
    lines = []
    for line in found:
        figures = []
        for key in METRICS:
            figures.append(f"{100 * line['clean'][key]:.2f}")
            spread = f" ± {100 * line['std'][key]:.2f}" if line["repeats"] > 1 else ""
            figures.append(f"{100 * line['mean'][key]:.2f}{spread}")
        lines.append([
            protocol_of(line), line["order"], "yes" if line["flip"] else "no", line["weighting"], reranking(line),
            str(line["repeats"]), *figures,
        ])
    return header, lines


def grids(runs: list[dict], result: dict, metric: str) -> dict[str, np.ndarray]:
    """By order, the figure of each corruption (20 rows) at each severity (5 columns); nan where it is not measured.

    result   whose protocol and weighting are meant
    """
    found: dict[str, np.ndarray] = {}
    for run in runs:
        if "corruption" in run:
            grid = found.setdefault(run["order"], np.full((len(CORRUPTIONS), len(SEVERITIES)), np.nan))
            place = [*CORRUPTIONS].index(run["corruption"]), SEVERITIES.index(run["severity"])
            grid[place] = by_setting(run)[setting(result)]["mean"][metric]
    return found


def grid_csv(runs: list[dict]) -> str:
    """A line for each order, corruption, severity, protocol and weighting; fractions."""
    file = io.StringIO()
    lines = csv.writer(file, lineterminator="\n")
    lines.writerow(["order", "corruption", "severity", "protocol", "flip", "weighting", "re-ranking", *FIGURES])
    for run in runs:
        for result in run["results"] if "corruption" in run else []:
            lines.writerow([
                run["order"], run["corruption"], run["severity"], protocol_of(result), result["flip"],
                result["weighting"], reranking(result), *(round(result["mean"][key], 6) for key in FIGURES),
            ])
    return file.getvalue()


def page(title: str, saved: dict) -> str:
    """The tables as Markdown: the repeats, and of the grid the mAP by the first weighting.

    saved   the content of corruptions.json
    """
    corruptions = saved["corruptions"]
    drawn = f"Seed {corruptions['seed']}, corruptions' version {corruptions['version']}.\n"
    parts = [f"# {title}: corrupted visible images of {saved['data']['name']}\n", NOTE, drawn]
    if saved["summary"]:
        parts.append(markdown_table(*summary_rows(saved["summary"])))
    for result in of_first_weighting(saved["results"]):
        for order, grid in grids(saved["runs"], result, "mAP").items():
            parts.append(f"## mAP by corruption and severity: {protocol_of(result)}, {order}\n")
            parts.append(f"Weighting {result['weighting']}; clean {100 * result['mean']['mAP']:.2f}.\n")
            lines = [[name, *cells(row)] for name, row in zip(CORRUPTIONS, grid)]
            lines.append(["mean", *cells(grid.mean(axis=0))])
            parts.append(markdown_table(["Corruption", *map(str, SEVERITIES), "mean"], lines))
    return "\n".join(parts)


def cells(row: np.ndarray) -> list[str]:
    return [f"{100 * value:.2f}" for value in (*row, row.mean())]


def of_first_weighting(results: list[dict]) -> list[dict]:
    return [result for result in results if result["weighting"] == results[0]["weighting"]]
