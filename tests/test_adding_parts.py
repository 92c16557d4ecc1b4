"""The edits that docs/adding_a_*.md show, made in a copy of the repository, do what the pages say."""

import inspect
import json
import re
import shutil
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from programs import run_apart
from trees import write_image

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("assembly", "common", "configs", "data", "docs", "losses", "models", "scripts", "tests", "utils")
SMALL = [
    "DATA.WORKERS", "0", "DATA.HEIGHT", "64", "DATA.WIDTH", "32", "DEVICE", "cpu", "MODEL.BACKBONE", "resnet18",
    "MODEL.PRETRAINED", "none", "SOLVER.EPOCHS", "1", "SOLVER.IDENTITIES", "3", "SOLVER.IMAGES", "2",
]


def edited_copy(page, folder):
    """The repository in a folder, with all files and differences of a page of docs/ put into it."""
    for name in FOLDERS:
        ignore = shutil.ignore_patterns("__pycache__", "*.npz", "*.pt", "images")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
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


def call(folder, code, *arguments):
    """What Python code prints that sees the copy; its programs run in the same interpreter, with a thin network."""
    code = f"""
import sys
sys.path[:0] = [{str(folder)!r}, {str(folder / "tests")!r}, {str(folder / "scripts")!r}]
import pytest
from programs import run
from thin import thin
with thin():
{textwrap.indent(textwrap.dedent(code), "    ")}
"""
    done = run_apart(sys.executable, "-c", code, *arguments, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_the_page_on_data_sets(tmp_path):
    repository, data = edited_copy("adding_a_dataset.md", tmp_path / "repository"), tmp_path / "lobby"
    for split, people in (("train", range(1, 5)), ("test", range(5, 8))):
        for modality, camera in (("day", 1), ("night", 2)):
            for identity in people:
                for number in range(2):
                    name = data / split / modality / f"{identity:04d}" / f"{camera}_{number:04d}.jpg"
                    write_image(name, seed=100 * identity + 10 * camera + number)
    run = tmp_path / "run"
    printed = call(repository, """
        import os
        folder, image, *options = sys.argv[1:]
        print(run("train.py", "--config", "configs/lobby_cmfn.yaml", *options, "OUTPUT", folder, drawn=False).stdout)
        run("test.py", "--checkpoint", folder, drawn=False)
        os.rename(image, os.path.join(os.path.dirname(image), "left_0001.jpg"))
        done = run("test.py", "--checkpoint", folder, "--output", folder + "/again.json", check=False)
        print(done.returncode, done.stderr)
    """, run, data / "test" / "night" / "0006" / "2_0001.jpg", *SMALL, "DATA.ROOT", data)
    assert re.search(r"train  both      4 +16 +2", printed)
    results = json.loads((run / "results.json").read_text())["results"]
    assert {result["protocol"] for result in results} == {"lobby/ir-to-vis"}
    assert {len(result["trials"]) for result in results} == {10}
    assert re.search(r"^1 error: .*left_0001.jpg should begin with its camera's number", printed, re.MULTILINE)


def embed(*overrides):
    """Names of CMFN's tensors, and embeddings: here, and in a copy that gets this function's text."""
    import torch

    from configs.load import load_config
    from models.build import build_model

    torch.manual_seed(0)
    options = ["MODEL.BACKBONE", "resnet18", "MODEL.PRETRAINED", "none", *overrides]
    model = build_model(load_config(overrides=options).MODEL, classes=3).eval()
    torch.manual_seed(1)
    return sorted(model.state_dict()), model.embed(torch.randn(2, 3, 64, 32), infrared=False).detach()


@pytest.mark.long
def test_the_page_on_modules(tmp_path, thin):
    repository = edited_copy("adding_a_module.md", tmp_path / "repository")
    names, before = embed()
    call(repository, inspect.getsource(embed) + textwrap.dedent("""
        import torch
        from ablation import VARIANTS
        torch.save((embed(), embed("MODEL.SQUEEZE.ENABLED", "true")), sys.argv[1])
        assert VARIANTS["cmfn"]["squeeze"][1]["MODEL.SQUEEZE.ENABLED"] is True
        assert not pytest.main(["-q", "-p", "no:cacheprovider", "tests/test_models.py", "-k",
                                "trains_and_embeds and squeeze"])
    """), tmp_path / "after.pt")
    (names_off, off), (names_on, on) = torch.load(tmp_path / "after.pt")
    assert names == names_off and torch.equal(before, off)
    assert {name.split(".")[0] for name in set(names_on) - set(names)} == {"squeeze"} and not torch.equal(on, off)


def test_the_page_on_methods_adds_two_lines_to_what_is_there(tmp_path):
    repository = edited_copy("adding_a_method.md", tmp_path)
    changed = {
        file: (repository / file).read_text().splitlines() for file in ("models/build.py", "losses/build.py")
    }
    added = [line for file, lines in changed.items() for line in lines if line not in (ROOT / file).read_text()]
    assert [line.strip() for line in added] == [
        '"nightnext": "nightnext.NightNeXt",', '"nightnext": "nightnext.NightNeXtTotal",'
    ]


@pytest.mark.long
def test_the_page_on_methods(tmp_path, shared_data):
    """What a new method has without another line: every program, and its options refused elsewhere."""
    repository, run = edited_copy("adding_a_method.md", tmp_path / "repository"), tmp_path / "run"
    printed = call(repository, """
        folder, data, *options = sys.argv[1:]
        run("train.py", "--config", "configs/quickstart_nightnext.yaml", *options, "SOLVER.EPOCHS", "1",
            "OUTPUT", folder, drawn=False)
        options = [word for word in options if word not in ("SOLVER.IDENTITIES", "2")]
        run("train.py", "--config", f"{folder}/config.yaml", "--resume", "SOLVER.EPOCHS", "2", drawn=False)
        run("test.py", "--checkpoint", folder, drawn=False)
        run("scripts/visualize.py", folder, "--parts", "ranking", "attention", "--queries", "0")
        run("scripts/search.py", "--checkpoint", folder, "--gallery", f"{data}/cam1", "--query", f"{data}/cam3",
            "--output", f"{folder}/found")
        run("scripts/export.py", "--checkpoint", folder, "--format", "torchscript", "--output", f"{folder}/network.ts")
        run("scripts/model_card.py", folder)
        print(run("train.py", "--explain", "nightnext").stdout)
        words = "--config", "configs/quickstart_cmfn.yaml", "MODEL.NIGHTNEXT.WIDTH", "8"
        print(run("train.py", *words, check=False).stderr)
        assert not pytest.main(["-q", "-p", "no:cacheprovider", "tests/test_nightnext.py"])
    """, run, shared_data, "DATA.ROOT", shared_data, "DATA.WORKERS", "0", "DEVICE", "cpu", "SOLVER.IDENTITIES", "2")
    assert "LOSS.NIGHTNEXT.GAP_WEIGHT: 0.1" in printed and "MODEL.MBUE" not in printed
    assert "sets MODEL.NIGHTNEXT.WIDTH, which cmfn does not read; it is an option of nightnext" in printed
    assert {"gap", "id", "triplet"} < json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]).keys()
    assert {"report.html", "model_card.md", "network.ts", "pictures", "found"} <= {p.name for p in run.iterdir()}


@pytest.mark.long
def test_the_page_on_losses(tmp_path, shared_data):
    repository = edited_copy("adding_a_loss.md", tmp_path / "repository")
    call(repository, """
        folder, *options = sys.argv[1:]
        for weight in ("0.0", "0.5"):
            run("train.py", "--config", "configs/quickstart_cmfn.yaml", *options, "OUTPUT", f"{folder}/{weight}",
                "LOSS.CENTER_GAP_WEIGHT", weight, drawn=False)
        assert not pytest.main(["-q", "-p", "no:cacheprovider", "tests/test_center_gap.py"])
    """, tmp_path, *SMALL, "DATA.ROOT", shared_data)
    without, with_it = (json.loads((tmp_path / name / "metrics.jsonl").read_text()) for name in ("0.0", "0.5"))
    assert "center_gap" not in without and with_it["center_gap"] > 0
