"""From a data folder to the table: the shell scripts and the ablation on tiny trees, twice, and after a stop."""

import json
import sys
from pathlib import Path

import pytest
import torch
from programs import run
from shells import Shell
from thin import SHORT
from trees import llcm_tree, regdb_tree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import ablation

from configs.load import load_config
from data.synthetic import write_synthetic

TINY = [
    "MODEL.BACKBONE", "resnet18", "MODEL.PRETRAINED", "none", "MODEL.STAGES", "3", "DATA.HEIGHT", "32",
    "DATA.WIDTH", "16", "DATA.WORKERS", "0", "SOLVER.EPOCHS", "1", "SOLVER.IDENTITIES", "2", "SOLVER.IMAGES", "1",
    "DEVICE", "cpu", "TEST.WEIGHTINGS", '["equal"]', "DATA.ERASING_AREA", "[0.1, 0.3]",
]
pytestmark = pytest.mark.usefixtures("thin")


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path / "venv").run


def regdb_results(folder, split, mAP=0.5, protocol_split=None, weighting="equal", cmc=0.5, **solver):
    """The results file of one split's model, as test.py writes it."""
    trial = {f"rank{k}": 0.5 for k in (1, 5, 10, 20)}
    trial |= {"mAP": mAP, "mINP": 0.5, "valid_queries": 6, "cmc": [cmc] * 20}
    result = {"protocol": f"regdb/{protocol_split or split}/visible-to-thermal", "flip": True, "weighting": weighting,
              "rerank": False, "trials": [trial], "mean": {}, "std": {}}
    path = folder / f"{split}.json"
    path.write_text(json.dumps({
        "data": {"name": "regdb", "fingerprint": str(split)}, "results": [result], "parameters": 5,
        "checkpoint": {"path": f"runs/{split}/last.pth", "epochs": 1}, "data_summary": "regdb\nwarning: fewer",
        "distances": {"weighting": weighting}, "device": f"cuda:{split}",
        "config": {"DATA": {"SPLIT": split}, "SOLVER": {"EPOCHS": 1} | solver, "OUTPUT": str(path)},
    }))
    return path


@pytest.mark.parametrize("weighting", ["equal", "neck"])
def test_regdb_is_the_mean_over_ten_models(weighting, tmp_path):
    files = [
        regdb_results(tmp_path, split, mAP=split / 100, weighting=weighting, cmc=split / 20) for split in range(1, 11)
    ]
    done = run("scripts/average_splits.py", *files, "--output", tmp_path / "mean.json")
    saved = json.loads((tmp_path / "mean.json").read_text())
    result, = saved["results"]
    assert (result["protocol"], result["weighting"]) == ("regdb/visible-to-thermal", weighting)
    assert [trial["cmc"][0] for trial in result["trials"]] == [split / 20 for split in range(1, 11)]
    assert saved["parameters"] == 5 and saved["data_summary"] == "regdb\nwarning: fewer"  # the same for all
    assert "device" not in saved and "distances" not in saved
    assert f"report:  {tmp_path / 'mean-report.html'}" in done.stdout and (tmp_path / "mean-cmc.png").exists()
    page = (tmp_path / "mean-report.html").read_text()
    assert "A mean over 10 models" in page and "no one histogram" in page and "no one training" in page
    assert "older version" not in page and page.count('<p class="note">warning: fewer</p>') == 1
    assert [trial["mAP"] for trial in result["trials"]] == [split / 100 for split in range(1, 11)]
    assert result["mean"]["mAP"] == pytest.approx(0.055)


def test_a_split_without_results_or_with_those_of_another_is_an_error(tmp_path):
    def average(*paths):
        command = ["scripts/average_splits.py", *paths, "--output", tmp_path / "mean.json"]
        done = run(*command, check=False)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and not (tmp_path / "mean.json").exists()
        return done.stderr

    files = [regdb_results(tmp_path, split) for split in range(1, 11)]
    assert "no results of split 4: train and test it first" in average(*files[:3], *files[4:])
    assert "both of split 2" in average(*files, files[1])
    regdb_results(tmp_path, 3, protocol_split=4)
    assert "a model of split 3 has figures of regdb/4/" in average(*files)
    regdb_results(tmp_path, 3, EPOCHS=2)
    assert "differ in their options of SOLVER" in average(*files)


def test_a_second_run_computes_only_what_has_no_valid_result(tmp_path, shell):
    for split in (1, 2):
        regdb_tree(tmp_path / "regdb", split=split)
    runs = tmp_path / "runs"
    command = ["bash", "scripts/reproduce_regdb.sh", tmp_path / "regdb", runs, *TINY, *SHORT]
    done = shell(*command, environment={"SPLITS": "1 2"})
    assert "no mean yet: split 3 has no results" in done.stdout
    results = json.loads((runs / "2" / "results.json").read_text())
    assert [r["protocol"] for r in results["results"]] == ["regdb/2/visible-to-thermal", "regdb/2/thermal-to-visible"]

    (runs / "2" / "results.json").write_text('{"cut off')
    before = {path: path.stat().st_mtime_ns for path in [*runs.glob("*/last.pth"), *runs.glob("*/results.json")]}
    again = shell(*command, environment={"SPLITS": "1 2"})
    assert again.stdout.count("the training was complete already") == 2
    assert [path for path in before if path.stat().st_mtime_ns != before[path]] == [runs / "2" / "results.json"]
    assert json.loads((runs / "2" / "results.json").read_text())["results"] == results["results"]


@pytest.mark.parametrize("method, weighting", [
    ("cmfn", "equal"), ("deen", "equal"), ("base", "neck"), ("agw", "neck"), ("caj", "neck"),
])
def test_llcm_goes_from_the_folder_to_both_directions(method, weighting, tmp_path, shell):
    llcm_tree(tmp_path / "llcm")
    options = [*TINY, "MODEL.STAGES", "4", "TEST.WEIGHTINGS", f"['{weighting}']"]
    command = ["bash", "scripts/reproduce_llcm.sh", tmp_path / "llcm", tmp_path / "run", *options]
    shell(*command, environment={"METHOD": method})
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["config"]["MODEL"]["NAME"] == {"base": "agw"}.get(method, method)
    protocols = [r["protocol"] for r in results["results"]]
    assert protocols == ["llcm/ir-to-vis", *(f"llcm/vis-to-ir/{r}" for r in ("natural", "transposed", "full"))]


def test_an_unfinished_training_is_not_evaluated(tmp_path):
    llcm_tree(tmp_path / "llcm")
    options = [*TINY, *SHORT, "DATA.ROOT", tmp_path / "llcm", "OUTPUT", tmp_path / "run"]
    run("train.py", "--config", "configs/llcm_cmfn.yaml", *options)
    saved = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    saved["config"] = saved["config"].replace("EPOCHS: 1\n", "EPOCHS: 2\n")  # as if it had been stopped half way
    torch.save(saved, tmp_path / "run" / "last.pth")
    command = ["test.py", "--checkpoint", tmp_path / "run", "--complete"]
    done = run(*command, check=False)
    assert done.returncode == 1 and "has done 1 of 2 epochs: go on with train.py --resume" in done.stderr


def test_sysu_figures_of_another_size_never_enter_the_table(tmp_path, shell):
    """The stub has SYSU-MM01's layout but few people: trained and evaluated, and refused by the table."""
    root = tmp_path / "sysu"
    write_synthetic(root, seed=3, train_identities=4, test_identities=3, images_per_camera=2, height=32, width=16)
    command = ["bash", "scripts/reproduce_sysu.sh", root, tmp_path / "run", *TINY, *SHORT]
    done = shell(*command, check=False)
    assert done.returncode == 1 and "cannot stand beside published ones" in done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {r["protocol"].split("/")[2] for r in results["results"]} == {"single-shot", "multi-shot"}
    itself = [tmp_path / "run" / "results.json"] * 2
    done = run("scripts/compare_results.py", *itself, "--resamples", "100")
    assert "drawn again: 3 identities" in done.stdout and "+0.00" in done.stdout


@pytest.mark.long
def test_the_ablation_keeps_the_seeds_that_are_there_and_writes_the_table(tmp_path):
    root = tmp_path / "synthetic"
    write_synthetic(root, seed=3, train_identities=4, test_identities=3, images_per_camera=2, height=32, width=16)

    def rows(seeds):
        done = run("scripts/ablation.py", "--config", "configs/quickstart_cmfn.yaml", "--variants",
                   "hce,aligned", "--output", tmp_path, "--seeds", seeds, "DATA.ROOT", root, *TINY)
        text = (tmp_path / "ablation.md").read_text()
        assert "embedded data set" in text and text in done.stdout
        assert r"\toprule" in (tmp_path / "ablation.tex").read_text()
        return done, [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line[:2] == "| "][2:]

    _, lines = rows("0")
    assert [line[0] for line in lines] == ["+ HCE", "full, tokens aligned"]
    assert all(line[2] == "1" and "±" not in "".join(line) for line in lines)
    again, lines = rows("0,1")
    assert again.stdout.count("the training was complete already") == 2
    assert all(line[2] == "2" and all(" ± " in cell for cell in line[3:]) for line in lines)
    for variant, line in zip(("hce", "aligned"), lines):
        runs = [json.loads((tmp_path / variant / f"seed-{s}" / "results.json").read_text()) for s in (0, 1)]
        rank1 = [100 * r["results"][0]["mean"]["rank1"] for r in runs]
        assert line[3] == f"{sum(rank1) / 2:.2f} ± {abs(rank1[0] - rank1[1]) / 2 ** 0.5:.2f}"


def test_the_variants_add_one_part_after_the_other():
    def parts(variant):
        overrides = [str(x) for pair in variants[variant][1].items() for x in pair]
        model = load_config("configs/sysu_cmfn_as_drawn.yaml", overrides).MODEL
        return model.HCE.ENABLED, model.MBUE.ENABLED, model.CSC_CMA.ENABLED, model.MBUE.TOKEN_LAYOUT

    variants = ablation.variants_of("cmfn", None)
    assert {variant: parts(variant) for variant in variants} == {
        "backbone": (False, False, False, "reference"), "hce": (True, False, False, "reference"),
        "mbue": (True, True, False, "reference"), "full": (True, True, True, "reference"),
        "aligned": (True, True, True, "aligned"),
    }


@pytest.mark.parametrize("method", ["agw", "caj", "deen"])
def test_the_full_variant_of_each_method_is_its_recipe(method):
    recipe = load_config(f"configs/sysu_{method}.yaml")
    variants = ablation.variants_of(method, None)
    as_text = {name: [str(x) for pair in options.items() for x in pair] for name, (_, options) in variants.items()}
    assert load_config(f"configs/sysu_{method}.yaml", as_text["full"]) == recipe
    others = [load_config(f"configs/sysu_{method}.yaml", words) for words in as_text.values()]
    assert len({cfg.dump() for cfg in others}) == len(variants)
    if method == "agw":
        base = load_config("configs/sysu_base.yaml", ["OUTPUT", recipe.OUTPUT])
        assert load_config("configs/sysu_agw.yaml", as_text["backbone"]) == base


def test_unknown_variants_are_refused_with_those_that_there_are():
    with pytest.raises(ablation.ExperimentError, match="'hce' is no variant of agw; there are backbone, non_local"):
        ablation.variants_of("agw", "full,hce")
    with pytest.raises(ablation.ExperimentError, match="other has no variants"):
        ablation.variants_of("other", None)
