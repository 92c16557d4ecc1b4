import json
import logging
import os
import signal

import pytest
import torch

from configs.load import load_config
from models.build import build_model
from train import build_optimizer, lr_factor_at
from utils.training.run import DeviceError, HostCopy, Metrics, seed_step, select_device, start_log
from utils.stop import StopRequest, fail_clearly


def test_the_schedule_of_the_paper():
    solver = load_config().SOLVER
    expected = {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 19: 1.0, 20: 0.1, 79: 0.1, 80: 0.01, 150: 0.01}
    assert {epoch: lr_factor_at(epoch, solver) for epoch in expected} == pytest.approx(expected)


def test_the_schedules_of_the_compared_methods():
    agw = load_config("configs/sysu_agw.yaml").SOLVER
    expected = {0: 0.1, 9: 1.0, 19: 1.0, 20: 0.1, 49: 0.1, 50: 0.01, 80: 0.01}
    assert {epoch: lr_factor_at(epoch, agw) for epoch in expected} == pytest.approx(expected)
    steps = "[[20, 0.1], [80, 0.01], [120, 0.001]]"  # what DEEN's paper adds and its code never reaches
    deen = load_config("configs/sysu_deen.yaml", ["SOLVER.LR_STEPS", steps]).SOLVER
    expected = {20: 0.1, 80: 0.01, 119: 0.01, 120: 0.001, 150: 0.001}
    assert {epoch: lr_factor_at(epoch, deen) for epoch in expected} == pytest.approx(expected)


def test_neck_and_classifier_learn_at_the_base_rate_and_the_rest_at_a_tenth():
    cfg = load_config(overrides=["MODEL.BACKBONE", "resnet18", "MODEL.PRETRAINED", "none"])
    model = build_model(cfg.MODEL, 5)
    head, rest = build_optimizer(model, cfg.SOLVER).param_groups
    assert {id(p) for p in head["params"]} == {id(model.head.neck.weight), id(model.head.classifier.weight)}
    assert (head["base_lr"], rest["base_lr"]) == (pytest.approx(0.1), pytest.approx(0.01))
    for group in (head, rest):
        assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 5e-4, True)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(head["params"]) + len(rest["params"]) == len(trained)


def test_an_absent_device_is_named():
    with pytest.raises(DeviceError, match="DEVICE is 'abacus'"):
        select_device("abacus")
    assert select_device("cpu").type == "cpu"


def test_a_step_draws_the_same_numbers_whatever_came_before():
    def draw(epoch, step):
        seed_step(0, epoch, step)
        return torch.rand(3).tolist()

    first = draw(2, 5)
    torch.rand(7)
    assert draw(2, 5) == first and draw(2, 6) != first and draw(3, 5) != first


def test_numbers_arrive_on_the_host():
    assert HostCopy(torch.tensor([1.0, 2.5], requires_grad=True)).read() == [1.0, 2.5]


def test_a_signal_becomes_a_flag_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert stop.by is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.by == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) == before


def test_metrics_drop_the_lines_of_epochs_without_a_checkpoint(tmp_path):
    lines = [json.dumps({"epoch": epoch, "total": 1.0}) for epoch in range(3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"epoch": 3, "to')
    Metrics(tmp_path, first_epoch=2).write(2, {"total": 5.0})
    assert Metrics.read(tmp_path) == [
        {"epoch": 0, "total": 1.0}, {"epoch": 1, "total": 1.0}, {"epoch": 2, "total": 5.0}
    ]


def test_the_log_goes_on_after_what_is_there(tmp_path, capsys):
    for line in ("first", "second"):
        start_log(tmp_path)
        logging.getLogger("cmfn").info(line)
    assert capsys.readouterr().out == "first\nsecond\n"
    assert [line.split()[-1] for line in (tmp_path / "train.log").read_text().splitlines()] == ["first", "second"]
    logging.getLogger("cmfn").handlers.clear()


def test_an_expected_error_is_one_message_and_others_keep_their_trace():
    def fail(error):
        raise error

    with pytest.raises(SystemExit, match="^error: no such thing$"):
        fail_clearly(lambda: fail(ValueError("no such thing")), (ValueError,))
    with pytest.raises(ZeroDivisionError):
        fail_clearly(lambda: 1 / 0, (ValueError,))
