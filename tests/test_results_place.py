"""Where test.py's results go: beside their checkpoint, never silently in the place of another one's."""

import json
import shutil

import locks
import pytest
import torch
from programs import run
from shared import SMALL, copy_of

from utils.training.checkpoint import read_own_checkpoint, save_checkpoint

pytestmark = pytest.mark.usefixtures("thin")
SHORT = ["--protocol", "synthetic/indoor/single-shot/random", "TEST.WEIGHTINGS", "['neck']"]


def evaluate(*arguments, **options):
    return run("test.py", *arguments, drawn=False, **options)


def checkpoint_of(file):
    return json.loads(file.read_text())["checkpoint"]


@pytest.fixture
def original(trained, tmp_path):
    return copy_of(trained("quickstart_base"), tmp_path / "original")


@pytest.fixture
def other(original, tmp_path):
    """A copy of the run, renamed, with other weights; its configuration still names the original's folder."""
    folder = shutil.copytree(original, tmp_path / "other")
    saved = read_own_checkpoint(folder / "last.pth")
    save_checkpoint(folder / "last.pth", saved | {"step": 7})
    return folder


def test_a_copied_run_is_tested_in_its_own_folder(original, other):
    before = (original / "results.json").read_bytes()
    done = evaluate("--checkpoint", other, *SHORT)
    assert f"results: {other / 'results.json'}" in done.stdout
    assert (original / "results.json").read_bytes() == before
    assert checkpoint_of(other / "results.json")["step"] == 7


def test_results_of_another_checkpoint_are_put_aside_by_name(original, other):
    theirs = checkpoint_of(other / "results.json")["sha256"]  # came with the copy
    before, aside = (other / "results.json").read_bytes(), other / f"results-{theirs[:8]}.json"
    done = evaluate("--checkpoint", other, *SHORT)
    assert f"{other / 'results.json'} held what is not of this checkpoint; it is {aside} now" in done.stdout
    assert aside.read_bytes() == before and checkpoint_of(other / "results.json")["sha256"] != theirs
    done = evaluate("--checkpoint", original, *SHORT, "--output", other / "results.json")
    assert "held what is not of this checkpoint" in done.stdout and aside.read_bytes() == before
    done = evaluate("--checkpoint", other, *SHORT, "--output", other / "results.json")
    assert f"it is {other / f'results-{theirs[:8]}-2.json'} now" in done.stdout


def test_results_of_the_same_checkpoint_are_replaced(original):
    files = sorted(original.iterdir())
    done = evaluate("--checkpoint", original, *SHORT)
    assert "held what" not in done.stdout and sorted(original.iterdir()) == files
    assert len(json.loads((original / "results.json").read_text())["results"]) == 1


@pytest.mark.parametrize("content", ["", "notes of mine", "[]", '{"checkpoint": 3}'])
def test_a_file_that_holds_no_results_is_put_aside(original, content):
    (original / "results.json").write_text(content)
    evaluate("--checkpoint", original, *SHORT)
    assert (original / "results-older.json").read_text() == content


def test_the_user_may_name_the_place(original, tmp_path):
    before = (original / "results.json").read_bytes()
    evaluate("--checkpoint", original, *SHORT, "OUTPUT", tmp_path / "elsewhere")
    evaluate("--checkpoint", original, *SHORT, "--output", tmp_path / "file.json")
    assert (tmp_path / "elsewhere" / "results.json").exists() and (tmp_path / "file.json").exists()
    assert (original / "results.json").read_bytes() == before


def test_a_control_leaves_a_trained_runs_results_alone(original, tmp_path):
    before = (original / "results.json").read_bytes()
    evaluate("--config", original / "config.yaml", "--untrained", *SHORT)
    assert (original / "results.json").read_bytes() == before
    assert checkpoint_of(original / "results-untrained.json")["untrained"]


def test_an_authors_checkpoints_results_lie_beside_it(original, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    torch.save({"net": {"classifier.weight": torch.zeros(3, 4)}}, folder / "agw.t")
    done = evaluate("--config", original / "config.yaml", "--authors-checkpoint", folder / "agw.t", check=False)
    assert "missing: " in done.stderr  # what it lacks is said; nothing was written
    assert [path.name for path in folder.iterdir()] == ["agw.t"]


@pytest.mark.parametrize("program", ["train.py", "test.py"])
def test_a_folder_in_which_another_process_is_at_work_is_refused(program, original, shared_data):
    files = {path: path.stat().st_mtime_ns for path in original.iterdir()}
    holder, said = locks.start(original, program.removesuffix(".py"))
    arguments = {
        "train.py": ["--config", "configs/quickstart_base.yaml", "--resume", *SMALL, "DATA.ROOT", shared_data, "OUTPUT",
                     original],
        "test.py": ["--checkpoint", original],
    }[program]
    done = run(program, *arguments, check=False)
    holder.communicate()
    assert said == "taken" and done.returncode == 1
    assert f"error: process {holder.pid} on " in done.stderr and str(original) in done.stderr
    assert {path: path.stat().st_mtime_ns for path in original.iterdir()} == files


@pytest.mark.parametrize("program", ["train.py", "test.py"])
def test_a_place_that_cannot_be_written_is_named_before_any_work(program, original, shared_data, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = {
        "train.py": ["--config", "configs/quickstart_base.yaml", *SMALL, "DATA.ROOT", shared_data, "OUTPUT",
                     tmp_path / "file" / "run"],
        "test.py": ["--checkpoint", original, "--output", tmp_path / "file" / "run" / "results.json"],
    }[program]
    done = run(program, *arguments, check=False)
    assert done.returncode == 1 and f"{tmp_path / 'file'} is no folder" in done.stderr and "Rank-1" not in done.stdout


def test_what_a_full_disk_refuses_late_is_kept_and_printed(original, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("utils.output.write_atomically", full)
    monkeypatch.setattr("utils.output.tempfile.tempdir", str(tmp_path))
    done = evaluate("--checkpoint", original, *SHORT, check=False)
    assert done.returncode == 1 and "Rank-1" in done.stdout
    kept, = tmp_path.glob("kept-*/results.json")
    assert str(kept) in done.stderr and len(json.loads(kept.read_text())["results"]) == 1
