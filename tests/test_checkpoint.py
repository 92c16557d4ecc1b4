import pickle

import pytest
import torch
from torch import nn

from utils.training import checkpoint
from utils.training.checkpoint import (
    CheckpointError,
    load_weights,
    read_checkpoint,
    read_own_checkpoint,
    save_checkpoint,
)


def test_what_is_saved_is_read_back(tmp_path):
    save_checkpoint(tmp_path / "last.pth", {"model": {"w": torch.arange(3)}, "epoch": 2})
    state = read_own_checkpoint(tmp_path / "last.pth")
    assert state["epoch"] == 2 and state["model"]["w"].tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["last.pth"]


def test_a_failed_save_keeps_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pth"
    save_checkpoint(path, {"epoch": 1})

    def full_disk(state, file):
        file.write(b"half a checkpoint")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full_disk)
    with pytest.raises(CheckpointError, match=r"could not be written \(.*No space left.*the older .*last.pth is kept"):
        save_checkpoint(path, {"epoch": 2})
    monkeypatch.undo()
    assert read_own_checkpoint(path)["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pth"]


def test_an_interrupted_write_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "last.pth"
    save_checkpoint(path, {"epoch": 1})
    monkeypatch.setattr(checkpoint.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"epoch": 2})
    assert read_own_checkpoint(path)["epoch"] == 1


def test_an_unreadable_file_is_named(tmp_path):
    path = tmp_path / "last.pth"
    with pytest.raises(CheckpointError, match="no checkpoint at .*last.pth"):
        read_checkpoint(path)
    save_checkpoint(path, {"w": torch.zeros(10_000)})
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(CheckpointError, match="last.pth is truncated, corrupt"):
        read_checkpoint(path)


@pytest.mark.parametrize("key, value, kinds", [
    ("model", [torch.zeros(1)], "model is of type list, not dict"),
    ("identities", None, "identities is of type NoneType, not list"),
    ("epoch", 1.5, "epoch is of type float, not int"),
])
def test_an_altered_part_is_named(tmp_path, key, value, kinds):
    save_checkpoint(tmp_path / "last.pth", {"model": {}, key: value})
    with pytest.raises(CheckpointError, match=f"last.pth was altered since train.py wrote it: its {kinds}; copy"):
        read_own_checkpoint(tmp_path / "last.pth")


@pytest.mark.parametrize("change, kind", [
    (torch.Tensor.half, "float16, strided"), (torch.Tensor.double, "float64, strided"),
    (torch.Tensor.int, "int32, strided"), (torch.Tensor.to_sparse, "float32, sparse_coo"),
])
def test_weights_of_another_kind_are_refused_and_change_nothing(change, kind):
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match=f"of another kind: weight is {kind}, not float32, strided"):
        load_weights(model, model.state_dict() | {"weight": change(torch.eye(2))}, "last.pth")
    assert torch.equal(model.weight, before)


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"format": 1, "x": Attack()}, tmp_path / "bad.pth")
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Attack(), protocol=2))
    for name in ("bad.pth", "bad.pkl"):
        with pytest.raises(CheckpointError, match=name):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_another_programs_file_is_told_apart(tmp_path):
    torch.save({"net": {}}, tmp_path / "theirs.t")
    with pytest.raises(CheckpointError, match="--authors-checkpoint"):
        read_own_checkpoint(tmp_path / "theirs.t")


def test_weights_must_fit_exactly():
    model = nn.Linear(2, 3)
    with pytest.raises(CheckpointError) as error:
        load_weights(model, {"weight": torch.zeros(3, 5), "gain": torch.zeros(1)}, "a.pth")
    message = str(error.value)
    assert "missing: bias" in message and "unexpected: gain" in message
    assert "of another shape: weight is [3, 5], not [3, 2]" in message
