import json
import logging
import math
import signal
from types import SimpleNamespace

import pytest
import torch

import train
from assembly.recipe import build_loss, build_network
from assembly.update import Update
from configs.load import load_config
from data.dataset import TrainBatches
from train import Trainer
from utils.stop import StopRequest, fail_clearly
from utils.training.optimizer import build_optimizer, kept_per_parameter, part_of_epoch, rate_at
from utils.training.run import DeviceError, HostCopy, Metrics, keep_log, seed_step, select_device, start_log
from utils.training.saving import Saving


def test_the_schedule_of_the_paper():
    solver = load_config().SOLVER
    expected = {0: 0.1, 4: 0.5, 9: 1.0, 10: 1.0, 19: 1.0, 20: 0.1, 79: 0.1, 80: 0.01, 150: 0.01}
    assert {epoch: rate_at(1.0, epoch, solver) for epoch in expected} == pytest.approx(expected)
    assert rate_at(0.01, 20, solver) == pytest.approx(0.001)  # of a group with another base rate


def test_the_schedules_of_the_compared_methods():
    agw = load_config("configs/sysu_agw.yaml").SOLVER
    expected = {0: 0.1, 9: 1.0, 19: 1.0, 20: 0.1, 49: 0.1, 50: 0.01, 80: 0.01}
    assert {epoch: rate_at(1.0, epoch, agw) for epoch in expected} == pytest.approx(expected)
    steps = "[[20, 0.1], [80, 0.01], [120, 0.001]]"  # what DEEN's paper adds and its code never reaches
    deen = load_config("configs/sysu_deen.yaml", ["SOLVER.LR_STEPS", steps]).SOLVER
    expected = {20: 0.1, 80: 0.01, 119: 0.01, 120: 0.001, 150: 0.001}
    assert {epoch: rate_at(1.0, epoch, deen) for epoch in expected} == pytest.approx(expected)


def test_neck_and_classifier_learn_at_the_base_rate_and_the_rest_at_a_tenth():
    cfg = load_config(overrides=["MODEL.BACKBONE", "resnet18", "MODEL.PRETRAINED", "none"])
    model, solver = build_network(cfg, 5), cfg.SOLVER
    head, rest = build_optimizer(model.parameter_groups(solver.BASE_LR, solver.BACKBONE_LR_FACTOR), solver).param_groups
    assert {id(p) for p in head["params"]} == {id(model.head.neck.weight), id(model.head.classifier.weight)}
    assert (head["base_lr"], rest["base_lr"]) == (pytest.approx(0.1), pytest.approx(0.01))
    for group in (head, rest):
        assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 5e-4, True)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(head["params"]) + len(rest["params"]) == len(trained)


def solver_of(**options):
    words = [word for key, value in options.items() for word in (f"SOLVER.{key}", str(value))]
    return load_config(overrides=words).SOLVER


def test_the_cosine_by_hand():
    """Epoch t = e + 1 of T = 24, by methods that warm up in 3: a line from the lowest rate, then half a cosine."""
    solver = solver_of(SCHEDULE="cosine", EPOCHS=24, WARMUP_EPOCHS=3, LOWEST_LR=3e-6)
    rates = {e + 1: rate_at(3e-4, e, solver) for e in range(24)}
    assert [rates[t] for t in (1, 2)] == pytest.approx([3e-6 + 99e-6, 3e-6 + 198e-6])  # t (b - low) / 3
    half = 0.5 * 297e-6
    assert rates[3] == pytest.approx(3e-6 + half * (1 + math.cos(math.pi / 8)))  # not moved by the warm-up
    assert [rates[t] for t in (6, 12, 18)] == pytest.approx(
        [3e-6 + half * (1 + 0.5 ** 0.5), 3e-6 + half, 3e-6 + half * (1 - 0.5 ** 0.5)]
    )
    assert rates[24] == pytest.approx(3e-6)  # the last epoch runs at the lowest
    assert rate_at(1.5e-4, 11, solver) == pytest.approx(3e-6 + 0.5 * 147e-6)  # the same lowest for every group
    assert [*rates.values()][2:] == sorted([*rates.values()][2:], reverse=True)


def test_a_cosine_without_a_warm_up_and_a_lowest_rate():
    solver = solver_of(SCHEDULE="cosine", EPOCHS=4, WARMUP_EPOCHS=0)
    rates = [rate_at(2.0, epoch, solver) for epoch in range(4)]
    assert rates == pytest.approx([1 + 0.5 ** 0.5, 1, 1 - 0.5 ** 0.5, 0], abs=1e-12)


def test_a_line_through_points_by_hand():
    solver = solver_of(SCHEDULE="line", LR_POINTS="[[0, 0.1], [4, 0.5], [6, 0.0]]")
    rates = [rate_at(2.0, epoch, solver) for epoch in range(8)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 0.5, 0, 0])


def test_the_rate_of_an_update_is_on_its_way_to_the_next_epochs():
    """Of three announced updates a fourth is made; looked up one update back, the first has that of the third."""
    places = {by: [part_of_epoch(i, 3, solver_of(RATE_BY=by)) for i in range(4)]
              for by in ("epoch", "update", "update_before")}
    assert places == {
        "epoch": [0, 0, 0, 0], "update": pytest.approx([0, 1 / 3, 2 / 3, 1]),
        "update_before": pytest.approx([2 / 3, 0, 1 / 3, 2 / 3]),
    }
    line = solver_of(SCHEDULE="line", LR_POINTS="[[0, 0.0], [2, 1.0]]")
    assert [rate_at(6.0, 0, line, part) for part in (0, 1 / 3, 1)] == pytest.approx([0, 1, 3])
    cosine = solver_of(SCHEDULE="cosine", EPOCHS=4, WARMUP_EPOCHS=0, LOWEST_LR=0.1)
    assert rate_at(1.0, 3, cosine, 0.5) == pytest.approx(0.1)  # nothing comes after the last epoch


def test_a_training_sets_the_rate_before_each_update(shared_data, tmp_path, thin, monkeypatch):
    """An update has three batches; they are as many as the loader announces, which is one batch less than it has."""
    words = [
        "DATA.ROOT", str(shared_data), "OUTPUT", str(tmp_path), "SOLVER.EPOCHS", "1", "SOLVER.IDENTITIES", "2",
        "SOLVER.IMAGES", "1", "DEVICE", "cpu", "DATA.WORKERS", "0", "SOLVER.SCHEDULE", "line", "SOLVER.BASE_LR", "1",
        "SOLVER.LR_POINTS", "[[0, 0.0], [1, 1.0]]", "SOLVER.RATE_BY", "update", "SOLVER.ACCUMULATION", "3",
    ]
    trainer = Trainer(load_config("configs/quickstart_agw.yaml", words), False, torch.device("cpu"))
    rates = []

    def noted(batches, epoch, step, stop):
        rates.append(trainer.update.optimizer.param_groups[0]["lr"])
        return {"total": 0.0}, False

    monkeypatch.setattr(trainer, "step", noted)
    trainer.run()
    assert trainer.batches.length(0) == 9 and rates == pytest.approx([0, 1 / 3, 2 / 3])


@pytest.mark.parametrize("reading, waiting", [(1, 8 / 18), (0.1, 0.8 / 9.9)])
def test_a_training_says_how_long_it_waited_for_images(
    reading, waiting, shared_data, tmp_path, thin, monkeypatch, capsys,
):
    """Nine updates of a second each; the first one's images are not waited for, but start the loader.

    reading   seconds for a batch
    """
    words = [
        "DATA.ROOT", str(shared_data), "OUTPUT", str(tmp_path), "SOLVER.EPOCHS", "1", "SOLVER.IDENTITIES", "2",
        "SOLVER.IMAGES", "1", "DEVICE", "cpu", "DATA.WORKERS", "0",
    ]
    trainer = Trainer(load_config("configs/quickstart_agw.yaml", words), False, torch.device("cpu"))
    now, read = [0.0], TrainBatches.__getitem__

    def after(seconds, result):
        now[0] += seconds
        return result

    monkeypatch.setattr(train, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(TrainBatches, "__getitem__", lambda *args: after(reading, read(*args)))
    monkeypatch.setattr(trainer, "step", lambda *_: after(1, ({"total": 0.0}, False)))
    trainer.run()
    (line,) = Metrics.read(tmp_path)
    assert line["waiting"] == pytest.approx(waiting)
    said = f"{waiting:.0%} of the time went by in waiting for images, with DATA.WORKERS 0."
    assert (said in capsys.readouterr().out) == (waiting > 0.2)


@pytest.mark.parametrize("saved", [True, False])
def test_a_kill_around_an_epochs_checkpoint_loses_no_line_of_the_metrics(
    saved, shared_data, tmp_path, thin, monkeypatch,
):
    """
    saved   whether the kill comes after the checkpoint, or before it
    """
    words = [
        "DATA.ROOT", str(shared_data), "OUTPUT", str(tmp_path), "SOLVER.EPOCHS", "2", "SOLVER.IDENTITIES", "4",
        "SOLVER.IMAGES", "1", "DEVICE", "cpu", "DATA.WORKERS", "0",
    ]
    cfg, save = load_config("configs/quickstart_agw.yaml", words), Trainer.save

    def killed(trainer, best=False):
        if saved:
            save(trainer, best)
        raise SystemExit("killed")

    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="killed"):
        patch.setattr(Trainer, "save", killed)
        Trainer(cfg, False, torch.device("cpu")).run()
    Trainer(cfg, True, torch.device("cpu")).run()
    assert [line["epoch"] for line in Metrics.read(tmp_path)] == [0, 1]


@pytest.mark.parametrize("name, kind, step", [
    # Gradient 2, weight 3, rate 0.1, decay 0.5: Nesterov's first step is rate · (1 + momentum) · (2 + 0.5 · 3); Adam's
    # is the rate whatever the gradient; AdamW shrinks the weight by rate · decay beside that.
    ("sgd", torch.optim.SGD, 0.1 * 1.9 * 3.5), ("adam", torch.optim.Adam, 0.1),
    ("adamw", torch.optim.AdamW, 0.1 + 0.1 * 0.5 * 3),
])
def test_an_optimizer_by_name_makes_the_step_that_it_should(name, kind, step):
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = build_optimizer(
        [{"params": [weight], "base_lr": 0.1}], solver_of(OPTIMIZER=name, BASE_LR=0.1, WEIGHT_DECAY=0.5),
    )
    assert type(optimizer) is kind
    weight.grad = torch.tensor([2.0])
    optimizer.step()
    assert weight.item() == pytest.approx(3 - step, abs=1e-6)


def test_adam_adds_the_decay_to_the_gradient_and_adamw_does_not():
    """Without a gradient of its own: Adam's step is the rate, by the decay's sign; AdamW's is rate · decay · weight."""
    for name, step in (("adam", 0.1), ("adamw", 0.1 * 0.01 * 3)):
        weight = torch.nn.Parameter(torch.tensor([3.0]))
        optimizer = build_optimizer(
            [{"params": [weight], "base_lr": 0.1}], solver_of(OPTIMIZER=name, BASE_LR=0.1, WEIGHT_DECAY=0.01),
        )
        group, = optimizer.param_groups
        assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 0.01)
        weight.grad = torch.tensor([0.0])
        optimizer.step()
        assert weight.item() == pytest.approx(3 - step, abs=1e-5), name


def test_an_update_sets_each_groups_rate_by_its_base(thin):
    cfg = load_config("configs/quickstart_agw.yaml", ["SOLVER.BASE_LR", "0.5", "SOLVER.BACKBONE_LR_FACTOR", "0.2"])
    model = build_network(cfg, 3)
    update = Update(cfg, model, build_loss(cfg), torch.device("cpu"))
    assert update.set_rate(0) == 0.5
    assert [group["lr"] for group in update.optimizer.param_groups] == pytest.approx([0.5, 0.1])
    assert update.set_rate(2) == pytest.approx(0.15)  # from there on, quickstart_agw.yaml has three tenths
    assert [group["lr"] for group in update.optimizer.param_groups] == pytest.approx([0.15, 0.03])


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
        signal.raise_signal(signal.SIGTERM)
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
        keep_log()
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


@pytest.mark.parametrize("optimizer, kept", [("sgd", 1), ("adam", 2), ("adamw", 2)])
def test_checkpoints_need_room_for_what_the_optimiser_keeps(optimizer, kept, tmp_path):
    """Last and its replacement, each with weights and what torch's optimiser has of them after a step."""
    solver, model = load_config(overrides=["SOLVER.OPTIMIZER", optimizer]).SOLVER, torch.nn.Linear(3, 2)
    trained = build_optimizer([{"params": [*model.parameters()], "base_lr": 0.1}], solver)
    model(torch.ones(1, 3)).sum().backward()
    trained.step()
    moments = [x for state in trained.state.values() for x in state.values() if torch.is_tensor(x) and x.ndim]
    assert len(moments) == kept * 2 and kept_per_parameter(solver) == kept
    assert Saving(tmp_path).room(model, kept, best=False) == 2 * (8 * 4 + sum(x.nbytes for x in moments))
