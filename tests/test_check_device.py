"""The script that checks a device says what holds, what doesn't and why; what it compares can differ."""

import contextlib
import json
import re
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from programs import run
from torch import nn

from assembly import device_checks, device_speed, parity
from assembly.device_checks import CheckFailed, Finding, Machine, at_least, at_most
from assembly.recipe import check_together, layout_of
from configs.load import ConfigError, load_config
from models.build import MODELS
from models.network import MethodError
from utils.stop import Stopped
from utils.training import compiling
from utils.training.run import LOG, select_algorithms

pytestmark = pytest.mark.usefixtures("thin")
CPU = torch.device("cpu")
QUICK = ("scripts/check_device.py", "--quick", "--device", "cpu", "--methods", "agw")


def machine(tmp_path, methods=("agw",), **options):
    return Machine(CPU, True, [*methods], tmp_path, **options)


def test_a_quick_run_ends_with_its_table(tmp_path):
    chosen = ["cpu", "waiting", "evaluation", "profile", "evaluator", "search"]
    done = run(*QUICK, "--only", *chosen, "--output", tmp_path)
    report = json.loads((tmp_path / "check_device.json").read_text())
    assert report["quick"] and report["type"] == "cpu" and not report["fails"] and {*report["checks"]} == {*chosen}
    for name, check in report["checks"].items():
        assert check["seconds"] >= 0 and check["findings"], name
        for finding in check["findings"]:
            assert any(line.startswith(name) and finding["what"] in line for line in done.stdout.splitlines())
    judged = [finding for check in report["checks"].values() for finding in check["findings"] if finding["bound"]]
    assert len(judged) > 10 and all(finding["holds"] for finding in judged)


@pytest.mark.long
def test_all_of_a_quick_run(tmp_path):
    done = run(*QUICK, "--minutes", 60, "--output", tmp_path)
    found = json.loads((tmp_path / "check_device.json").read_text())["checks"]
    assert "FAILS" not in done.stdout and all(check["findings"] for check in found.values())
    assert not any("not measured" in finding["measured"] for check in found.values() for finding in check["findings"])


def test_what_fails_or_raises_is_a_line_and_the_others_still_run(tmp_path, monkeypatch):
    def breaks(machine):
        yield at_most("before", 0.5, 1)
        raise ValueError("broken\nin two lines")

    def differs(machine):
        yield at_most("too far", 2.0, 1)
        yield at_least("not a number", float("nan"), 0.5)

    monkeypatch.setattr(device_checks, "evaluation", breaks)
    monkeypatch.setattr(device_speed, "search", differs)
    monkeypatch.setattr(device_speed, "evaluator", lambda machine: iter([Finding("just a figure", "1 ms")]))
    done = run(*QUICK, "--only", "evaluation", "evaluator", "search", "--output", tmp_path, check=False)
    assert done.returncode == 1
    rows = [re.split(r"  +", line) for line in done.stdout.splitlines()]
    for row in (
        ["evaluation", "before", "5.0e-01", "at most 1", "holds"],
        ["evaluation", "evaluation", "ValueError: broken", "no error", "FAILS"],
        ["evaluator", "just a figure", "1 ms"],
        ["search", "too far", "2.0e+00", "at most 1", "FAILS"],
        ["search", "not a number", "nan", "at least 0.5", "FAILS"],
    ):
        assert row in rows, row
    assert json.loads((tmp_path / "check_device.json").read_text())["fails"] == 3


def test_at_the_deadline_the_rest_is_left_and_what_was_found_is_kept(tmp_path, monkeypatch):
    def slow(machine):
        yield at_most("in time", 0.5, 1)
        with contextlib.suppress(Exception):  # as dynamo does
            time.sleep(60)
        yield Finding("went on", "")

    monkeypatch.setattr(device_checks, "evaluation", slow)
    started, handler = time.monotonic(), signal.getsignal(signal.SIGALRM)
    chosen = ["--only", "evaluation", "search", "--output", tmp_path]
    done = run(*QUICK, "--minutes", 0.02, *chosen)
    assert time.monotonic() - started < 30
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)) == (handler, (0, 0))
    rows = [re.split(r"  +", line) for line in (tmp_path / "check_device.txt").read_text().splitlines()]
    left = "not measured: the time of --minutes is up"
    assert ["evaluation", "in time", "5.0e-01", "at most 1", "holds"] in rows
    assert ["evaluation", "the rest", left] in rows and ["search", "all", left] in rows
    assert "for what was left: --only evaluation search, or more --minutes" in done.stdout


def test_a_stop_leaves_the_table_of_what_was_found(tmp_path, monkeypatch):
    def stopped(machine):
        raise Stopped("SIGTERM")
        yield

    monkeypatch.setattr(device_checks, "evaluation", lambda machine: iter([at_most("found", 0.5, 1)]))
    monkeypatch.setattr(device_speed, "search", stopped)
    done = run(*QUICK, "--only", "evaluation", "search", "--output", tmp_path, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert "found" in (tmp_path / "check_device.txt").read_text()
    assert [*json.loads((tmp_path / "check_device.json").read_text())["checks"]] == ["evaluation"]


def test_a_step_is_timed_in_every_setting_and_beside_the_plain_trunk(tmp_path):
    here = machine(tmp_path)
    settings = ["float32+channels_last", "bfloat16+recompute", "bfloat16+graphs"]
    plain, *found = [device_speed.measured_step(here, "quickstart_agw", settings[0], plain=True)] + [
        device_speed.measured_step(here, "quickstart_agw", setting) for setting in settings
    ]
    assert all(finding.holds is None and finding.value > 0 for finding in (plain, *found))
    assert "x plain" in found[0].measured and "x plain" not in found[1].measured
    assert [*here.seconds] == [("quickstart_agw, plain trunk", settings[0]), *(("quickstart_agw", s) for s in settings)]


def test_hours_are_steps_times_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(device_speed, "operations_of", lambda config: {"regdb_agw": 50}.get(config, 100))
    here = machine(tmp_path, seconds={("quickstart_agw", device_speed.BEST): 0.5})
    sysu, regdb, _ = device_speed.hours(here)
    solver = load_config("configs/sysu_agw.yaml").SOLVER
    steps = (22_258 // (solver.IDENTITIES * solver.IMAGES) + 1) * solver.EPOCHS
    assert sysu.what == f"sysu_agw: hours for {steps:,} steps"
    assert sysu.value == pytest.approx(steps * 0.5)
    steps = (2_060 // (solver.IDENTITIES * solver.IMAGES) + 1) * solver.EPOCHS
    assert regdb.value == pytest.approx(steps * 0.25)  # of half the operations


@pytest.mark.long
def test_operations_are_counted_without_computing():
    model = load_config("configs/sysu_agw.yaml")
    images = 2 * model.SOLVER.IDENTITIES * model.SOLVER.IMAGES
    assert device_speed.operations_of("sysu_agw") / 2e9 / images == pytest.approx(5.1, abs=0.1)  # GMAC of an image


def test_a_method_whose_package_is_missing_is_left_out(tmp_path, monkeypatch):
    def missing(cls):
        raise MethodError("AGW needs a package")

    monkeypatch.setattr(MODELS["agw"], "check_installed", classmethod(missing))
    monkeypatch.setattr(device_speed, "search", lambda machine: iter([Finding(machine.methods[0], "1 ms")]))
    done = run(*QUICK, "cmfn", "--only", "search", "--output", tmp_path)
    assert "agw is left out: AGW needs a package" in done.stdout and "cmfn" in done.stdout
    assert json.loads((tmp_path / "check_device.json").read_text())["left_out"] == {"agw": "AGW needs a package"}
    assert "AGW needs a package" in run(*QUICK, "--output", tmp_path, check=False).stderr


def test_memory_that_runs_out_fails_no_check(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("out of it")

    monkeypatch.setattr(device_speed, "step_of", full)
    assert device_speed.measured_step(machine(tmp_path), "a", "float32") == Finding("a, float32", "out of memory")


def test_a_program_that_fails_says_its_last_line(tmp_path, monkeypatch):
    ended = SimpleNamespace(returncode=3, stdout="", stderr="first\nerror: the last\n")
    monkeypatch.setattr(device_checks.subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(CheckFailed, match="a check started has failed: scripts.export.py, status 3: error: the last"):
        machine(tmp_path).start("scripts/export.py")


def test_bits_that_differ_are_counted():
    one = {"a": torch.zeros(3), "b": [torch.ones(2), 5]}
    assert device_checks.differing(one, {"a": torch.zeros(3), "b": [torch.ones(2), 5]}) == 0
    assert device_checks.differing(one, {"a": torch.zeros(3), "b": [torch.tensor([1.0, 1.0 + 1e-7]), 5]}) == 1


@pytest.mark.long
@pytest.mark.parametrize("wrong", [False, True])
def test_parity_holds_and_notices_a_wrong_network(monkeypatch, wrong):
    """The shortest of the cases; the others are compared in more detail by the tests of their methods."""
    case = next(case for case in parity.CASES if case.config == "sysu_base")
    model, cfg = parity.filled(case, case.step, CPU)
    if wrong:
        model.backbone.stages[0][0].conv1.weight.data[:, 0] *= 1.01  # of all inputs, it would be normalised away
    outputs, gradients = parity.step_errors(case, model.double(), cfg)
    assert (outputs > 1e-6) == (gradients > 1e-5) == wrong


def test_every_method_has_its_parity():
    assert {case.config.partition("_")[2] for case in parity.CASES} - {"base"} == {*MODELS}


def test_where_nothing_compiles_one_line_says_so(caplog, monkeypatch):
    monkeypatch.setattr(compiling, "why_nothing_compiles", lambda *_: "no compiler")
    monkeypatch.setattr(LOG, "disabled", False)
    network = nn.Linear(2, 2)
    with caplog.at_level("WARNING", LOG.name):
        assert not compiling.compile_training_pass(network, "default", CPU)
    assert caplog.messages == ["warning: nothing is compiled here, and the network runs as it is written: no compiler"]
    assert network._compiled_call_impl is None


@torch._dynamo.config.patch(suppress_errors=False)  # as before, afterwards
def test_a_compiled_pass_computes_the_same_and_is_saved_as_before():
    network, images = nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.randn(5, 3)
    expected, names = network(images), [*network.state_dict()]
    assert compiling.compile_training_pass(network, "default", CPU, backend="eager")
    assert network._compiled_call_impl is not None
    torch.testing.assert_close(network(images), expected)
    assert [*network.state_dict()] == names
    assert "no_such_backend" in compiling.why_nothing_compiles(CPU, "no_such_backend")


def test_a_compiled_network_computes_no_parts_again():
    cfg = load_config(overrides=["SOLVER.COMPILE", "default", "MODEL.RECOMPUTE", "['early']"])
    with pytest.raises(ConfigError, match="SOLVER.COMPILE is default, and MODEL.RECOMPUTE .*: a compiled"):
        check_together(cfg, CPU)


@pytest.mark.long
def test_a_training_that_compiles_says_how_long_its_first_update_took(shared_data, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.training.compiling.compile_training_pass", lambda *_: True)
    words = ["SOLVER.EPOCHS", 1, "SOLVER.IDENTITIES", 2, "DATA.ROOT", shared_data, "DATA.WORKERS", 0, "DEVICE", "cpu"]
    words += ["SOLVER.COMPILE", "reduce-overhead", "SOLVER.CHANNELS_LAST", "false", "OUTPUT", tmp_path]
    done = run("train.py", "--config", "configs/quickstart_base.yaml", *words, drawn=False)
    assert done.stdout.count("in which the network was compiled") == 1


def test_products_are_those_that_tf32_says(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        for tf32, *expected in ("none", False, "highest"), ("convolutions", True, "highest"), ("all", True, "high"):
            select_algorithms(False, tf32)
            assert (torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (*expected,)
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])
    assert before == (True, "highest")  # torch's own are the default's


def test_the_layout_is_that_of_the_option():
    assert layout_of(load_config()) == torch.channels_last
    assert layout_of(load_config(overrides=["SOLVER.CHANNELS_LAST", "false"])) == torch.contiguous_format
