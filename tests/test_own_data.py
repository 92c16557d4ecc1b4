"""docs/own_data.md: its commands run as printed, on little data with a thin network."""

import json
import re
import shlex
import shutil
from pathlib import Path

from programs import run
from shared import SMALL
from shells import LITTLE

from data.folder import Folder
from data.own_images import MODALITIES, SPLITS

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_run_as_printed(tmp_path, monkeypatch, thin):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    little = {"-m": LITTLE.split(), "train.py": SMALL, "scripts/describe_data.py": ["--workers", "1"]}
    for kind, block in re.findall(r"```(bash|python)\n(.*?)```", PAGE, re.DOTALL):
        if kind == "python":
            (tmp_path / "example.py").write_text(block, encoding="utf-8")
            run(tmp_path / "example.py", folder=tmp_path)
            person = tmp_path / "datasets" / "synthetic" / "cam3" / "0510"  # whom a command searches for
            shutil.copytree(next(person.parent.iterdir()), person)
            continue
        for line in block.splitlines():
            python, program, *words = shlex.split(line)
            assert python == "python"
            run(program, *words, *little.get(program, []), folder=tmp_path, drawn=False)
    runs = tmp_path / "runs"
    found = json.loads((runs / "people" / "results.json").read_text())
    protocols = {result["protocol"] for result in found["results"]}
    assert protocols == {f"folder/1/{direction}/single-shot" for direction in ("ir-to-vis", "vis-to-ir")}
    for name in ("data/folder/data.jpg", "people/found/ranking.csv", "people/failures.html"):
        assert (runs / name).stat().st_size > 100, name
    data = tmp_path / "datasets" / "synthetic"
    drawn = Folder(data)
    shutil.copy(runs / "data" / "split.csv", data / "images.csv")
    assert Folder(data).test == drawn.test and Folder(data).fingerprint() == found["data"]["fingerprint"]


def test_the_words_of_the_page_are_those_that_are_read():
    row, = re.findall(r"^\| modality \| (.*) \|$", PAGE, re.MULTILINE)
    assert [part.split(", ") for part in row.split("; ")] == [[*words] for words in MODALITIES.values()]
    row, = re.findall(r"^\| split \| (.*)\. May", PAGE, re.MULTILINE)
    assert [part.split(", ") for part in row.split("; ")] == [[*words] for words in SPLITS.values()]
