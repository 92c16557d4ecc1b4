"""scripts/compare_with_log.py: a run beside its authors' own log."""

import json
import re
import sys

import pytest
import yaml
from programs import ROOT, run

sys.path.insert(0, str(ROOT / "scripts"))

import compare_with_log as script

from assembly.recipe import build_loss
from configs.load import as_yaml, load_config
from models.build import MODELS

FILES = sorted(script.LOGS.glob("*.yaml"))


@pytest.fixture
def folder(tmp_path):
    """A run of MSCMNet on SYSU-MM01 as train.py leaves it: the first update done, epochs 0 to 9, tested twice."""
    overrides = ["SOLVER.CHOOSE_BEST_ON_TEST_DATA", "true", "OUTPUT", str(tmp_path)]
    (tmp_path / "config.yaml").write_text(as_yaml(load_config("configs/sysu_mscmnet.yaml", overrides)))
    (tmp_path / "train.log").write_text("395 identities\nfirst update: id 5.981  center 6.4  total 12.38\n")
    lines = [{"epoch": epoch, "id": 5.0} for epoch in range(10)]
    lines[0] |= {"validation_rank1": 0.17, "validation_mAP": 0.16}
    lines[9] |= {"validation_rank1": 0.21, "validation_mAP": 0.32}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_log_names_a_recipe_and_its_losses(file):
    log = yaml.safe_load(file.read_text())
    assert file.stem == f"{log['data']}_{log['method']}" and log["method"] in MODELS
    cfg = load_config(f"configs/{file.stem}.yaml")
    assert cfg.SOLVER.EPOCHS == log["epochs"] > max(log["test"])
    assert log["protocol"] in ("sysu/all/single-shot/random", "regdb/infrared-to-visible", "llcm/ir-to-vis")
    source = (ROOT / "losses" / "totals" / f"{log['method']}.py").read_text()
    assert build_loss(cfg) and all(f'"{name}"' in source for name in log["first"])
    assert {name for terms in log.get("means", {}).values() for name in terms} <= log["first"].keys()


def test_a_run_stands_beside_the_log_line_by_line(folder):
    printed = run("scripts/compare_with_log.py", folder).stdout
    lines = {line[:34].strip(): line[34:].split() for line in printed.splitlines()}
    assert lines["first update: id"] == ["5.98", "5.981", "+0.001"]
    assert lines["first update: center"] == ["6.56", "6.4", "-0.16"]
    assert lines["epoch 0: Rank-1"] == ["16.5", "17", "+0.5"]
    assert lines["epoch 9: Rank-1"] == ["40.6", "21", "-19.6", "far"]
    assert lines["epoch 24: mAP"] == ["46.9", "-"]
    assert printed.splitlines()[-1] == "1 of 6 are far from the authors': epoch 9: Rank-1"


def test_a_tested_run_has_the_figures_of_its_last_epoch(folder, trained):
    saved = json.loads((trained("quickstart_base") / "results.json").read_text())
    saved["checkpoint"]["epochs"] = 150
    saved["results"] = saved["results"][:1]
    saved["results"][0]["protocol"] = "sysu/all/single-shot/random"
    saved["results"][0]["trials"][0] |= {"rank1": 0.787, "mAP": 0.60}
    (folder / "results.json").write_text(json.dumps(saved))
    printed = run("scripts/compare_with_log.py", folder).stdout
    assert re.search(r"epoch 149: Rank-1 +78.7 +78.7 +\+0\n", printed)
    assert re.search(r"epoch 149: mAP +74.5 +60 +-14.5  far\n", printed)


def test_figures_of_held_out_people_are_no_test_figures(folder):
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("ON_TEST_DATA: true", "ON_TEST_DATA: false"))
    printed = run("scripts/compare_with_log.py", folder).stdout
    assert re.search(r"epoch 9: Rank-1 +40.6 +-\n", printed) and "all 2 that can be compared are near" in printed


def test_before_the_first_update_it_says_so(folder):
    for name in ("train.log", "metrics.jsonl"):
        (folder / name).unlink()
    assert run("scripts/compare_with_log.py", folder).stdout.splitlines()[-1].startswith("nothing to compare yet")


def test_a_training_logs_its_first_update(trained):
    found = script.first_losses(trained("quickstart_base"))
    assert found.keys() == {"id", "triplet", "total"} and found["total"] == pytest.approx(
        found["id"] + found["triplet"], rel=1e-3
    )


def test_a_method_without_a_log_is_named_with_those_that_have_one(trained, tmp_path):
    done = run("scripts/compare_with_log.py", trained("quickstart_base"), check=False)
    assert done.returncode == 1 and "there is no authors' log of agw on synthetic; there are" in done.stderr
    done = run("scripts/compare_with_log.py", tmp_path, check=False)
    assert done.returncode == 1 and "there is no config.yaml, which train.py writes" in done.stderr
    done = run("scripts/compare_with_log.py", check=False)
    assert done.returncode == 2 and "the following arguments are required: run" in done.stderr
    assert run("scripts/compare_with_log.py", "--list").stdout.splitlines() == script.known()
