"""From images on disk to results.json: train a few steps, stop, resume, evaluate."""

import json
import math
import os
import shutil
import signal
import sys
import time

import programs
import pytest
import torch
from processes import Started
from reference import DATA, entries, nothing_drawn

from data.synthetic import write_synthetic

OPTIONS = {
    "DATA.HEIGHT": "64", "DATA.WIDTH": "32", "DATA.WORKERS": "0", "DEVICE": "cpu",
    "SOLVER.EPOCHS": "2", "SOLVER.IDENTITIES": "3", "SOLVER.IMAGES": "2",
}
OF_CMFN = {"MODEL.STAGES": "4", "MODEL.MBUE.DROPOUT": "0.1"}
SHORT = {"MODEL.STAGES": "3", "MODEL.HCE.ENABLED": "false", "MODEL.CSC_CMA.ENABLED": "false"}  # where it shows nothing


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "synthetic"
    write_synthetic(root, seed=3, train_identities=6, test_identities=4, images_per_camera=1, height=64, width=32)
    return root


pytestmark = pytest.mark.usefixtures("thin")


def pairs(data, run, **options):
    options = OPTIONS | {"DATA.ROOT": data, "OUTPUT": run} | options
    return [str(part) for pair in options.items() for part in pair]


def run_program(program, data, run, *arguments, check=True, **options):
    return programs.run(program, *arguments, *pairs(data, run, **options), check=check, drawn=False)


def train(data, run, *flags, check=True, **options):
    options = OF_CMFN | options
    words = "--config", "configs/quickstart_cmfn.yaml", *flags
    return run_program("train.py", data, run, *words, check=check, **options)


def weights(run):
    return torch.load(run / "last.pth", weights_only=True)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(data, run)
    return run


def assert_equal_runs(a, b):
    a, b = weights(a), weights(b)
    assert (a["epoch"], a["step"]) == (b["epoch"], b["step"])
    for key, value in a["model"].items():
        assert torch.equal(value, b["model"][key]), key
    for i, state in a["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, b["optimizer"]["state"][i][name]), (i, name)


@pytest.mark.long
def test_both_programs_in_interpreters_of_their_own(shared_data, tmp_path):
    run = tmp_path / "run"
    options = pairs(shared_data, run, **{"SOLVER.EPOCHS": "1", "SOLVER.IDENTITIES": "2", "MODEL.STAGES": "3"})
    for words in (["train.py", "--config", "configs/quickstart_cmfn.yaml", *options], ["test.py", "--checkpoint", run]):
        done = programs.run_apart(sys.executable, *words)
        assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((run / "results.json").read_text())
    assert results["checkpoint"]["epochs"] == 1 and results["results"][0]["protocol"] in done.stdout
    assert all((run / name).stat().st_size > 1000 for name in ("curves.png", "report.html"))


def test_a_training_with_a_broken_image_ends_though_its_workers_ignore_signals(data, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    for image in broken.glob("cam3/*/*.jpg"):
        image.write_bytes(image.read_bytes()[:300])
    options = pairs(broken, tmp_path / "run", **{"DATA.WORKERS": "2"})
    # An interpreter of its own: a forked process ends otherwise, and waits for workers that ignore signals.
    command = programs.command("train.py", "--config", "configs/quickstart_cmfn.yaml", *options)
    done = programs.run_apart(*command, timeout=60)
    assert done.returncode == 1 and "jpg is broken or no image" in done.stderr and "Traceback" not in done.stderr


def test_a_run_resumed_after_an_epoch_equals_an_uninterrupted_one(data, trained, tmp_path):
    run = tmp_path / "parts"
    train(data, run, **{"SOLVER.EPOCHS": "1"})
    assert weights(run)["epoch"] == 1
    done = train(data, run, "--resume", **{"DATA.WORKERS": "1"})
    assert "resuming from" in done.stdout
    assert_equal_runs(trained, run)
    first, second = ((r / "metrics.jsonl").read_text().splitlines() for r in (trained, run))
    assert [json.loads(line)["epoch"] for line in second] == [0, 1]
    for a, b in zip(map(json.loads, first), map(json.loads, second)):
        assert all(a[name] == b[name] for name in ("id", "triplet", "cpm", "orthogonal", "dcl", "total", "lr"))


def test_a_run_from_cached_images_equals_one_from_the_files(data, trained, tmp_path):
    done = train(data, tmp_path / "run", **{"DATA.CACHE": tmp_path / "cache"})
    assert "there is no cache in" in done.stdout
    assert_equal_runs(trained, tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_run_stopped_by_a_signal_goes_on_inside_the_epoch(data, trained, tmp_path, number):
    run = tmp_path / "stopped"
    options = pairs(data, run, **OF_CMFN, **{"DATA.WORKERS": "1"})
    process = Started(tmp_path / "output", "train.py", "--config", "configs/quickstart_cmfn.yaml", *options)
    deadline = time.time() + 120
    while not (run / "train.log").exists() or "epoch 0:" not in (run / "train.log").read_text():
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, number)  # as a terminal or a job scheduler does: the workers get it too
    code, output, _ = process.finished()
    assert code == 128 + number
    assert f"stopped by {number.name}; go on with the same command and --resume" in output
    saved = weights(run)
    assert (saved["epoch"], saved["step"]) != (2, 0) and saved["step"] > 0
    train(data, run, "--resume")
    assert_equal_runs(trained, run)


def test_a_run_is_not_overwritten_nor_resumed_with_other_options(data, trained):
    again = train(data, trained, check=False)
    assert again.returncode == 1 and "add --resume" in again.stderr and "Traceback" not in again.stderr
    other = train(data, trained, "--resume", check=False, **{"SOLVER.BASE_LR": "0.2"})
    assert other.returncode == 1 and "SOLVER.BASE_LR: 0.001, 0.2" in other.stderr


def test_evaluation_writes_what_it_prints(data, trained):
    done = run_program("test.py", data, trained, "--checkpoint", str(trained))
    results = json.loads((trained / "results.json").read_text())
    assert [r["protocol"] for r in results["results"]][:2] == [
        "synthetic/all/single-shot/random", "synthetic/indoor/single-shot/random"
    ]
    assert results["checkpoint"]["epochs"] == 2 and len(results["checkpoint"]["sha256"]) == 64
    assert results["data"]["fingerprint"] and results["versions"]["torch"]
    assert results["config"]["MODEL"]["BACKBONE"] == "resnet18"
    for result in results["results"]:
        assert len(result["trials"]) == 10
        assert 0 <= result["mean"]["rank1"] <= result["mean"]["rank5"] <= 1
        assert result["protocol"] in done.stdout
    assert "embedded data set" in done.stdout


def test_every_protocol_that_the_data_set_has_comes_from_one_pass(data, trained, tmp_path):
    out = tmp_path / "results.json"
    run_program("test.py", data, trained, "--checkpoint", str(trained), "--protocol", "all", "--output", str(out),
                **{"TEST.WEIGHTINGS": '["neck"]', "TEST.FLIP": "false"})
    results = json.loads(out.read_text())["results"]
    assert {r["protocol"] for r in results} == {  # no official gallery: that needs a file of SYSU-MM01's
        f"synthetic/{search}/{shots}/random" for search in ("all", "indoor") for shots in ("single-shot", "multi-shot")
    }
    assert all(r["weighting"] == "neck" and r["flip"] is False for r in results)
    official = ["--protocol", "synthetic/all/single-shot/official"]
    done = run_program("test.py", data, trained, "--checkpoint", str(trained), *official, check=False)
    assert done.returncode == 1 and "rand_perm_cam.mat" in done.stderr


def state_of(entries):
    """Random weights of these keys and shapes, in all about as large as a trained network's; the file is small.

    All weights are the first numbers of the same storage, which is drawn and saved once.
    """
    count = max(math.prod(entry["shape"]) for entry in entries)
    drawn, ones = torch.randn(count) * 0.02, torch.ones(count)
    state = {}
    for entry in entries:
        key, shape = entry["key"], entry["shape"]
        numbers = ones if len(shape) == 1 and not key.endswith("bias") else drawn
        state[key] = numbers[:math.prod(shape)].view(shape)
        if "int" in entry["dtype"]:
            state[key] = torch.zeros(shape, dtype=torch.long)
    return state


def test_an_authors_checkpoint_is_evaluated(data, tmp_path):
    weights = state_of([entry for entry in entries("regdb") if entry["use"] == "used"])
    torch.save({"net": weights}, tmp_path / "theirs.t")
    with nothing_drawn():
        run_program("test.py", data, tmp_path, "--config", "configs/regdb_cmfn.yaml", "--authors-checkpoint",
                    str(tmp_path / "theirs.t"), **{"DATA.NAME": "synthetic", "MODEL.STAGES": "3"})
        results = json.loads((tmp_path / "results.json").read_text())
        assert results["checkpoint"]["format"] == "authors" and len(results["results"]) == 4
        done = run_program("test.py", data, tmp_path, "--config", "configs/regdb_cmfn.yaml", "--authors-checkpoint",
                           str(tmp_path / "theirs.t"), check=False, **{"DATA.NAME": "synthetic", "MODEL.STAGES": "4"})
    assert done.returncode == 1 and "missing: base_resnet.base.layer4.0.conv1.weight" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("method, keys, expected", [
    ("base", "keys_agw.json", {("neck", False), ("pooled", False)}),
    ("agw", "keys_agw.json", {("neck", False), ("pooled", False)}),
    ("caj", "keys_agw.json", {("neck", True), ("pooled", True)}),
    ("deen", "keys_deen_sysu.json", {("equal", True), ("neck", True)}),
    ("mpanet", "keys_mpanet.json", {("neck", False)}),
    ("pmt", "keys_pmt.json", {("neck", False)}),
    ("mscmnet", "keys_mscmnet.json", {("neck", False)}),
    ("mcja", "keys_mcja.json", {("neck", False)}),
    ("mclnet", "keys_agw.json", {("neck", False), ("pooled", False)}),
    ("dns", "keys_dns.json", {("neck", True), ("pooled", True)}),
    ("sefel", "keys_sefel.json", {("neck", True)}),
])
def test_a_checkpoint_of_a_compared_methods_authors_is_evaluated(method, keys, expected, data, tmp_path):
    entries, size = json.loads((DATA / keys).read_text()), {}
    if method == "mscmnet":  # whose blocks are as wide as the images have positions: 288 of 384x192, here 9
        size = {"DATA.HEIGHT": "48", "DATA.WIDTH": "48"}
        for entry in entries:
            if entry["key"].startswith("layerATT"):
                entry["shape"] = [width // 32 if width % 288 == 0 else width for width in entry["shape"]]
    weights = state_of(entries)
    if method == "base":
        weights = {key: value for key, value in weights.items() if not key.startswith("NL_")}
    if method == "pmt":
        weights["base.pos_embed"] = weights["base.pos_embed"][:, :11]  # of the few patches of small images
    torch.save({"net": weights, "epoch": 60}, tmp_path / "theirs.t")
    with nothing_drawn():
        run_program("test.py", data, tmp_path, "--config", f"configs/sysu_{method}.yaml", "--authors-checkpoint",
                    str(tmp_path / "theirs.t"), **{"DATA.NAME": "synthetic", "TEST.PROTOCOLS": "[]", **size})
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["checkpoint"]["format"] == "authors"
    assert {(r["weighting"], r["flip"]) for r in results["results"]} == expected


def test_a_missing_checkpoint_is_an_error(data, tmp_path):
    done = run_program("test.py", data, tmp_path, "--checkpoint", str(tmp_path / "nowhere"), check=False)
    assert done.returncode == 1 and "there is no checkpoint at" in done.stderr and "Traceback" not in done.stderr


def test_a_non_finite_loss_stops_with_the_last_good_weights(data, tmp_path):
    run = tmp_path / "diverging"
    done = train(data, run, check=False, **{"SOLVER.BASE_LR": "1e30", "SOLVER.WARMUP_EPOCHS": "0"})
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "the loss is not finite at epoch 0, step" in done.stderr and "identities of the batch: [" in done.stderr
    if (run / "last.pth").exists():
        assert all(value.isfinite().all() for value in weights(run)["model"].values())


def test_weights_that_the_last_update_broke_are_not_saved(data, tmp_path):
    run = tmp_path / "broken"
    done = train(data, run, check=False, **{
        "SOLVER.BASE_LR": "1e300", "SOLVER.WARMUP_EPOCHS": "0", "SOLVER.ACCUMULATION": "1000", "SOLVER.EPOCHS": "1",
        **SHORT,
    })
    assert done.returncode == 1 and "a weight is not finite after epoch 0" in done.stderr
    assert "Traceback" not in done.stderr and not (run / "last.pth").exists()


def test_the_best_epoch_is_chosen_on_identities_held_out(data, tmp_path):
    run = tmp_path / "validated"
    train(data, run, **{**SHORT, "SOLVER.EPOCHS": "2", "SOLVER.VALIDATION_IDS": "2", "SOLVER.EVAL_PERIOD": "1"})
    assert (run / "best.pth").exists()
    assert len(weights(run)["identities"]) == 4
    assert all("validation_mAP" in line for line in (run / "metrics.jsonl").read_text().splitlines())


def test_choosing_by_test_data_is_called_what_it_is(data, tmp_path):
    done = train(data, tmp_path / "tuned", **{**SHORT, "SOLVER.EPOCHS": "1",
                                              "SOLVER.CHOOSE_BEST_ON_TEST_DATA": "true"})
    assert "TEST data" in done.stdout and "inflated" in done.stdout
