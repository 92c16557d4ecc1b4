"""Train and test one configuration, or keep what is there of it; what the scripts for tables share."""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.output import write_or_keep

ROOT = Path(__file__).resolve().parent.parent

METRICS = {"rank1": "Rank-1", "mAP": "mAP", "mINP": "mINP"}
EMBEDDED = "Figures of the embedded data set, which is not SYSU-MM01; they say nothing about a real one."


class ExperimentError(RuntimeError):
    """A training or an evaluation failed or was stopped; its own message stands above."""


def measure(config: str, folder: Path, options: dict[str, object]) -> dict:
    """The content of results.json of a training with these options over those of the yaml file.

    What is there and still valid is kept: train.py goes on with an unfinished training and leaves a complete one as it
    is, test.py keeps results of the same weights, data and options.

    raises   ExperimentError
    """
    overrides = [str(part) for pair in {**options, "OUTPUT": folder}.items() for part in pair]
    run("train.py", "--config", config, "--resume", *overrides)
    here = [str(part) for key in ("DATA.ROOT", "DEVICE") if key in options for part in (key, options[key])]
    run("test.py", "--checkpoint", str(folder), "--complete", "--reuse", *here)  # a copied run names another machine's
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def run(program: str, *arguments: str) -> None:
    command = [sys.executable, str(ROOT / program), *arguments]
    print("$", "python", program, *arguments, flush=True)
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise ExperimentError(
            f"{program} ended with status {done.returncode}, for the reason above; once that is fixed, this script "
            "goes on from there"
        )


def options_of(words: Sequence[str]) -> dict[str, str]:
    """KEY VALUE pairs of a command line."""
    if len(words) % 2:
        raise ExperimentError(f"options come in pairs, KEY VALUE; {words[-1]!r} stands alone")
    return dict(zip(words[::2], words[1::2]))


def seeds_of(text: str) -> list[int]:
    """Numbers such as 0,1,2.

    raises   argparse.ArgumentTypeError
    """
    seeds = text.split(",")
    if not all(map(str.isdecimal, seeds)):
        raise argparse.ArgumentTypeError(f"{text} is no list of seeds, such as 0,1,2")
    return [*map(int, seeds)]


def percent(values: Sequence[float]) -> str:
    """Fractions as "mean ± standard deviation" in percent; of one value there is no deviation."""
    values = [100 * value for value in values]
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.2f}"


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def latex_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A booktabs tabular of the same cells."""
    def row(cells: Sequence[str]) -> str:
        return " & ".join(cell.replace(" ± ", r" $\pm$ ").replace("_", r"\_") for cell in cells) + r" \\"

    columns = "l" + "c" * (len(header) - 1)
    return "\n".join([
        rf"\begin{{tabular}}{{{columns}}}", r"\toprule", row(header), r"\midrule", *map(row, lines), r"\bottomrule",
        r"\end{tabular}", "",
    ])


def write_table(
    path: Path, note: str, header: Sequence[str], lines: Sequence[Sequence[str]],
    others: Mapping[Path, str | bytes] = {},
) -> str:
    """Write the table under its note as `path`.md and, the note as comments, `path`.tex; returns the former's text.

    others   contents of further files, which are written with it
    raises   OutputError, after all were tried
    """
    text = f"{note}\n{markdown_table(header, lines)}"
    comment = "".join(f"% {line}".rstrip() + "\n" for line in note.splitlines())
    latex = comment + latex_table(header, lines)
    write_or_keep({path.with_suffix(".md"): text, path.with_suffix(".tex"): latex, **others})
    return text
