"""The ablation of the method (docs/method.md section 10): train and test its variants, write the table.

    python scripts/ablation.py --config configs/sysu_cmfn.yaml --seeds 0,1,2 DATA.ROOT datasets/SYSU-MM01
    python scripts/ablation.py --config configs/quickstart.yaml --variants full,aligned   # some of them

Each variant and seed is a run in a folder of its own; run the script again after a stop, and what is there is kept.
The table is written as ablation.md and ablation.tex: mean ± standard deviation over the seeds (of the sample, n - 1).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from experiment import (  # noqa: E402
    ExperimentError, latex_table, markdown_table, measure, options_of, percent, seeds_of,
)

FULL = {
    "MODEL.HCE.ENABLED": True, "MODEL.MBUE.ENABLED": True, "MODEL.CSC_CMA.ENABLED": True,
    "MODEL.MBUE.TOKEN_LAYOUT": "reference",
}
VARIANTS = {
    "backbone": ("Backbone only", {
        "MODEL.HCE.ENABLED": False, "MODEL.MBUE.ENABLED": False, "MODEL.CSC_CMA.ENABLED": False,
    }),
    "hce": ("+ HCE", {"MODEL.MBUE.ENABLED": False, "MODEL.CSC_CMA.ENABLED": False}),
    "mbue": ("+ MBUE", {"MODEL.CSC_CMA.ENABLED": False}),
    "full": ("+ CSC-CMA (full)", {}),
    "aligned": ("full, tokens aligned", {"MODEL.MBUE.TOKEN_LAYOUT": "aligned"}),
}
METRICS = {"rank1": "Rank-1", "mAP": "mAP", "mINP": "mINP"}


def table(measured: dict[str, list[dict]], weighting: str) -> tuple[list[str], list[list[str]]]:
    """Header and lines.

    measured   the contents of results.json of each variant, one for each seed
    """
    first = next(iter(measured.values()))[0]
    protocols = [r["protocol"] for r in first["results"] if r["weighting"] == weighting]
    if not protocols:
        raise ExperimentError(f"there are no figures with weighting {weighting!r}")
    header = ["Variant", "Parameters", "Seeds"] + [f"{p} {name}" for p in protocols for name in METRICS.values()]
    lines = []
    for variant, runs in measured.items():
        means = [{r["protocol"]: r["mean"] for r in run["results"] if r["weighting"] == weighting} for run in runs]
        figures = [percent([mean[p][metric] for mean in means]) for p in protocols for metric in METRICS]
        lines.append([VARIANTS[variant][0], f"{runs[0]['parameters'] / 1e6:.2f} M", str(len(runs)), *figures])
    return header, lines


def variants_of(text: str) -> list[str]:
    unknown = set(text.split(",")) - set(VARIANTS)
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown.pop()!r} is no variant; there are {', '.join(VARIANTS)}")
    return text.split(",")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a yaml file of configs/")
    parser.add_argument("--seeds", type=seeds_of, default=[0, 1, 2], help="such as 0,1,2, the default")
    parser.add_argument("--variants", type=variants_of, default=list(VARIANTS), help=f"of {','.join(VARIANTS)}")
    parser.add_argument("--weighting", default="equal", help="of pooled and neck features")
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"))
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the file's, for all variants")
    args = parser.parse_intermixed_args()

    shared = options_of(args.overrides)
    measured: dict[str, list[dict]] = {}
    for seed in args.seeds:
        for variant in args.variants:
            options = {**shared, **FULL, **VARIANTS[variant][1], "SEED": seed}
            results = measure(args.config, args.output / variant / f"seed-{seed}", options)
            measured.setdefault(variant, []).append(results)

    header, lines = table(measured, args.weighting)
    marked = ""
    if results["data"]["name"] == "synthetic":
        marked = "Figures of the embedded data set; they say nothing about a real one.\n"
    note = f"{marked}In percent, mean ± standard deviation over the seeds; weighting {args.weighting}.\n"
    (args.output / "ablation.md").write_text(f"{note}\n{markdown_table(header, lines)}", encoding="utf-8")
    comment = "".join(f"% {line}\n" for line in note.splitlines())
    (args.output / "ablation.tex").write_text(comment + latex_table(header, lines), encoding="utf-8")
    print(f"\n{note}\n{markdown_table(header, lines)}\nwritten: {args.output / 'ablation.md'}, ablation.tex")


if __name__ == "__main__":
    try:
        main()
    except ExperimentError as error:
        sys.exit(f"error: {error}")
