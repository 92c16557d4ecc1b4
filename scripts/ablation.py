"""The ablation of a method (CMFN's: docs/method.md section 10): train and test its variants, write the table.

    python scripts/ablation.py --config configs/sysu_cmfn.yaml --seeds 0,1,2 DATA.ROOT datasets/SYSU-MM01
    python scripts/ablation.py --config configs/quickstart_cmfn.yaml --variants full,aligned   # some of them

Each variant and seed is a run in a folder of its own; run the script again after a stop, and what is there is kept.
The table is written as ablation.md and ablation.tex: mean ± standard deviation over the seeds (of the sample, n - 1).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

from assembly.experiment import (
    EMBEDDED,
    METRICS,
    ExperimentError,
    measure,
    options_of,
    percent,
    seeds_of,
    write_table,
)
from configs.load import ConfigError, load_config
from models.build import class_of
from utils.output import OutputError, require_files
from utils.reporting.results import rerankings

# By MODEL.NAME: variant -> (line of the table, options over those of the configuration). Each part adds to the line
# before, up to the full method; after it stand readings in which the authors' code and their paper part.
CMFN = {
    "MODEL.HCE.ENABLED": True, "MODEL.MBUE.ENABLED": True, "MODEL.CSC_CMA.ENABLED": True,
    "MODEL.MBUE.TOKEN_LAYOUT": "reference",
}
AGW = {"MODEL.NON_LOCAL": "one", "MODEL.POOL": "gem", "LOSS.TRIPLET": "weighted"}
CAJ = {
    "DATA.EXCHANGE": "channels", "LOSS.TRIPLET": "squared_difference", "LOSS.DIVERGENCE_WEIGHT": 0.0,
    "DATA.ERASING_FILL": [0.4914, 0.4822, 0.4465],
}
MPANET = {
    "LOSS.MPANET.SEPARATION_WEIGHT": 0.5, "LOSS.MPANET.MODALITY_WEIGHT": 1.0, "LOSS.MPANET.MUTUAL_WEIGHT": 2.5,
}
PMT = {
    "LOSS.PMT.DCL_WEIGHT": 0.5, "LOSS.PMT.MSEL_WEIGHT": 0.5, "MODEL.PMT.NORM_EPS": 1e-5,
}
MSCMNET = {
    "MODEL.MSCMNET.STEMS": 2, "MODEL.MSCMNET.CORRELATION": True, "LOSS.MSCMNET.VIEW_WEIGHT": 0.0,
}  # the weight of the centres, and whether blocks add to the trunk, are the configuration's
MCJA = {
    "DATA.ONE_OF": ["hue", "weighted_grey", "channel_cutmix", "spectrum_jitter"], "LOSS.MCJA.RETRIEVAL_WEIGHT": 1.0,
}  # the number of masks is the configuration's
DNS = {
    "MODEL.DNS.HSS": True, "MODEL.DNS.CSS": True, "MODEL.DNS.NECK_BIAS": True, "MODEL.DNS.STAGE3_LR_FACTOR": 0.2,
    "MODEL.DNS.STAGE4_LR_FACTOR": 0.25, "LOSS.CIRCLE_MARGIN": 0.45, "LOSS.DNS.ALIGNMENT_WEIGHT": 0.2,
    "LOSS.DNS.DISTILLATION_WEIGHT": 1.0, "LOSS.DNS.CIRCLE_MEAN": "twice", "SOLVER.RATE_BY": "update_before",
}
SEFEL = {"LOSS.SEFEL.BALANCE": "larger"}  # the weights, and the share of mixed batches, are the configuration's
MCLNET = {
    "LOSS.MCLNET.CONFUSION_WEIGHT": 1.0, "LOSS.MCLNET.IDENTITY_WEIGHT": 0.0005,
}  # the weight of the cameras' centres, and how often an identity's nearest row counts, are the configuration's
DEEN = {"MODEL.MFA.POSITIONS": "halves"}  # the weights are the configuration's
VARIANTS: dict[str, dict[str, tuple[str, dict]]] = {
    "cmfn": {
        "backbone": ("Backbone only", CMFN | {
            "MODEL.HCE.ENABLED": False, "MODEL.MBUE.ENABLED": False, "MODEL.CSC_CMA.ENABLED": False,
        }),
        "hce": ("+ HCE", CMFN | {"MODEL.MBUE.ENABLED": False, "MODEL.CSC_CMA.ENABLED": False}),
        "mbue": ("+ MBUE", CMFN | {"MODEL.CSC_CMA.ENABLED": False}),
        "full": ("+ CSC-CMA (full)", CMFN),
        "aligned": ("full, tokens aligned", CMFN | {"MODEL.MBUE.TOKEN_LAYOUT": "aligned"}),
    },
    "agw": {
        "backbone": ("Two-stream baseline", AGW | {
            "MODEL.NON_LOCAL": "none", "MODEL.POOL": "average", "LOSS.TRIPLET": "batch_hard",
        }),
        "non_local": ("+ non-local blocks", AGW | {"MODEL.POOL": "average", "LOSS.TRIPLET": "batch_hard"}),
        "gem": ("+ GeM", AGW | {"LOSS.TRIPLET": "batch_hard"}),
        "full": ("+ weighted triplet (full)", AGW),
        "half": ("full, half of the channels in non-local blocks", AGW | {"MODEL.NON_LOCAL": "half"}),
        "learned": ("full, GeM's p learned", AGW | {"MODEL.POOL": "gem_learned"}),
        "softmax": ("full, negatives by softmax", AGW | {"LOSS.TRIPLET": "weighted_softmax"}),
    },
    "caj": {
        "backbone": ("AGW with erasing", CAJ | {"DATA.EXCHANGE": "none", "LOSS.TRIPLET": "weighted"}),
        "exchange": ("+ channel exchange", CAJ | {"LOSS.TRIPLET": "weighted"}),
        "full": ("+ squared difference (full)", CAJ),
        "grey": ("full, grey among the exchanges", CAJ | {"DATA.EXCHANGE": "channels_and_grey"}),
        "fill": ("full, erased to ImageNet's means", CAJ | {"DATA.ERASING_FILL": [0.485, 0.456, 0.406]}),
        "divergence": ("full, divergence of logits", CAJ | {"LOSS.DIVERGENCE_WEIGHT": 1.0}),
    },
    "mpanet": {
        "backbone": ("ID and centre cluster", MPANET | {
            "LOSS.MPANET.SEPARATION_WEIGHT": 0.0, "LOSS.MPANET.MODALITY_WEIGHT": 0.0, "LOSS.MPANET.MUTUAL_WEIGHT": 0.0,
        }),
        "separation": ("+ masks apart", MPANET | {
            "LOSS.MPANET.MODALITY_WEIGHT": 0.0, "LOSS.MPANET.MUTUAL_WEIGHT": 0.0,
        }),
        "modality": ("+ each modality's ID", MPANET | {"LOSS.MPANET.MUTUAL_WEIGHT": 0.0}),
        "full": ("+ mutual mean learning (full)", MPANET),
        "half": ("full, each modality's ID at half weight", MPANET | {"LOSS.MPANET.MODALITY_WEIGHT": 0.5}),
    },
    "pmt": {
        "backbone": ("ID and triplet", PMT | {
            "LOSS.PMT.PROGRESSIVE_EPOCHS": 0, "DATA.GREY": 0.0, "LOSS.PMT.DCL_WEIGHT": 0.0, "LOSS.PMT.MSEL_WEIGHT": 0.0,
        }),
        "progressive": ("+ progressive epochs", PMT | {"LOSS.PMT.DCL_WEIGHT": 0.0, "LOSS.PMT.MSEL_WEIGHT": 0.0}),
        "msel": ("+ MSEL", PMT | {"LOSS.PMT.DCL_WEIGHT": 0.0}),
        "full": ("+ DCL (full)", PMT),
        "once": ("full, images resized once", PMT | {"DATA.READ_SIZE": [0, 0]}),
        "eps": ("full, layer norms' eps of ImageNet's weights", PMT | {"MODEL.PMT.NORM_EPS": 1e-6}),
    },
    "mscmnet": {
        "backbone": ("One stem for each modality, ID", MSCMNET | {
            "MODEL.MSCMNET.STEMS": 1, "MODEL.MSCMNET.CORRELATION": False, "LOSS.MSCMNET.CENTER_WEIGHT": 0.0,
        }),
        "qfe": ("+ four stems (QFE)", MSCMNET | {
            "MODEL.MSCMNET.CORRELATION": False, "LOSS.MSCMNET.CENTER_WEIGHT": 0.0,
        }),
        "mimb": ("+ correlation blocks (MIMB)", MSCMNET | {"LOSS.MSCMNET.CENTER_WEIGHT": 0.0}),
        "full": ("+ quadruple centre triplet (full)", MSCMNET),
        "residual": ("full, correlation blocks add to the trunk", MSCMNET | {"MODEL.MSCMNET.RESIDUAL": True}),
        "view": ("full, each view near its own centre", MSCMNET | {"LOSS.MSCMNET.VIEW_WEIGHT": 0.5}),
    },
    "mcja": {
        "backbone": ("ID", MCJA | {"MODEL.MCJA.MASKS": 0, "DATA.ONE_OF": [], "LOSS.MCJA.RETRIEVAL_WEIGHT": 0.0}),
        "mda": ("+ MDA", MCJA | {"DATA.ONE_OF": [], "LOSS.MCJA.RETRIEVAL_WEIGHT": 0.0}),
        "augmentation": ("+ one of four augmentations", MCJA | {"LOSS.MCJA.RETRIEVAL_WEIGHT": 0.0}),
        "full": ("+ cross-modality retrieval (full)", MCJA),
    },
    "dns": {
        "backbone": ("ID and circle loss", DNS | {
            "MODEL.DNS.HSS": False, "MODEL.DNS.CSS": False, "LOSS.DNS.ALIGNMENT_WEIGHT": 0.0,
            "LOSS.DNS.DISTILLATION_WEIGHT": 0.0,
        }),
        "hss": ("+ HSS", DNS | {
            "MODEL.DNS.CSS": False, "LOSS.DNS.ALIGNMENT_WEIGHT": 0.0, "LOSS.DNS.DISTILLATION_WEIGHT": 0.0,
        }),
        "css": ("+ CSS and domain alignment", DNS | {"LOSS.DNS.DISTILLATION_WEIGHT": 0.0}),
        "full": ("+ domain distillation (full)", DNS),
        "rates": ("full, shared stages at a tenth of the rate", DNS | {
            "MODEL.DNS.STAGE3_LR_FACTOR": 0.1, "MODEL.DNS.STAGE4_LR_FACTOR": 0.1,
        }),
        "margin": ("full, circle loss with margin 0.5", DNS | {"LOSS.CIRCLE_MARGIN": 0.5}),
        "once": ("full, circle loss a mean over rows", DNS | {"LOSS.DNS.CIRCLE_MEAN": "once"}),
        "bias": ("full, the neck's bias not trained", DNS | {"MODEL.DNS.NECK_BIAS": False}),
        "update": ("full, each update at its own rate", DNS | {"SOLVER.RATE_BY": "update"}),
    },
    "sefel": {
        "backbone": ("ID and triplet", SEFEL | {
            "LOSS.SEFEL.MUTUAL_WEIGHT": 0.0, "LOSS.SEFEL.ERASED_WEIGHT": 0.0, "LOSS.SEFEL.ESTIMATE_WEIGHT": 0.0,
            "LOSS.SEFEL.ORTHOGONAL_WEIGHT": 0.0,
        }),
        "mutual": ("+ mutual learning of the modalities", SEFEL | {
            "LOSS.SEFEL.ERASED_WEIGHT": 0.0, "LOSS.SEFEL.ESTIMATE_WEIGHT": 0.0, "LOSS.SEFEL.ORTHOGONAL_WEIGHT": 0.0,
        }),
        "shape": ("+ the shape's estimate", SEFEL | {
            "LOSS.SEFEL.ERASED_WEIGHT": 0.0, "LOSS.SEFEL.ORTHOGONAL_WEIGHT": 0.0,
        }),
        "erased": ("+ shape-erased features", SEFEL | {"LOSS.SEFEL.ORTHOGONAL_WEIGHT": 0.0}),
        "full": ("+ orthogonality (full)", SEFEL),
        "smaller": ("full, the smaller gradient has the larger weight", SEFEL | {"LOSS.SEFEL.BALANCE": "smaller"}),
        "even": ("full, both weights 1", SEFEL | {"LOSS.SEFEL.BALANCE": "none"}),
    },
    "mclnet": {
        "backbone": ("AGW with erasing", MCLNET | {
            "LOSS.MCLNET.CONFUSION_WEIGHT": 0.0, "LOSS.MCLNET.IDENTITY_WEIGHT": 0.0, "LOSS.MCLNET.CAMERA_WEIGHT": 0.0,
        }),
        "confusion": ("+ modality confusion", MCLNET | {
            "LOSS.MCLNET.IDENTITY_WEIGHT": 0.0, "LOSS.MCLNET.CAMERA_WEIGHT": 0.0,
        }),
        "identities": ("+ aggregation at centres of identities", MCLNET | {"LOSS.MCLNET.CAMERA_WEIGHT": 0.0}),
        "full": ("+ and of cameras (full)", MCLNET),
        "rows": ("full, an identity's nearest row counts as often as it has rows", MCLNET | {"LOSS.MCLNET.ROWS": 0}),
    },
    "deen": {
        "backbone": ("ID and triplet", DEEN | {"LOSS.CPM_WEIGHT": 0.0, "LOSS.ORTHOGONAL_WEIGHT": 0.0}),
        "cpm": ("+ CPM", DEEN | {"LOSS.ORTHOGONAL_WEIGHT": 0.0}),
        "full": ("+ orthogonality (full)", DEEN),
        "all": ("full, every position reads all", DEEN | {"MODEL.MFA.POSITIONS": "all"}),
        "step": ("full, a further step at epoch 120", DEEN | {
            "SOLVER.LR_STEPS": [[20, 0.1], [80, 0.01], [120, 0.001]],
        }),
    },
}


def table(measured: dict[str, list[dict]], weighting: str) -> tuple[list[str], list[list[str]]]:
    """Header and lines.

    measured   by line of the table, the contents of results.json, one for each seed
    """
    first = next(iter(measured.values()))[0]
    protocols = [r["protocol"] for r in first["results"] if r["weighting"] == weighting]
    header = ["Variant", "Parameters", "Seeds"] + [f"{p} {name}" for p in protocols for name in METRICS.values()]
    lines = []
    for line, runs in measured.items():
        means = [{r["protocol"]: r["mean"] for r in run["results"] if r["weighting"] == weighting} for run in runs]
        figures = [percent([mean[p][metric] for mean in means]) for p in protocols for metric in METRICS]
        lines.append([line, f"{runs[0]['parameters'] / 1e6:.2f} M", str(len(runs)), *figures])
    return header, lines


def variants_of(method: str, text: str | None) -> dict[str, tuple[str, dict]]:
    """Those of VARIANTS of a method that a text such as full,softmax names; all of them without a text.

    raises   ExperimentError
    """
    if method not in VARIANTS:
        raise ExperimentError(f"{method} has no variants; add them to VARIANTS in scripts/ablation.py")
    names = text.split(",") if text else list(VARIANTS[method])
    unknown = set(names) - set(VARIANTS[method])
    if unknown:
        raise ExperimentError(f"{unknown.pop()!r} is no variant of {method}; there are {', '.join(VARIANTS[method])}")
    return {name: VARIANTS[method][name] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a yaml file of configs/")
    parser.add_argument("--seeds", type=seeds_of, default=[0, 1, 2], help="such as 0,1,2, the default")
    parser.add_argument("--variants", help="names from VARIANTS, such as hce,full; default: the method's all")
    parser.add_argument("--weighting", help="of pooled and neck features; default: the reported one")
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"))
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="options over the file's, for all variants")
    args = parser.parse_intermixed_args()

    require_files(*(args.output / f"ablation.{kind}" for kind in ("md", "tex")), fix="choose another --output")
    shared = options_of(args.overrides)
    cfg = load_config(args.config, args.overrides)
    variants = variants_of(cfg.MODEL.NAME, args.variants)
    weightings = cfg.TEST.WEIGHTINGS or [*class_of(cfg.MODEL).weightings]
    if args.weighting and args.weighting not in weightings:
        raise ExperimentError(f"--weighting is {args.weighting!r}; the test is by {', '.join(weightings)}")
    measured: dict[str, list[dict]] = {}
    for seed in args.seeds:
        for name, (line, options) in variants.items():
            results = measure(args.config, args.output / name / f"seed-{seed}", {**shared, **options, "SEED": seed})
            measured.setdefault(line, []).append(results)

    weighting = args.weighting or results["results"][0]["weighting"]
    header, lines = table(measured, weighting)
    marked = f"{EMBEDDED}\n" if results["data"]["name"] == "synthetic" else ""
    by = rerankings(results["results"])
    helped = "" if by == "no" else f", re-ranked by {by}"
    note = f"{marked}In percent, mean ± standard deviation over the seeds; weighting {weighting}{helped}.\n"
    text = write_table(args.output / "ablation", note, header, lines)
    print(f"\n{text}\nwritten: {args.output / 'ablation.md'}, ablation.tex")


if __name__ == "__main__":
    fail_clearly(main, (ConfigError, ExperimentError, OutputError))
