"""Check and time everything on this machine's device: what holds, what doesn't, how fast.

    python scripts/check_device.py                       # CUDA if there is one: eight minutes at most
    python scripts/check_device.py --quick               # tiny networks, to see it run: minutes on two cores
    python scripts/check_device.py --only parity export  # some of the checks
    python scripts/check_device.py --methods cmfn agw --minutes 20

Ends with one table, which is written after each check, with all figures in check_device.json. The exit status is 1
where a check does not hold; the others still run. What takes longest: compiled steps (settings, the last part), then
training, resume and export, which start the programs, and parity, which makes each method's full network by a rule.
After --minutes the rest is left, and the last lines say how to go on. On a CPU all of it takes hours: use --quick.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which cuBLAS reads when it is first used

import torch

from assembly import device_checks, device_speed
from assembly.device_checks import Finding, Machine, failed
from assembly.errors import EXPECTED_ERRORS
from models.build import MODELS
from models.network import MethodError
from utils.arguments import duration
from utils.deadline import TimeUp, until
from utils.measure import device_name
from utils.output import OutputError, require_files, write_or_keep
from utils.training.run import library_versions, select_device

CHECKS = {  # in the order in which they run: what is wanted most comes first
    "parity": device_checks.parity,
    "waiting": device_checks.waiting,
    "half": device_checks.half,
    "deterministic": device_checks.deterministic,
    "steps": device_speed.steps,
    "profile": device_speed.profile,
    "evaluation": device_checks.evaluation,
    "resume": device_checks.resume,
    "training": device_checks.training,
    "export": device_checks.export,
    "data": device_speed.data,
    "embedding": device_speed.embedding,
    "evaluator": device_speed.evaluator,
    "search": device_speed.search,
    "hours": device_speed.hours,
    "cpu": device_checks.as_on_the_cpu,
    "settings": device_speed.settings,
}
LEFT = "not measured: the time of --minutes is up"


def findings_of(name: str, machine: Machine, deadline: float) -> list[Finding]:
    """Of one check, each printed when it is found; at the deadline the rest is left."""
    found = []
    try:
        with until(deadline):
            for finding in CHECKS[name](machine):
                print(f"{name:14s}{finding.what}: {finding.measured}", flush=True)
                found.append(finding)
    except TimeUp:
        found.append(Finding("the rest" if found else "all", LEFT))
    except Exception as error:  # noqa: BLE001 - whatever it is: its line says so, and the other checks go on
        found.append(failed(name, error))
        print(f"{name:14s}{found[-1].measured}", flush=True)
    return found


def why_left_out(methods: list[str]) -> dict[str, str]:
    """Methods that need a package which is not installed, and the reasons."""
    found = {}
    for method in methods:
        try:
            MODELS[method].check_installed()
        except MethodError as error:
            found[method] = str(error)
    return found


def table(found: dict[str, list[Finding]]) -> str:
    lines = [("check", "what", "measured", "bound", "")]
    words = {True: "holds", False: "FAILS", None: ""}
    lines += [
        (name, finding.what, finding.measured, finding.bound, words[finding.holds])
        for name, findings in found.items() for finding in findings
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def summary(found: dict[str, list[Finding]], checks: dict[str, dict]) -> str:
    """The table, how long each check took, how many findings hold, and how to go on with what was left."""
    judged = [finding.holds for findings in found.values() for finding in findings if finding.holds is not None]
    seconds = ", ".join(f"{name} {made['seconds']:.0f}" for name, made in checks.items())
    left = [name for name, findings in found.items() if any(finding.measured == LEFT for finding in findings)]
    how = [f"for what was left: --only {' '.join(left)}, or more --minutes"] if left else []
    return "\n".join([table(found), "", f"seconds: {seconds}", *how, f"{sum(judged)} of {len(judged)} hold"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto (CUDA if there is one), cpu, cuda or cuda:N")
    parser.add_argument("--quick", action="store_true", help="tiny networks, which only show that all works")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=[*CHECKS], metavar="CHECK",
                        help=f"some of {', '.join(CHECKS)}")
    parser.add_argument("--methods", nargs="+", choices=MODELS, metavar="METHOD",
                        help=f"some of {', '.join(MODELS)}, of the first of which more is measured; default: all, or "
                             "the first two with --quick")
    parser.add_argument("--minutes", type=duration, default=8, help="after which the rest is left")
    parser.add_argument("--output", type=Path, default=Path("runs/check_device"),
                        help="folder of check_device.json and .txt, written after each check")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    methods = args.methods or [*MODELS][:2 if args.quick else None]
    left_out = why_left_out(methods)
    methods = [method for method in methods if method not in left_out]
    if not methods:
        raise MethodError("\n".join(left_out.values()))
    report, page = (args.output / f"check_device.{kind}" for kind in ("json", "txt"))
    require_files(report, page, fix="choose another --output")
    device = select_device(args.device)
    about = {
        "device": device_name(device), "type": device.type, "quick": args.quick, "versions": library_versions(),
        "left_out": left_out, "cuda": torch.version.cuda, "threads": torch.get_num_threads(), "cores": os.cpu_count(),
    }
    print(f"{about['device']}, {device}; torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(*(f"{method} is left out: {reason}" for method, reason in left_out.items()), sep="\n", flush=True)
    found, checks, fails = {}, {}, 0
    with tempfile.TemporaryDirectory(prefix="check-device-", ignore_cleanup_errors=True) as folder:
        machine = Machine(device, args.quick, methods, Path(folder))
        for name in [name for name in CHECKS if name in args.only]:
            start = time.monotonic()
            found[name] = findings_of(name, machine, deadline)
            fails += sum(finding.holds is False for finding in found[name])
            checks[name] = {
                "seconds": time.monotonic() - start, "findings": [finding._asdict() for finding in found[name]],
            }
            text = summary(found, checks)
            write_or_keep({
                report: json.dumps({**about, "fails": fails, "checks": checks}, indent=1) + "\n", page: text + "\n",
            })
    print(f"\n{text}\n{report}, {page}")
    return int(bool(fails))


if __name__ == "__main__":
    fail_clearly(lambda: sys.exit(main()), (*EXPECTED_ERRORS, OutputError))
