"""The edits that docs/adding_a_*.md show, made in a copy of the repository, do what the pages say."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trees import picture

from data.synthetic import write_synthetic

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("configs", "data", "losses", "models", "scripts", "tests", "utils")
SMALL = [
    "DATA.WORKERS", "0", "DATA.HEIGHT", "64", "DATA.WIDTH", "32", "DEVICE", "cpu", "MODEL.BACKBONE", "resnet18",
    "MODEL.PRETRAINED", "none", "SOLVER.EPOCHS", "1", "SOLVER.IDENTITIES", "3", "SOLVER.IMAGES", "2",
]


def edited_copy(page, folder):
    """The repository in a folder, with all files and differences of a page of docs/ put into it."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.npz", "*.pt"))
    for name in ("train.py", "test.py"):
        shutil.copy(ROOT / name, folder)
    blocks = re.findall(r"```(python|yaml|diff)\n# (\S+)\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert blocks
    for kind, file, content in blocks:
        path = folder / file
        if kind != "diff":
            assert not path.exists()
            path.write_text(content)
            continue
        lines = content.splitlines(keepends=True)
        old, new = ("".join(line[1:] for line in lines if line[0] in marks) for marks in (" -", " +"))
        text = path.read_text()
        assert text.count(old) == 1, f"{file} has this {text.count(old)} times, not once:\n{old}"
        path.write_text(text.replace(old, new))
    return folder


def call(folder, *arguments, check=True):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "synthetic"
    write_synthetic(root, seed=3, train_identities=6, test_identities=4, images_per_camera=2, height=64, width=32)
    return root


def test_the_page_on_data_sets(tmp_path):
    repository, data = edited_copy("adding_a_dataset.md", tmp_path / "repository"), tmp_path / "lobby"
    for split, people in (("train", range(1, 5)), ("test", range(5, 8))):
        for modality, camera in (("day", 1), ("night", 2)):
            for identity in people:
                for number in range(2):
                    name = data / split / modality / f"{identity:04d}" / f"{camera}_{number:04d}.jpg"
                    picture(name, seed=100 * identity + 10 * camera + number)
    run = tmp_path / "run"
    arguments = ["train.py", "--config", "configs/lobby_cmfn.yaml", *SMALL, "DATA.ROOT", data, "OUTPUT", run]
    assert re.search(r"train  both      4 +16 +2", call(repository, *arguments).stdout)
    call(repository, "test.py", "--checkpoint", run)
    results = json.loads((run / "results.json").read_text())["results"]
    assert {result["protocol"] for result in results} == {"lobby/ir-to-vis"}
    assert {len(result["trials"]) for result in results} == {10}

    (data / "test" / "night" / "0006" / "2_0001.jpg").rename(data / "test" / "night" / "0006" / "left_0001.jpg")
    done = call(repository, "test.py", "--checkpoint", run, check=False)
    assert done.returncode == 1 and "left_0001.jpg should begin with its camera's number" in done.stderr


def test_the_page_on_modules(tmp_path):
    repository = edited_copy("adding_a_module.md", tmp_path / "repository")
    program = """
import sys
import torch
from configs.load import load_config
from models.build import build_model

torch.manual_seed(0)
options = ["MODEL.BACKBONE", "resnet18", "MODEL.PRETRAINED", "none", *sys.argv[2:]]
model = build_model(load_config(overrides=options).MODEL, classes=3).eval()
torch.manual_seed(1)
embeddings = model.embed(torch.randn(2, 3, 64, 32), infrared=False)
torch.save((sorted(model.state_dict()), embeddings.detach()), sys.argv[1])
"""
    (repository / "embed.py").write_text(program)
    (tmp_path / "before.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{program}")
    call(tmp_path, "before.py", tmp_path / "before.pt")
    call(repository, "embed.py", tmp_path / "off.pt")
    call(repository, "embed.py", tmp_path / "on.pt", "MODEL.SQUEEZE.ENABLED", "true")
    (names, before), (names_off, off), (names_on, on) = (
        torch.load(tmp_path / f"{name}.pt") for name in ("before", "off", "on")
    )
    assert names == names_off and torch.equal(before, off)
    assert {name.split(".")[0] for name in set(names_on) - set(names)} == {"squeeze"} and not torch.equal(on, off)
    call(repository, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_models.py", "-k",
         "trains_and_embeds and squeeze")
    listed = call(repository, "-c", "import sys; sys.path.insert(0, 'scripts'); from ablation import VARIANTS; "
                                    "print(VARIANTS['cmfn']['squeeze'][1]['MODEL.SQUEEZE.ENABLED'])")
    assert listed.stdout == "True\n"


def test_the_page_on_losses(tmp_path, synthetic):
    repository = edited_copy("adding_a_loss.md", tmp_path / "repository")
    call(repository, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_center_gap.py")
    for weight in ("0.0", "0.5"):
        call(repository, "train.py", "--config", "configs/quickstart.yaml", *SMALL, "DATA.ROOT", synthetic, "OUTPUT",
             tmp_path / weight, "LOSS.CENTER_GAP_WEIGHT", weight)
    without, with_it = (json.loads((tmp_path / name / "metrics.jsonl").read_text()) for name in ("0.0", "0.5"))
    assert "center_gap" not in without and with_it["center_gap"] > 0
