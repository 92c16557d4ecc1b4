"""The comparison table: marks, the misprinted row, what may enter it, and bad input."""

import csv
import importlib.util
import json
import re
import sys
from pathlib import Path

import programs
from programs import Done, run_apart

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "reproduce_table.py"
spec = importlib.util.spec_from_file_location("reproduce_table", SCRIPT)
table = importlib.util.module_from_spec(spec)
sys.modules["reproduce_table"] = table  # where dataclasses look a module up
spec.loader.exec_module(table)


def results(tmp_path, name="sysu", galleries=("random",), weightings=("equal",), rank1=0.8, **changes) -> Path:
    """A results file as test.py writes it, of a complete SYSU-MM01, with the same figures in every trial."""
    figures = {"rank1": rank1, "rank5": 0.95, "rank10": 0.98, "rank20": 0.99, "mAP": 0.77, "mINP": 0.6}
    saved = {
        "data": {"name": name, "fingerprint": "f" * 64, "test_images": 10},
        "checkpoint": {"path": "runs/x/last.pth"},
        "config": {"MODEL": {"NAME": "cmfn"}, "SOLVER": {"CHOOSE_BEST_ON_TEST_DATA": False}},
        "results": [
            {"protocol": f"{name}/{search}/single-shot/{gallery}", "flip": True, "weighting": weighting,
             "rerank": False, "trials": [{**figures, "valid_queries": queries} for _ in range(10)]}
            for gallery in galleries for weighting in weightings
            for search, queries in (("all", 3803), ("indoor", 2208))
        ],
    }
    for result in saved["results"]:
        result.update(changes)
    path = tmp_path / "my_results.json"
    path.write_text(json.dumps(saved))
    return path


def run(*arguments, folder, check=True) -> Done:
    return programs.run(SCRIPT, *arguments, "--output", folder / "out", check=check)


def refused(*arguments, folder) -> str:
    done = run(*arguments, folder=folder, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_published_figures_get_the_marks_of_the_paper():
    rows = table.read_published(table.PUBLISHED)
    marked = {}
    for (row, cell), mark in table.marks_of(rows).items():
        marked.setdefault((cell, mark), set()).add(rows[row].method)
    ours = "CMFN(Ours)"
    best = {cell: {ours} for cell in table.CELLS} | {"indoor_rank10": {"AMML"}, "indoor_rank20": {"AMML"}}
    second = {
        "all_rank1": {"DEEN+DiVE"}, "all_rank10": {"AMML"}, "all_rank20": {"SCR", "AMML"}, "all_map": {"DEEN+DiVE"},
        "all_minp": {"CAJ"}, "indoor_rank1": {"AMML"}, "indoor_rank10": {ours}, "indoor_rank20": {"SCR", ours},
        "indoor_map": {"AMML"}, "indoor_minp": {"CAJ"},
    }
    assert marked == {(c, "best"): m for c, m in best.items()} | {(c, "second"): m for c, m in second.items()}


def test_only_the_misprinted_half_row_is_implausible():
    rows = table.read_published(table.PUBLISHED)
    found = [(row.method, search) for row in rows for search in table.SEARCHES if table.implausible(row, search)]
    assert found == [("SMCL", "indoor")]
    _, note = table.notes_of(next(row for row in rows if row.method == "SMCL"))
    assert "Rank-10 (96.5) is above Rank-20 (95.2)" in note and "as printed" in note


def test_a_tie_for_best_is_bold_twice_and_the_next_value_is_second():
    blank = dict.fromkeys(table.CELLS, "")
    rows = [table.Row("x", "x", "", "-", blank | {"all_rank1": value}) for value in ("9.0", "10.0", "10.0", "")]
    assert table.marks_of(rows) == {(0, "all_rank1"): "second", (1, "all_rank1"): "best", (2, "all_rank1"): "best"}


def test_three_files_with_methods_by_year_and_every_row_with_its_source(tmp_path):
    run(folder=tmp_path)
    with open(tmp_path / "out" / "sysu_mm01.csv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    years = [line["venue"][-2:] for line in lines]
    assert years[:-1] == sorted(years[:-1]) and lines[-1]["method"] == "CMFN(Ours)" and len(lines) == 26
    source = {line["method"]: line["source"] for line in lines}
    assert {name for name, words in source.items() if words == "cited, runs here"} == {
        "AGW", "MCLNet", "MPANet", "PMT", "DEEN", "DNS", "MCJA", "MSCMNet", "SEFEL", "CMFN(Ours)"
    }
    assert {name: words for name, words in source.items() if words != "cited, runs here"}["CAJ"] == "cited only"
    tex = (tmp_path / "out" / "sysu_mm01.tex").read_text()
    assert r"& - & cited, runs here & \textbf{79.5} & \textbf{98.5}" in tex and r"\underline{99.3}" in tex
    assert r"SMCL\textsuperscript{2,5}" in tex and r"MAUM$^P$" in tex and r"cited only~\cite{Wei2021Syncretic}" in tex
    assert tex.index(r"\toprule") < tex.index(r"\midrule") < tex.index(r"\bottomrule")
    columns = {line.count(" & ") for line in tex.splitlines() if line.endswith(r"\\") and "multicolumn" not in line}
    assert columns == {12}
    md = (tmp_path / "out" / "sysu_mm01.md").read_text()
    assert re.search(r"\| CMFN\(Ours\)<sup>\d+</sup> \| - \| cited, runs here \| \*\*79.5\*\* \|", md)
    assert "Runs here: `METHOD=mscmnet bash scripts/reproduce_sysu.sh DATA_FOLDER`." in md
    assert "| MCJA<sup>" in md and "figures with MSER re-ranking alone" in md
    assert "MAUM<sup>P</sup>" in md and "$" not in md


def test_a_measured_row_competes_and_names_file_and_protocol(tmp_path):
    path = results(tmp_path, weightings=("equal", "neck"), galleries=("random", "official"), rank1=0.79504)
    done = run(path, "--weighting", "neck", folder=tmp_path)
    measured, = [line for line in done.stdout.splitlines() if "measured here" in line and line.startswith("| ")]
    cited, = [line for line in done.stdout.splitlines() if line.startswith("| CMFN(Ours)")]
    assert "**79.5**" in measured and "**79.5**" in cited  # as printed, the two tie
    assert "**77.0**" in measured and "<u>76.4</u>" in cited
    note, = [line for line in done.stdout.splitlines() if "Measured here" in line]
    for part in (str(path), "random gallery, mean of 10 trials", "mirrored", "weighting neck", "without re-ranking"):
        assert part in note
    assert r"my\_results.json" in (tmp_path / "out" / "sysu_mm01.tex").read_text()


def test_each_weighting_is_a_row(tmp_path):
    rows = table.measured_rows(results(tmp_path, weightings=("equal", "neck")), "random", None)
    assert [row.protocol.split(", ")[3] for row in rows] == ["weighting equal", "weighting neck"]
    assert all(row.source == "measured here" and row.cells["indoor_rank10"] == "98.0" for row in rows)


def test_what_inflates_or_explains_a_measured_row_stands_in_its_note(tmp_path):
    path = results(tmp_path)
    saved = json.loads(path.read_text())
    saved["config"]["SOLVER"]["CHOOSE_BEST_ON_TEST_DATA"] = True
    saved["checkpoint"] = {"untrained": True}
    path.write_text(json.dumps(saved))
    row, = table.measured_rows(path, "random", None)
    assert "epoch chosen on test data" in row.protocol and "untrained" in row.protocol


def test_the_embedded_data_set_never_enters(tmp_path):
    said = refused(results(tmp_path, name="synthetic"), folder=tmp_path)
    assert "holds figures of the embedded data set; they have no place in a table of SYSU-MM01" in said
    path = results(tmp_path)  # nor under the name of the real one
    saved = json.loads(path.read_text())
    for trial in saved["results"][0]["trials"]:
        trial["valid_queries"] = 768
    path.write_text(json.dumps(saved))
    assert "768 valid queries" in refused(path, folder=tmp_path)
    assert not (tmp_path / "out").exists()


def test_bad_input_gets_one_sentence(tmp_path):
    said = refused(tmp_path / "none.json", folder=tmp_path)
    assert "none.json cannot be read (No such file or directory); test.py writes such files" in said
    broken = tmp_path / "broken.json"
    for text, words in (('{"data": ', "no JSON"), ("[]", "no results file"), ('{"results": []}', "there is no 'data'")):
        broken.write_text(text)
        assert words in refused(broken, folder=tmp_path)
    assert "is re-ranked, the table's figures are not" in refused(results(tmp_path, rerank=True), folder=tmp_path)
    message = refused(results(tmp_path), "--gallery", "official", folder=tmp_path)
    assert "single-shot/official" in message and "it has sysu/all/single-shot/random" in message
    assert "weighting neck" in refused(results(tmp_path), "--weighting", "neck", folder=tmp_path)
    assert "has a rank1 of 80, which is no fraction" in refused(results(tmp_path, rank1=80), folder=tmp_path)
    published = tmp_path / "published.csv"
    for wrong, words in (
        ("475", "line 2: all_rank1 is '475', not a percentage such as 79.5"),
        ("47,5", "line 2 (AGW) must have 14 columns"),
    ):
        published.write_text(table.PUBLISHED.read_text().replace("47.5", wrong, 1))
        assert words in refused("--published", published, folder=tmp_path)


def test_every_system_of_the_table_has_a_recipe_or_a_reason_and_the_documentation_has_them_all():
    systems = {line["method"]: line for line in csv.DictReader(table.SYSTEMS.read_text().splitlines())}
    rows = [*table.read_published(table.PUBLISHED), *table.read_published(table.OWN_SOURCES)]
    assert [*systems] == [row.method for row in rows] and len(rows) == 26
    documented = (SCRIPT.parent.parent / "docs" / "tables.md").read_text()
    for row in rows:
        assert bool(row.recipe) != bool(row.reason), row.method
        here = f"`METHOD={row.recipe}`" if row.recipe else row.reason
        assert f"| {row.method} | {row.venue} | {here} |" in documented
        assert not row.recipe or (SCRIPT.parent.parent / "configs" / f"sysu_{row.recipe}.yaml").exists()
    assert sum(bool(row.recipe) for row in rows) == 10


def test_a_cited_row_says_why_it_does_not_run_here_and_rows_share_a_reason():
    rows = table.read_published(table.PUBLISHED)
    numbers, notes = table.numbered_notes(rows)
    by_method = {row.method: number for row, number in zip(rows, numbers)}
    alike = "Not here: no public code was found."  # of several systems, and one note
    assert notes[int(by_method["NFS"]) - 1] == alike and notes.count(alike) == 1
    assert by_method["NFS"] == by_method["MHN"] != by_method["AGW"]
    assert "`METHOD=caj` here is that of ICCV 2021" in notes[int(by_method["CAJ"]) - 1]
    assert "code: BorgDiven/DiVE" in table.write_csv(rows)


def test_needs_no_torch(tmp_path):
    code = (
        "import sys, runpy; sys.modules['torch'] = sys.modules['numpy'] = None; "
        f"sys.argv = ['x', '--output', {str(tmp_path)!r}]; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    done = run_apart(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
