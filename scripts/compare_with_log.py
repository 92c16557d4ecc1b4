"""A run on real data beside its method's authors' own log: the first losses, and Rank-1 and mAP epoch by epoch.

    python train.py --config configs/sysu_mscmnet.yaml OUTPUT runs/sysu SOLVER.CHOOSE_BEST_ON_TEST_DATA true \\
        SOLVER.EVAL_PERIOD 5                                  # test figures on the way, which inflate best.pth's
    python scripts/compare_with_log.py runs/sysu              # at any time, from the first update on
    python scripts/compare_with_log.py --list                 # the logs that there are

A broken set-up may show after minutes: other losses at the first update point to other data, weights or batches. Test
figures are those of metrics.jsonl, where the training looked at test data, and of results.json. The logs are in
scripts/published/logs.
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import yaml

from assembly.titles import method_title
from common.words import how_many
from configs.load import ConfigError, load_config
from utils.reporting.results import ResultsError, read_results
from utils.training.run import Metrics

LOGS = ROOT / "scripts" / "published" / "logs"
# Rules of thumb, beyond which a line is marked; no run on real data has tried them.
LOSS_WITHIN = 0.1    # of the authors' loss at the first update
MEAN_WITHIN = 0.5    # of their mean loss in an epoch
FIGURE_WITHIN = 5.0  # percent points
FIRST = re.compile(r"first update: (.*)")


class LogError(ValueError):
    """There is nothing to compare: the message says what is missing."""


def read_log(method: str, data: str) -> tuple[Path, dict]:
    """
    raises   LogError
    """
    path = LOGS / f"{data}_{method}.yaml"
    if not path.exists():
        raise LogError(f"there is no authors' log of {method} on {data}; there are {', '.join(known())}")
    return path, yaml.safe_load(path.read_text(encoding="utf-8"))


def known() -> list[str]:
    return [" on ".join(reversed(file.stem.split("_"))) for file in sorted(LOGS.glob("*.yaml"))]


def first_losses(run: Path) -> dict[str, float]:
    """The weighted terms of the training's first update, from train.log; {} where it isn't done yet."""
    file = run / "train.log"
    found = FIRST.search(file.read_text(encoding="utf-8", errors="replace")) if file.exists() else None
    words = found[1].split() if found else []
    return {name: float(value) for name, value in zip(words[::2], words[1::2])}


def test_figures(run: Path, on_test_data: bool, protocol: str) -> dict[int, list[float]]:
    """By epoch, from 0: Rank-1 and mAP on the test set, in percent."""
    found = {}
    if on_test_data:
        for line in Metrics.read(run):
            if "validation_rank1" in line:
                found[line["epoch"]] = [100 * line["validation_rank1"], 100 * line["validation_mAP"]]
    file = run / "results.json"
    if file.exists():
        saved = read_results(file)
        epochs = saved.get("checkpoint", {}).get("epochs")
        first = [result for result in saved["results"] if result["protocol"] == protocol and not result["rerank"]][:1]
        if epochs and first:
            found[epochs - 1] = [100 * first[0]["trials"][0][name] for name in ("rank1", "mAP")]
    return found


def rows_of(log: dict, run: Path, on_test_data: bool) -> list[tuple[str, float, float | None, float]]:
    """(what, theirs, ours or None, how far apart they may be) for everything in the log."""
    rows, ours = [], first_losses(run)
    for name, loss in log["first"].items():
        rows.append((f"first update: {name}", loss, ours.get(name), LOSS_WITHIN * loss))
    means = {line["epoch"]: line for line in Metrics.read(run)}
    for epoch, terms in log.get("means", {}).items():
        for name, loss in terms.items():
            rows.append((f"epoch {epoch}: {name}", loss, means.get(epoch, {}).get(name), MEAN_WITHIN * loss))
    figures = test_figures(run, on_test_data, log["protocol"])
    for epoch, pair in log["test"].items():
        for name, theirs, mine in zip(("Rank-1", "mAP"), pair, figures.get(epoch, (None, None))):
            rows.append((f"epoch {epoch}: {name}", theirs, mine, FIGURE_WITHIN))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="the folder of a run of train.py")
    parser.add_argument("--list", action="store_true", help="print which logs there are, and end")
    args = parser.parse_args()
    if args.list:
        print(*known(), sep="\n")
        return
    if args.run is None:
        parser.error("the following arguments are required: run")
    if not (args.run / "config.yaml").exists():
        raise LogError(f"{args.run} is no folder of a run: there is no config.yaml, which train.py writes")
    cfg = load_config(args.run / "config.yaml")
    path, log = read_log(cfg.MODEL.NAME, cfg.DATA.NAME)
    rows = rows_of(log, args.run, cfg.SOLVER.CHOOSE_BEST_ON_TEST_DATA)
    if cfg.SOLVER.EPOCHS != log["epochs"]:
        print(f"the run has {how_many(cfg.SOLVER.EPOCHS, 'epoch')}, the log {log['epochs']}: their rates differ")
    print(f"{method_title(cfg.MODEL)} on {cfg.DATA.NAME}, beside {path.relative_to(ROOT)}")
    print(f"{'':34s}{'authors':>9s}{'here':>9s}{'difference':>12s}")
    far = []
    for what, theirs, mine, within in rows:
        if mine is None:
            print(f"{what:34s}{theirs:9.4g}{'-':>9s}")
            continue
        apart = abs(mine - theirs) > within
        far += [what] * apart
        print(f"{what:34s}{theirs:9.4g}{mine:9.4g}{mine - theirs:+12.4g}{'  far' * apart}")
    compared = sum(mine is not None for _, _, mine, _ in rows)
    if not compared:
        print("nothing to compare yet: the first update is not done")
    elif far:
        print(f"{len(far)} of {compared} are far from the authors': {', '.join(far)}")
    else:
        print(f"all {compared} that can be compared are near the authors'")


if __name__ == "__main__":
    fail_clearly(main, (ConfigError, LogError, ResultsError))
