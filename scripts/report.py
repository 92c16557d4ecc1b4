"""Draw a run's pictures and report.html again, from what it has stored; nothing is computed anew.

    python scripts/report.py runs/sysu_cmfn                       # curves.png, cmc.png, distances.png, report.html
    python scripts/report.py runs/sysu_cmfn/results-256.json      # of a results file of another name
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT.parent), str(ROOT)]

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

from assembly.titles import method_title
from utils.output import OutputError, require_folder
from utils.reporting.report import ReportError, write_curves, write_report
from utils.reporting.results import ResultsError, read_results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run, or a results file of test.py")
    run = parser.parse_args().run
    results, curves = run, None
    if run.exists():
        require_folder(run if run.is_dir() else run.parent, fix="copy the run to where you can write")
    if run.is_dir():
        results, curves = run / "results.json", write_curves(run)
        if curves is None and not results.exists():
            raise ReportError(f"{run} has neither an epoch in metrics.jsonl nor a results.json; train or test there")
    written = [curves] if curves else []
    if results.exists() or results == run:
        saved = read_results(results)
        written += write_report(results, saved, method_title(saved.get("config", {}).get("MODEL", {})))
    else:
        print(f"{run} has no results.json yet: python test.py --checkpoint {run}")
    print(*written, sep="\n")


if __name__ == "__main__":
    fail_clearly(main, (OutputError, ReportError, ResultsError))
