"""A run's model card: its figures are those of results.json, and what is wrong with the run stands in it."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from string import Template

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import model_card
from model_card import TEMPLATE, CardError, card_values, count_table
from programs import BLANK
from thin import SHORT

import test as evaluation
import train as training
from configs.load import load_config
from data.synthetic import write_synthetic
from models.build import build_model
from utils.evaluation.evaluator import FIGURES
from utils.reporting.report import ReportError
from utils.reporting.results import ResultsError
from utils.training.checkpoint import CheckpointError, save_checkpoint, sha256

pytestmark = pytest.mark.usefixtures("thin")


def program(module, *arguments) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["program", *map(str, arguments)])
        patch.setattr("utils.reporting.plots.png", lambda figure: BLANK)
        module.main()


def card(run: Path, *arguments) -> str:
    program(model_card, run, *arguments)
    return (run / "model_card.md").read_text(encoding="utf-8")


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def trained(tmp_path_factory, thin) -> Path:
    """What train.py and test.py leave, two epochs of two steps; cards read its checkpoint dozens of times."""
    root = tmp_path_factory.mktemp("card")
    data, run = root / "data", root / "my run"
    write_synthetic(data, seed=1, train_identities=6, test_identities=3, images_per_camera=1, height=64, width=32)
    program(training, "--config", ROOT / "configs" / "quickstart_cmfn.yaml", "DATA.ROOT", data, "OUTPUT", run,
            "SEED", 5, "DEVICE", "cpu", "DATA.WORKERS", 0,
            "SOLVER.EPOCHS", 2, "SOLVER.IDENTITIES", 3, "SOLVER.IMAGES", 5, *SHORT)
    program(evaluation, "--checkpoint", run)
    return run


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(trained, tmp_path / "my run"))


def change_results(run: Path, change) -> None:
    saved = json.loads((run / "results.json").read_text())
    change(saved)
    (run / "results.json").write_text(json.dumps(saved))


def change_checkpoint(run: Path, name: str = "last.pth", **changes) -> None:
    save_checkpoint(run / name, torch.load(run / "last.pth", weights_only=True) | changes)


# A whole run


def test_the_card_has_the_figures_of_results_json_beside_their_protocols(trained):
    rows = [line for line in card(trained).splitlines() if line.startswith("| synthetic/")]
    results = json.loads((trained / "results.json").read_text())["results"]
    assert len(rows) == len(results) == 4
    for row, result in zip(rows, results):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[:5] == [result["protocol"], "yes", result["weighting"], "no", "10"]
        for cell, key in zip(cells[5:], FIGURES, strict=True):
            mean, std = (float(number) for number in cell.split(" ± "))
            assert mean == pytest.approx(100 * result["mean"][key], abs=0.006)
            assert std == pytest.approx(100 * result["std"][key], abs=0.006)


def test_the_card_says_what_was_trained_on_what_and_how(trained):
    text, saved = card(trained), json.loads((trained / "results.json").read_text())
    assert "$" not in text and "> **" not in text
    assert f"| SHA-256 | `{sha256(trained / 'last.pth')}` |" in text
    assert f"| parameters | {saved['parameters']:,} |" in text
    assert "| embedding | 768 numbers, weighting `equal`, mirrored image added;" in text  # 2 · 3 views · 128 channels
    assert f"`{saved['data']['fingerprint']}`" in text
    for line in saved["data_summary"].splitlines()[1:]:
        assert line in text
    assert "Trained on 6 people of **synthetic**" in text and "33.33 % (one in 3 test people)" in words(text)
    assert "| epochs | 2 of 2 |" in text and "| seed | 5 |" in text and "| precision | float32 |" in text
    assert "| trained on | cpu |" in text and f"torch {saved['versions']['torch']}" in text
    total = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])["total"]
    assert f"total {total:.4g}" in text
    assert "| `SOLVER.IDENTITIES` | `6` | `3` |" in text and "| `SOLVER.IMAGES` | `4` | `5` |" in text
    assert "`DATA.ROOT` |" not in text and "SOLVER.MOMENTUM" not in text
    assert "they say nothing about a real one" in text


def test_its_commands_name_this_run(trained):
    lines = card(trained).split("```bash\n")[1].split("```")[0].splitlines()
    commands = {words[1]: words for words in map(shlex.split, lines)}
    assert {*commands} == {"test.py", "scripts/search.py", "scripts/export.py"}
    assert all((ROOT / name).exists() and str(trained / "last.pth") in words for name, words in commands.items())
    assert commands["test.py"][-2:] == ["--output", str(trained / "results.json")]


def test_the_template_asks_for_all_that_is_known_and_no_more(trained):
    asked = {match["named"] for match in Template.pattern.finditer(TEMPLATE.read_text(encoding="utf-8"))}
    assert asked == {*card_values(trained)[0]}


# What is wrong with a run


def test_without_results_the_card_says_how_to_get_them(run, capsys):
    (run / "results.json").unlink()
    text = card(run)
    assert "There are no figures of this checkpoint" in text and "isn't there" in text and "$" not in text
    assert "warning: There are no figures" in capsys.readouterr().out
    command = shlex.split(text.split("isn't there. `")[1].split("`")[0])
    assert command[:2] == ["python", "test.py"]
    assert "| libraries, at the test | unknown |" in text and "one in 3 test people" in words(text)  # by train.log
    program(evaluation, *command[2:])
    assert "There are no figures" not in card(run) and "| synthetic/all/single-shot/random |" in card(run)


def test_figures_of_another_checkpoint_are_noticed_and_left_out(run):
    tested = sha256(run / "last.pth")
    change_checkpoint(run, step=1)
    text = card(run)
    assert f"is of another checkpoint ({tested})" in text and sha256(run / "last.pth") in text
    assert "| synthetic/" not in text
    change_results(run, lambda saved: saved.update(checkpoint={"untrained": True, "seed": 0}))
    assert "is of another checkpoint (of random weights, or several)" in card(run)


def test_the_card_is_of_the_checkpoint_that_was_tested(run):
    change_checkpoint(run, "best.pth", epoch=1)
    assert "/last.pth" in card_values(run)[0]["checkpoint"]
    change_results(run, lambda saved: saved["checkpoint"].update(sha256=sha256(run / "best.pth")))
    values, warnings = card_values(run)
    assert "/best.pth" in values["checkpoint"] and values["epochs"] == "1 of 2, the best on people held out"
    assert not warnings  # the training itself went to its end
    (run / "results.json").unlink()
    assert "/best.pth" in card_values(run)[0]["checkpoint"]  # as test.py would take it


def test_an_unfinished_training_is_called_so(run):
    config = load_config(run / "config.yaml", ["SOLVER.EPOCHS", "7"]).dump()
    change_checkpoint(run, config=config)
    text = card(run)
    assert "> **The training is unfinished: 2 of 7 epochs." in text and "| epochs | 2 of 7 |" in text


def test_other_data_and_options_at_the_test_are_named(run):
    def change(saved):
        saved["data"]["fingerprint"] = "0" * 64
        saved["config"]["TEST"]["FLIP"] = False
        saved["config"]["TEST"]["BATCH"] = 7  # changes no figure

    change_results(run, change)
    values, warnings = card_values(run)
    assert any("other data than trained on" in warning for warning in warnings)
    assert "Tested with other options than trained with: TEST.FLIP." in warnings
    assert values["test_command"].endswith("TEST.FLIP False")


# Every method and data set


@pytest.mark.parametrize("config, data, embedding", [
    ("quickstart_cmfn.yaml", "sysu", "768"), ("quickstart_deen.yaml", "llcm", "1,152"),
    ("quickstart_agw.yaml", "regdb", "192"), ("quickstart_caj.yaml", "synthetic", "192"),
])
def test_every_method_and_data_set_has_its_card(tmp_path, config, data, embedding):
    cfg = load_config(ROOT / "configs" / config, ["DATA.NAME", data])
    state = {"config": cfg.dump(), "model": build_model(cfg.MODEL, classes=3).state_dict(), "identities": [1, 2, 3],
             "epoch": 11, "step": 0, "data": "f" * 64}
    save_checkpoint(tmp_path / "last.pth", state)
    text = card(tmp_path)  # a checkpoint alone, without log, metrics and results
    assert text.startswith(f"# Model card: {cfg.MODEL.NAME.upper()} on {data}") and "$" not in text
    assert f"| embedding | {embedding} numbers" in text and f"| `{data}`: " in text
    assert ("on regdb, split 1" in text) == (data == "regdb") and "no row for" not in text
    assert "neither train.log nor results.json" in text and "unfinished" not in text


def test_of_a_data_set_without_a_row_the_terms_are_to_be_filled_in(run, tmp_path):
    config = load_config(run / "config.yaml").dump().replace("NAME: synthetic", "NAME: lobby")
    change_checkpoint(run, config=config)
    assert "> **The table of data sets has no row for lobby: write who is pictured" in words(card(run))
    template = tmp_path / "lab.md"
    template.write_text(TEMPLATE.read_text(encoding="utf-8").replace("| `synthetic`", "| `lobby`"), encoding="utf-8")
    assert "no row for" not in card(run, "--template", template)


def test_the_card_has_no_instructions_of_the_template(trained):
    assert "dollar" not in card(trained) and "a word after a dollar sign is filled in" in model_card.__doc__


def test_of_a_resumed_training_the_last_counts_are_taken():
    first = "2026-01-01 10:00:00 sysu in /data\nsplit  modality  identities\ntrain  both      3\ntest   both      2\n"
    last = first.replace("3", "4") + "warning: this copy differs\n2026-01-01 10:00:01 4 identities\n"
    assert count_table("nothing", first + last) == (
        "split  modality  identities\ntrain  both      4\ntest   both      2\nwarning: this copy differs"
    )


# Templates and errors


def test_a_template_of_ones_own(run, tmp_path):
    (run / "model_card.md").write_text("an older card")
    template = tmp_path / "lab.md"
    template.write_text("$method, $epochs, 5 $$", encoding="utf-8")
    program(model_card, run, "--template", template, "--output", tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text() == "CMFN, 2 of 2, 5 $"
    template.write_text("$method $colour", encoding="utf-8")
    with pytest.raises(CardError, match=r"lab.md has the unknown placeholder \$colour; known are .*checkpoint"):
        card(run, "--template", template)
    template.write_text("costs 5 $ a day", encoding="utf-8")
    message = "lab.md: Invalid placeholder .* line 1, .*; write a dollar sign that is none of a placeholder twice"
    with pytest.raises(CardError, match=message):
        card(run, "--template", template)
    with pytest.raises(CardError, match="the template .*nowhere.md cannot be read .*; name another one"):
        card(run, "--template", tmp_path / "nowhere.md")
    with pytest.raises(ReportError, match=r"card.md cannot be written \(there is no folder .*\); make it first"):
        card(run, "--output", tmp_path / "no folder" / "card.md")
    assert (run / "model_card.md").read_text() == "an older card"


def test_a_broken_run_is_named(run, tmp_path):
    with pytest.raises(CardError, match="there is no folder .*nowhere; name that of a run"):
        card(tmp_path / "nowhere")
    results = (run / "results.json").read_text()
    (run / "results.json").write_text(results[:200])
    with pytest.raises(ResultsError, match="results.json is no JSON .* Run test.py again"):
        card(run)
    (run / "results.json").write_text(results)
    (run / "last.pth").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="last.pth is truncated, corrupt or no checkpoint"):
        card(run)
    (run / "last.pth").unlink()
    with pytest.raises(CardError, match="neither best.pth nor last.pth"):
        card(run)
