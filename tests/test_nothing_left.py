"""A training that is refused leaves nothing that was not there before, and takes nothing away."""

import pytest
from programs import run

from utils.lock import only_one

pytestmark = pytest.mark.usefixtures("thin")


def train(root, output, *options, **more):
    return run("train.py", "--config", "configs/quickstart_base.yaml", "DATA.ROOT", root, "OUTPUT", output, "DEVICE",
               "cpu", "DATA.WORKERS", "0", "SOLVER.EPOCHS", "1", *options, check=False, drawn=False, **more)


@pytest.mark.parametrize("options, message", [
    (["DATA.ROOT", "nowhere"], "there is no folder"),
    (["SOLVER.IDENTITIES", "99"], "a batch wants 99 identities"),
    (["TEST.PROTOCOLS", "['unheard-of']"], "unheard-of"),
])
def test_a_refused_training_leaves_no_folder(shared_data, tmp_path, options, message):
    done = train(shared_data, tmp_path / "runs" / "new", *options)
    assert done.returncode == 1 and message in done.stderr
    assert not [*tmp_path.iterdir()]


def test_a_refused_training_leaves_a_folder_of_before_as_it_was(shared_data, tmp_path):
    done = train(shared_data, tmp_path, "SOLVER.IDENTITIES", "4")
    assert not done.returncode, done.stderr
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"config.yaml", "last.pth", "train.log"} <= {path.name for path in before}
    assert "synthetic in " in (tmp_path / "train.log").read_text().splitlines()[0]  # said before it began
    done = train("nowhere", tmp_path, "SOLVER.IDENTITIES", "4", "--resume")
    assert done.returncode == 1 and "there is no folder" in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_lock_leaves_no_empty_folder_but_what_was_written(tmp_path):
    with only_one(tmp_path / "a" / "b", "train"):
        pass
    assert not [*tmp_path.iterdir()]
    with only_one(tmp_path / "a" / "b", "train"):
        (tmp_path / "a" / "c").write_text("")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["c"]
