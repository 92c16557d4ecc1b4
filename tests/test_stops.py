"""Where a signal can hit a program: while it is imported, before, in and after the loop. Nothing trained is lost."""

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from programs import run, run_apart

import train
from assembly import validation
from configs.load import load_config
from data.synthetic import write_synthetic
from train import Trainer
from utils.training import saving
from utils.training.checkpoint import CheckpointError, read_own_checkpoint
from utils.training.run import Metrics

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = {
    "MODEL.BACKBONE": "resnet18", "MODEL.PRETRAINED": "none", "MODEL.STAGES": "3", "MODEL.MBUE.ENABLED": "false",
    "MODEL.CSC_CMA.ENABLED": "false", "MODEL.HCE.ENABLED": "false", "DATA.HEIGHT": "32", "DATA.WIDTH": "16",
    "DATA.WORKERS": "0", "SOLVER.IDENTITIES": "2", "SOLVER.IMAGES": "3", "SOLVER.EPOCHS": "2",
    "SOLVER.VALIDATION_IDS": "2", "SOLVER.EVAL_PERIOD": "1", "DEVICE": "cpu",
}
SPEED = ("images_per_second", "waiting")
pytestmark = pytest.mark.usefixtures("thin")


@pytest.fixture(scope="module", autouse=True)
def nothing_is_drawn():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "write_curves", lambda folder: None)
        yield


@pytest.fixture(autouse=True)
def signals_as_a_terminal_leaves_them():
    """What starts the tests may ignore some, as nohup does."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL}
    found = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in found.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "synthetic"
    write_synthetic(root, seed=3, train_identities=4, test_identities=2, images_per_camera=1, height=32, width=16)
    return root


def words(data, run):
    options = OPTIONS | {"DATA.ROOT": str(data), "OUTPUT": str(run)}
    return [part for pair in options.items() for part in pair]


def trainer(data, run, resume=False):
    cfg = load_config(ROOT / "configs" / "quickstart_cmfn.yaml", words(data, run))
    return Trainer(cfg, resume, torch.device("cpu"))


@pytest.fixture(scope="module")
def whole(data, thin, tmp_path_factory):
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert trainer(data, folder).run() == 0
    return folder


def signalling(number, function, call=1):
    """The function; before its `call`-th call this process is sent the signal."""
    calls = []

    def wrapped(*arguments, **named):
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(number)
        return function(*arguments, **named)

    return wrapped


def assert_equal_runs(a, b):
    for name in ("last.pth", "best.pth"):
        expected, found = (read_own_checkpoint(run / name) for run in (a, b))
        assert expected["best"] == found["best"] and expected["epoch"] == found["epoch"]
        for key, value in expected["model"].items():
            assert torch.equal(value, found["model"][key]), key
    expected, found = ([{**line, **dict.fromkeys(SPEED, 0)} for line in Metrics.read(run)] for run in (a, b))
    assert expected == found and len(found) == 2


@pytest.mark.parametrize("number, epoch", [(signal.SIGTERM, 0), (signal.SIGINT, 1), (signal.SIGHUP, 0)])
def test_a_stop_in_a_validation_keeps_the_epoch(data, whole, tmp_path, monkeypatch, capsys, number, epoch):
    with monkeypatch.context() as patch:
        patch.setattr(validation, "embed_records", signalling(number, validation.embed_records, epoch + 1))
        assert trainer(data, tmp_path).run() == 128 + number
    assert f"stopped by {number.name}; go on with the same command and --resume" in capsys.readouterr().out
    saved = read_own_checkpoint(tmp_path / "last.pth")
    assert saved["epoch"] == epoch + 1 and saved["step"] == 0 and saved["figures"]["total"] > 0
    assert [line["epoch"] for line in Metrics.read(tmp_path)] == list(range(epoch))
    assert trainer(data, tmp_path, resume=True).run() == 0
    assert_equal_runs(whole, tmp_path)


def test_a_validation_that_was_stopped_is_not_a_complete_training(data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(validation, "embed_records", signalling(signal.SIGTERM, validation.embed_records, 2))
        trainer(data, tmp_path).run()
    done = run("test.py", "--checkpoint", tmp_path, "--complete", check=False)
    assert done.returncode == 1 and "was stopped in its last validation: go on with train.py --resume" in done.stderr


@pytest.mark.parametrize("call", [1, 2])  # before the validation, and after it the best
def test_a_stop_while_the_state_is_saved_keeps_it(data, whole, tmp_path, monkeypatch, call):
    with monkeypatch.context() as patch:
        patch.setattr(saving, "save_checkpoint", signalling(signal.SIGTERM, saving.save_checkpoint, call))
        assert trainer(data, tmp_path).run() == 128 + signal.SIGTERM
    assert read_own_checkpoint(tmp_path / "last.pth")["epoch"] >= 1
    assert trainer(data, tmp_path, resume=True).run() == 0
    assert_equal_runs(whole, tmp_path)


def test_the_second_signal_stops_at_once_and_what_was_saved_before_is_whole(data, whole, tmp_path, monkeypatch):
    def twice(*arguments, **named):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(validation, "embed_records", twice)
        with pytest.raises(KeyboardInterrupt):
            trainer(data, tmp_path).run()
    assert trainer(data, tmp_path, resume=True).run() == 0
    assert_equal_runs(whole, tmp_path)


@pytest.mark.parametrize("program, number, place", [
    ("train.py", signal.SIGTERM, "data.dataset.open_benchmark"),
    ("train.py", signal.SIGINT, "assembly.recipe.build_model"),
    ("test.py", signal.SIGTERM, "assembly.trained.load_config"),
    ("test.py", signal.SIGINT, "data.dataset.open_benchmark"),
])
def test_a_stop_before_the_loop_is_one_line(data, whole, tmp_path, monkeypatch, program, number, place):
    module, name = place.rsplit(".", 1)
    monkeypatch.setattr(place, signalling(number, getattr(sys.modules[module], name)))
    arguments = {
        "train.py": ["--config", "configs/quickstart_cmfn.yaml", *words(data, tmp_path)],
        "test.py": ["--checkpoint", whole, "--output", tmp_path / "results.json"],
    }[program]
    done = run(program, *arguments, check=False)
    assert done.returncode == 128 + number
    assert done.stderr.splitlines() == [f"stopped by {number.name}"]


def test_a_stopped_program_gives_the_signals_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run("test.py", "--checkpoint", "nowhere", check=False)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_what_a_full_disk_refuses_is_kept_elsewhere(data, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    whole_save = saving.save_checkpoint

    def full(path, state):
        if path.parent == tmp_path / "run":
            raise CheckpointError(f"{path} could not be written (No space left on device)")
        whole_save(path, state)

    monkeypatch.setattr(saving, "save_checkpoint", full)
    with pytest.raises(CheckpointError, match="What was trained up to here is in .*elsewhere.*last.pth: make room"):
        trainer(data, tmp_path / "run").run()
    kept, = (tmp_path / "elsewhere").glob("*/last.pth")
    assert read_own_checkpoint(kept)["epoch"] == 1


def test_a_disk_without_room_for_the_checkpoints_is_noticed_before_the_training(data, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 2 << 20}))
    done = run("train.py", "--config", "configs/quickstart_cmfn.yaml", *words(data, tmp_path), check=False)
    assert done.returncode == 1 and "2.1 MB are free on its disk" in done.stderr and "OUTPUT" in done.stderr
    assert "epoch 0" not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
@pytest.mark.parametrize("program", ["train.py", "test.py"])
def test_a_stop_while_a_program_is_imported_is_one_line(tmp_path, program, number):
    """What takes the seconds of an import is torch; a stand-in of it sends the signal."""
    (tmp_path / "torch.py").write_text(f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(60)\n")
    done = run_apart(sys.executable, ROOT / program, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", f"stopped by {number.name}\n")


@pytest.mark.parametrize("program, missing", [
    (["train.py"], "torch"), (["scripts/search.py"], "PIL"), (["-m", "data.synthetic"], "numpy"),
])
def test_a_shell_without_the_environment_is_told_how_to_get_it(program, missing):
    """As before `source .venv/bin/activate`: a Python that has its standard library alone (-S)."""
    done = run_apart(sys.executable, "-S", *program)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {sys.executable} has no module {missing}. Once in a shell: source ")
    assert f"{ROOT}/.venv/bin/activate" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_module_of_the_repository_that_is_missing_is_no_library():
    """A fault of the code: its stack trace is shown."""
    code = "from utils.stop import stop_in_one_line; stop_in_one_line(); import utils.nowhere"
    done = run_apart(sys.executable, "-c", code)
    assert done.stderr.startswith("Traceback") and "No module named 'utils.nowhere'" in done.stderr
