"""What a training survives: being killed at any moment, a full disk, too little memory."""

import random
import signal
import time

import pytest
import torch
from processes import context
from thin import SHORT, thin

from configs.load import load_config
from data.synthetic import write_synthetic
from train import Trainer
from utils.training.checkpoint import read_own_checkpoint
from utils.training.run import Metrics, OutOfMemory

pytestmark = pytest.mark.usefixtures("thin")
OPTIONS = {
    "MODEL.BACKBONE": "resnet18", "MODEL.PRETRAINED": "none", "MODEL.STAGES": "3", "DATA.NAME": "synthetic",
    "DATA.HEIGHT": "32", "DATA.WIDTH": "16", "DATA.WORKERS": "0", "DATA.ERASING_AREA": "[0.1, 0.3]",
    "SOLVER.IDENTITIES": "4", "SOLVER.IMAGES": "2", "SOLVER.EPOCHS": "60", "DEVICE": "cpu",
}
WHOLE = {"MODEL.HCE.ENABLED": "true", "MODEL.CSC_CMA.ENABLED": "true"}  # what SHORT leaves out
PLAIN = {"MODEL.MBUE.ENABLED": "false", "SOLVER.IMAGES": "5"}  # for a test of which the network is no part
FEW = {"SOLVER.IMAGES": "5"}  # of each identity: two steps in an epoch instead of four


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "synthetic"
    write_synthetic(root, seed=3, train_identities=6, test_identities=3, images_per_camera=1, height=32, width=16)
    return root


def trainer(data, run, resume=False, **options):
    options = OPTIONS | {"DATA.ROOT": str(data), "OUTPUT": str(run)} | options
    cfg = load_config("configs/quickstart_cmfn.yaml", [*SHORT, *(part for pair in options.items() for part in pair)])
    return Trainer(cfg, resume, torch.device("cpu"))


def train(data, run, epochs):
    torch.set_num_threads(1)
    with thin():
        trainer(data, run, resume=True, **PLAIN, **{"SOLVER.EPOCHS": str(epochs)}).run()


def test_curves_are_drawn_while_it_trains_and_cost_nothing_but_a_warning(data, tmp_path, monkeypatch):
    epochs = []

    def draw(folder):
        epochs.append([line["epoch"] for line in Metrics.read(folder)])
        raise RuntimeError("no picture today")

    monkeypatch.setattr("train.write_curves", draw)
    trainer(data, tmp_path / "run", **{**PLAIN, "SOLVER.EPOCHS": "5", "SOLVER.EVAL_PERIOD": "2"}).run()
    assert epochs == [[0, 1], [0, 1, 2, 3]] and read_own_checkpoint(tmp_path / "run" / "last.pth")["epoch"] == 5
    assert (tmp_path / "run" / "train.log").read_text().count("curves.png was not drawn: no picture today") == 2


def test_a_training_killed_again_and_again_ends_with_the_weights_of_an_undisturbed_one(data, tmp_path, whole):
    epochs, kills = (60, 20) if whole else (10, 4)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    process = context().Process(target=train, args=(data, undisturbed, epochs))
    process.start()
    process.join()
    assert process.exitcode == 0

    moments, progress, during_write = random.Random(0), [], 0
    last, temporary = killed / "last.pth", killed / "last.pth.tmp"
    for number in range(kills):
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = context().Process(target=train, args=(data, killed, epochs))
        process.start()
        if number % 2:  # while a checkpoint is being written
            wait_until(lambda before=before: newer(last, before) and temporary.exists(), process)
        else:
            wait_until(lambda before=before: newer(last, before), process)
            time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL  # it was still at work
        during_write += temporary.exists()  # which a write that ends takes away
        saved = read_own_checkpoint(last)
        progress.append((saved["epoch"], saved["step"]))
    assert progress == sorted(progress) and progress[0] < progress[-1] and during_write >= kills // 4

    process = context().Process(target=train, args=(data, killed, epochs))
    process.start()
    process.join()
    assert process.exitcode == 0
    expected, found = (read_own_checkpoint(run / "last.pth") for run in (undisturbed, killed))
    assert found["epoch"] == expected["epoch"] == epochs
    for name, value in expected["model"].items():
        assert torch.equal(found["model"][name], value), name
    for i, state in expected["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(found["optimizer"]["state"][i][name], value), (i, name)
    assert [line.count('"epoch"') for line in (killed / "metrics.jsonl").read_text().splitlines()] == [1] * epochs


def newer(path, than):
    return path.exists() and path.stat().st_mtime_ns > than


def wait_until(condition, process):
    deadline = time.time() + 60
    while not condition() and process.is_alive():
        assert time.time() < deadline
        time.sleep(0.0005)


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore about it"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 bytes"),
])
def test_too_little_memory_ends_with_what_to_change(data, tmp_path, error, monkeypatch):
    training = trainer(data, tmp_path / "run")
    monkeypatch.setattr(training.update, "network", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(OutOfMemory) as raised:
        training.run()
    message = str(raised.value)
    assert message.startswith("out of memory (") and "allocate" in message and "More about it" not in message
    for word in ("4 identities with 2 x 2 images of 32x16 in float32", "MODEL.RECOMPUTE", "SOLVER.PRECISION bfloat16",
                 "SOLVER.IDENTITIES", "SOLVER.IMAGES", "SOLVER.ACCUMULATION", "GPUs"):
        assert word in message


def test_other_runtime_errors_keep_their_trace(data, tmp_path, monkeypatch):
    training = trainer(data, tmp_path / "run")
    monkeypatch.setattr(training.update, "network", lambda *_: (_ for _ in ()).throw(RuntimeError("a mistake")))
    with pytest.raises(RuntimeError, match="a mistake"):
        training.run()


def test_recomputing_may_be_switched_on_when_resuming(data, tmp_path):
    options = {**FEW, **WHOLE, "MODEL.MBUE.DROPOUT": "0.0", "MODEL.MBUE.DROP_PATH": "0.0"}
    trainer(data, tmp_path / "run", **{**options, "SOLVER.EPOCHS": "1"}).run()
    parts = {"MODEL.RECOMPUTE": "['hce', 'mfa', 'mbue']"}
    trainer(data, tmp_path / "run", resume=True, **{**options, **parts, "SOLVER.EPOCHS": "2"}).run()
    assert read_own_checkpoint(tmp_path / "run" / "last.pth")["epoch"] == 2


def test_accumulated_batches_make_one_update_by_their_mean_gradient(data, tmp_path):
    def gradients(name, batches):
        options = {"MODEL.MBUE.DROPOUT": "0.0", "MODEL.MBUE.DROP_PATH": "0.0", "SOLVER.BASE_LR": "0.0"}
        training = trainer(data, tmp_path / name, **WHOLE, **options)
        training.model.train()
        terms, _ = training.update([training.batches[0, i] for i in batches], epoch=0, step=0, stop=False)
        return {n: p.grad for n, p in training.model.named_parameters() if p.requires_grad}, terms["total"]

    (first, first_loss), (second, second_loss) = gradients("a", [0]), gradients("b", [1])
    both, loss = gradients("c", [0, 1])
    assert loss == pytest.approx((first_loss + second_loss) / 2, rel=1e-5)
    largest = max(g.abs().max() for g in both.values())
    for name, gradient in both.items():
        torch.testing.assert_close(gradient, (first[name] + second[name]) / 2, rtol=1e-3, atol=1e-6 * largest, msg=name)


def test_an_epoch_of_accumulated_batches_shows_every_batch_once(data, tmp_path):
    training = trainer(data, tmp_path / "run", **{"SOLVER.ACCUMULATION": "2", "SOLVER.EPOCHS": "1"})
    assert training.batches.length(0) == 4 and training.batches.updates(0) == 2
    training.batches.seen = []
    original = type(training.batches).__getitem__

    class Watched(type(training.batches)):
        def __getitem__(self, key):
            self.seen.append(key)
            return original(self, key)

    training.batches.__class__ = Watched
    training.run()
    assert training.batches.seen == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_two_deterministic_runs_have_equal_weights(data, tmp_path):
    weights = []
    for name in ("a", "b"):
        trainer(data, tmp_path / name, **{**FEW, **WHOLE, "DETERMINISTIC": "true", "SOLVER.EPOCHS": "1"}).run()
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
        weights.append(read_own_checkpoint(tmp_path / name / "last.pth")["model"])
    trainer(data, tmp_path / "c")
    assert not torch.are_deterministic_algorithms_enabled()
    for name, value in weights[0].items():
        assert torch.equal(weights[1][name], value), name
