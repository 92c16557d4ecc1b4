"""Fill a model card from a run's folder: what the network is, its data, recipe and figures, and what it is not for.

    python scripts/model_card.py runs/sysu_cmfn                     # runs/sysu_cmfn/model_card.md
    python scripts/model_card.py runs/sysu_cmfn --template lab.md --output card.md

In the template (docs/model_card.md), a word after a dollar sign is filled in, and two dollar signs make one. The card
is written anew each time, so additions belong in a template of one's own. Figures are those of the folder's
results.json, if that is of its checkpoint.
"""

import argparse
import re
import sys
from pathlib import Path
from shlex import quote
from string import Template

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT.parent), str(ROOT)]

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import yaml
from yacs.config import CfgNode

from assembly.errors import EXPECTED_ERRORS
from assembly.experiment import markdown_table
from assembly.recipe import weightings_of
from assembly.results import CHANGES_NO_FIGURE
from assembly.titles import method_title
from assembly.trained import find_checkpoint, load_run
from common.words import how_many
from configs.defaults import get_defaults
from configs.load import flatten, from_dump
from data.dataset import has_splits
from utils.evaluation.evaluator import table_rows
from utils.output import OutputError, require_files, write_or_keep
from utils.reporting.report import ReportError, notes
from utils.reporting.results import ResultsError, read_results
from utils.training.checkpoint import read_own_checkpoint, sha256
from utils.training.run import Metrics

TEMPLATE = ROOT.parent / "docs" / "model_card.md"
LEFT_OUT = (*CHANGES_NO_FIGURE, "DATA.CACHE", "SOLVER.LOG_PERIOD")  # options of the machine, not of the recipe


class CardError(ValueError):
    """There is no run to describe, or the template cannot be filled; the message says why, and what to do."""


def card_values(run: Path, template: Path = TEMPLATE) -> tuple[dict[str, str], list[str]]:
    """What the template's placeholders stand for, and what is wrong with the run, its figures or the template.

    raises   CardError, ResultsError, CheckpointError
    """
    file = run / "results.json"
    results = read_results(file) if file.exists() else {}
    tested = tested_sha256(results)
    path = checkpoint_of(run, tested)
    model, cfg, checkpoint = load_run(path, [], complete=False)
    saved, epochs, warnings = read_own_checkpoint(path), Metrics.read(run), []
    logged = run / "train.log"
    log = logged.read_text(encoding="utf-8", errors="replace") if logged.exists() else ""

    done = max([saved["epoch"], *(line["epoch"] + 1 for line in epochs)])  # the best epoch needn't be the last one
    if done < cfg.SOLVER.EPOCHS:
        resume = f"python train.py --config {quote(str(run))}/config.yaml --resume OUTPUT {quote(str(run))}"
        warnings.append(
            f"The training is unfinished: {done} of {how_many(cfg.SOLVER.EPOCHS, 'epoch')}. `{resume}` goes on."
        )
    test = f"python test.py --checkpoint {quote(str(path))} --output {quote(str(file))}"
    if tested == checkpoint["sha256"]:
        header, *rows = table_rows(results["results"])
        figures = markdown_table(header, rows) + "".join(f"\n**{note}**\n" for note in notes(results))
        changed = changes(cfg, from_dump(yaml.safe_dump(results["config"])))
        test += "".join(f" {key} {quote(str(value))}" for key, _, value in changed)
        if changed:
            warnings.append(f"Tested with other options than trained with: {', '.join(key for key, *_ in changed)}.")
        if results["data"]["fingerprint"] != saved["data"]:
            warnings.append("Tested on other data than trained on, or on another copy: their fingerprints differ.")
    else:
        found = f"is of another checkpoint ({tested or 'of random weights, or several'})" if results else "isn't there"
        figures = f"There are no figures of this checkpoint: `{file}` {found}. `{test}` makes it."
        warnings.append(figures)
        results = {}

    if f"| `{cfg.DATA.NAME}`" not in read(template):
        warnings.append(
            f"The table of data sets has no row for {cfg.DATA.NAME}: write who is pictured, what they agreed to and "
            "the terms into a copy of `docs/model_card.md`, and name that by `--template`."
        )

    summary, weighting = results.get("data_summary", ""), weightings_of(model, cfg)[0]
    numbers = cfg.EMBEDDING.DIM or int(model.column_scale(weighting).count_nonzero())
    people = re.search(r"^test +both +(\d+)", count_table(summary, log), re.MULTILINE)
    judge = "TEST data" if cfg.SOLVER.CHOOSE_BEST_ON_TEST_DATA else "people held out"
    options = [[f"`{key}`", f"`{before}`", f"`{value}`"] for key, before, value in changes(get_defaults(), cfg)]
    values = {
        "method": method_title(cfg.MODEL),
        "data": cfg.DATA.NAME + (f", split {cfg.DATA.SPLIT}" if has_splits(cfg.DATA.NAME) else ""),
        "warnings": "\n".join(f"> **{warning}**\n" for warning in warnings),
        "network": model.layout(cfg.MODEL),
        "parameters": f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        "embedding": (
            f"{how_many(numbers, 'number', form=',')}, weighting `{weighting}`"
            + ", mirrored image added" * cfg.TEST.FLIP
        ),
        "size": f"{cfg.DATA.HEIGHT} × {cfg.DATA.WIDTH}",
        "run": quote(str(run)),
        "checkpoint": quote(str(path)),
        "sha256": checkpoint["sha256"],
        "test_command": test,
        "counts": count_table(log, summary) or "unknown: neither train.log nor results.json tells them",
        "identities": str(len(saved["identities"])),
        "fingerprint": saved["data"],
        "starting_weights": {"none": "random", "imagenet": "ImageNet"}.get(cfg.MODEL.PRETRAINED, cfg.MODEL.PRETRAINED),
        "epochs": f"{saved['epoch']} of {cfg.SOLVER.EPOCHS}" + f", the best on {judge}" * (path.name == "best.pth"),
        "last_epoch": listed(epochs[-1], ".4g") if epochs else "unknown",
        "seed": str(cfg.SEED),
        "precision": cfg.SOLVER.PRECISION,
        "devices": ", then ".join(dict.fromkeys(re.findall(r"updates? an epoch, (.+)", log))) or "unknown",
        "versions": listed(results.get("versions", {})) or "unknown",
        "options": markdown_table(["option", "default", "here"], options) if options else "None.",
        "figures": figures,
        "chance": f"{100 / int(people[1]):.2f} % (one in {people[1]} test people)" if people else "unknown",
    }
    return values, warnings


def checkpoint_of(run: Path, tested: str | None) -> Path:
    """The run's checkpoint with the SHA-256 of what was tested; if there is none, the one that test.py would take.

    raises   CardError
    """
    if not run.is_dir():
        raise CardError(f"there is no folder {run}; name that of a run, the OUTPUT of train.py")
    files = [file for file in (run / "best.pth", run / "last.pth") if file.exists()]
    if not files:
        raise CardError(f"{run} has neither best.pth nor last.pth; name the folder of a run, the OUTPUT of train.py")
    return next((file for file in files if tested and sha256(file) == tested), find_checkpoint(run))


def tested_sha256(results: dict) -> str | None:
    """Of the checkpoint that the results are of; None of random weights, or of a mean over several checkpoints."""
    checkpoint = results.get("checkpoint")
    return checkpoint.get("sha256") if isinstance(checkpoint, dict) else None


def changes(base: CfgNode, cfg: CfgNode) -> list[tuple[str, object, object]]:
    """(option, its value in `base`, its value in `cfg`) where these differ, but for LEFT_OUT."""
    before = dict(flatten(base))
    differing = [(key, before[key], value) for key, value in flatten(cfg) if value != before[key]]
    return [change for change in differing if not change[0].startswith(LEFT_OUT)]


def count_table(*texts: str) -> str:
    """The table of identities, images and cameras (`Benchmark.summary`) in the first text that has one, or ""."""
    found = (re.findall(r"^split +modality.*(?:\n(?:train|test|warning).*)+", text, re.MULTILINE) for text in texts)
    return next((tables[-1] for tables in found if tables), "")  # each resume logs it again


def listed(pairs: dict, form: str = "") -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in pairs.items())


def read(template: Path) -> str:
    """
    raises   CardError
    """
    try:
        return template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(f"the template {template} cannot be read ({error}); name another one") from None


def fill(template: Path, values: dict[str, str]) -> str:
    """
    raises   CardError
    """
    try:
        return Template(read(template)).substitute(values)
    except KeyError as error:
        known = ", ".join(sorted(values))
        raise CardError(f"{template} has the unknown placeholder ${error.args[0]}; known are {known}") from None
    except ValueError as error:
        raise CardError(f"{template}: {error}; write a dollar sign that is none of a placeholder twice") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("--output", type=Path, help="the card; default: model_card.md in the run's folder")
    parser.add_argument("--template", type=Path, default=TEMPLATE, help="default: docs/model_card.md")
    args = parser.parse_args()
    output = args.output or args.run / "model_card.md"
    if args.run.is_dir():  # else it is no run, which is said below
        if not output.parent.is_dir():
            raise ReportError(f"{output} cannot be written (there is no folder {output.parent}); make it first")
        require_files(output, fix="choose another --output")
    values, warnings = card_values(args.run, args.template)
    for warning in warnings:
        print(f"warning: {warning}")
    write_or_keep({output: fill(args.template, values)})
    print(f"card: {output}")


if __name__ == "__main__":
    fail_clearly(main, (*EXPECTED_ERRORS, CardError, OutputError, ReportError, ResultsError))
