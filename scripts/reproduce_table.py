"""The comparison table on SYSU-MM01: what the literature reports beside what was measured here; needs no torch.

    python scripts/reproduce_table.py                                    # the published figures alone
    python scripts/reproduce_table.py runs/sysu_cmfn/results.json        # and those of a results file of test.py
    python scripts/reproduce_table.py A.json B.json --weighting equal --gallery official --output runs/tables

Prints the table and writes it as sysu_mm01.tex (booktabs), sysu_mm01.md and sysu_mm01.csv (docs/tables.md).
"""

import argparse
import csv
import io
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from utils.stop import fail_clearly, stop_in_one_line

if __name__ == "__main__":
    stop_in_one_line()  # a signal while the next lines are imported, which takes seconds

import yaml

from utils.output import OutputError, require_files, write_or_keep
from utils.reporting.results import ResultsError, read_results, trained_elsewhere

PUBLISHED = ROOT / "scripts" / "published" / "sysu_mm01.csv"
OWN_SOURCES = PUBLISHED.with_name("sysu_mm01_own_sources.csv")  # of methods that the published table doesn't have
SYSTEMS = PUBLISHED.with_name("systems.csv")                    # method of a table -> its recipe, or why there is none
COLUMNS = {"rank1": "R-1", "rank10": "R-10", "rank20": "R-20", "map": "mAP", "minp": "mINP"}  # the published ones
NAMES = {"rank1": "Rank-1", "rank10": "Rank-10", "rank20": "Rank-20", "map": "mAP", "minp": "mINP"}
SEARCHES = {"all": "All-search", "indoor": "Indoor-search"}
CELLS = [f"{search}_{column}" for search in SEARCHES for column in COLUMNS]
TRIALS = 10
COMPLETE_QUERIES = {"all": 3803, "indoor": 2208}  # valid queries of the complete data set (docs/protocols.md)
NO_RECIPE = (  # options of the machine, of the run's place or of the test, which has its own words
    "SEED", "DEVICE", "DETERMINISTIC", "OUTPUT", "DATA.ROOT", "DATA.CACHE", "DATA.WORKERS", "MODEL.RECOMPUTE",
    "SOLVER.LOG_PERIOD", "SOLVER.EVAL_PERIOD", "TEST.", "EMBEDDING.",
)
CAPTION = (
    "SYSU-MM01, single-shot, in percent. Best in bold, second best underlined. A cited row stands as its source "
    "prints it; the note of a row measured here names results file and protocol."
)


@dataclass
class Row:
    """A line of the table; `cells` are percentages as text, by the names in CELLS, "" where none is known."""

    method: str
    label: str              # LaTeX, as the paper prints it
    citation: str
    venue: str
    cells: dict[str, str]
    results_file: str = ""  # where it was measured; "" if it is cited
    protocol: str = ""      # how it was measured
    recipe: str = ""        # of a cited row: the name of the recipe that runs here
    reason: str = ""        # of a cited row without one: why
    note: str = ""          # of a cited row: where its figures are from

    @property
    def source(self) -> str:
        return "measured here" if self.results_file else "cited, runs here" if self.recipe else "cited only"

    @property
    def year(self) -> float:
        """From the venue; the paper itself and what was measured here have none, and stand last."""
        found = re.search(r"-(\d\d)$", self.venue)
        return 2000 + int(found[1]) if found else math.inf


def read_published(path: Path) -> list[Row]:
    try:
        lines = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ResultsError(f"{path} cannot be read ({error}); name another table by --published") from None
    columns = ["method", "label", "citation", "venue", *CELLS]
    if not lines or not set(columns) <= set(lines[0]):
        raise ResultsError(f"{path} must have the columns {','.join(columns)} and at least one row")
    for number, line in enumerate(lines, start=2):
        if None in line or None in line.values():  # so the reader marks what is too much or missing
            raise ResultsError(f"{path}, line {number} ({line['method']}) must have {len(columns)} columns")
        for cell in CELLS:
            if not re.fullmatch(r"(\d{1,3}\.\d)?", line[cell]):
                raise ResultsError(f"{path}, line {number}: {cell} is {line[cell]!r}, not a percentage such as 79.5")
    systems = {system["method"]: system for system in csv.DictReader(SYSTEMS.read_text().splitlines())}
    unknown = {"recipe": "", "reason": ""}
    return [
        Row(
            line["method"], line["label"], line["citation"], line["venue"], {cell: line[cell] for cell in CELLS},
            recipe=(system := systems.get(line["method"], unknown))["recipe"], reason=system["reason"],
            note=line.get("note", ""),
        )
        for line in lines
    ]


def measured_rows(path: Path, gallery: str, weighting: str | None) -> list[Row]:
    """One row for each weighting of a results file that has figures of the single-shot protocols.

    raises   ResultsError, also for figures that have no place in a table of SYSU-MM01
    """
    saved = read_results(path)
    if saved["data"]["name"] != "sysu":
        what = "the embedded data set" if saved["data"]["name"] == "synthetic" else saved["data"]["name"]
        raise ResultsError(f"{path} holds figures of {what}; they have no place in a table of SYSU-MM01")
    elsewhere = trained_elsewhere(saved)
    if elsewhere:
        raise ResultsError(
            f"{path} is of a network that was trained on {elsewhere}; those of the table were trained on SYSU-MM01"
        )
    wanted = {f"sysu/{search}/single-shot/{gallery}": search for search in SEARCHES}
    rows: dict[str, Row] = {}
    for result in saved["results"]:
        search = wanted.get(result["protocol"])
        if search is None or weighting not in (None, result["weighting"]):
            continue
        if result["rerank"]:
            raise ResultsError(f"{path} is re-ranked, the table's figures are not; run test.py with TEST.RERANK none")
        check_complete(path, result, COMPLETE_QUERIES[search])
        row = rows.setdefault(result["weighting"], empty_row(path, saved, gallery, result))
        for column in COLUMNS:
            metric = {"map": "mAP", "minp": "mINP"}.get(column, column)
            mean = sum(trial[metric] for trial in result["trials"]) / TRIALS
            row.cells[f"{search}_{column}"] = f"{100 * mean:.1f}"
    if not rows:
        there = ", ".join(sorted({f"{r['protocol']} (weighting {r['weighting']})" for r in saved["results"]}))
        asked = f" (weighting {weighting})" if weighting else ""
        raise ResultsError(f"{path} has neither {' nor '.join(wanted)}{asked}; it has {there}")
    return list(rows.values())


def check_complete(path: Path, result: dict, queries: int) -> None:
    found = {int(trial["valid_queries"]) for trial in result["trials"]}
    if found != {queries} or len(result["trials"]) != TRIALS:
        raise ResultsError(
            f"{path}: {result['protocol']} has {len(result['trials'])} trials with "
            f"{' or '.join(map(str, sorted(found)))} valid queries, the complete SYSU-MM01 {TRIALS} with {queries}; "
            "figures of another set of images cannot stand beside published ones"
        )


def empty_row(path: Path, saved: dict, gallery: str, result: dict) -> Row:
    config, checkpoint = saved.get("config", {}), saved.get("checkpoint", {})
    protocol = [
        f"{gallery} gallery, mean of {TRIALS} trials",
        "mirrored images added" if result["flip"] else "without mirrored images",
        f"weighting {result['weighting']}",
        "without re-ranking",
    ]
    if checkpoint.get("untrained"):
        protocol.append("untrained network")
    if checkpoint.get("format") == "authors":
        protocol.append("checkpoint of the authors'")
    if config.get("SOLVER", {}).get("CHOOSE_BEST_ON_TEST_DATA"):
        protocol.append("epoch chosen on test data, which inflates the figures")
    protocol += other_options(path, config)
    name = title_of(config.get("MODEL", {}))
    return Row(name, latex(name), "", "-", dict.fromkeys(CELLS, ""), str(path), ", ".join(protocol))


def title_of(model: dict) -> str:
    """The method's title; where there is no torch, which networks need, its name.

    model   the MODEL section of a results file
    """
    try:
        from assembly.titles import method_title
    except ImportError:
        return model.get("NAME", "network").upper()
    return method_title(model)


def other_options(path: Path, config: dict) -> list[str]:
    """A phrase on the options of a results file that are not those of its method's yaml file, if there are such.

    raises   ResultsError
    """
    recipe = ROOT / "configs" / f"sysu_{config.get('MODEL', {}).get('NAME')}.yaml"
    if not recipe.exists():
        return []
    try:
        from configs.load import ConfigError, flatten, from_dump, load_config
    except ImportError as error:
        return [f"not compared with the options of configs/{recipe.name} ({error})"]
    try:
        own = flatten(from_dump(yaml.safe_dump(config)))
    except ConfigError as error:
        raise ResultsError(f"{path} is of another version: {error}") from None
    expected = dict(flatten(load_config(recipe)))
    changed = [f"{key} {value}" for key, value in own if value != expected[key] and not key.startswith(NO_RECIPE)]
    return [f"options other than those of configs/{recipe.name}: {', '.join(changed)}"] if changed else []


def implausible(row: Row, search: str) -> list[str]:
    """Why a row's figures of one search cannot well stand in the right columns: plausibility, not proof."""
    value = {column: float(row.cells[f"{search}_{column}"]) for column in COLUMNS if row.cells[f"{search}_{column}"]}
    reasons = [f"{NAMES[column]} ({v}) is above 100" for column, v in value.items() if v > 100]
    # Rank-k cannot fall with k. Where mAP or mINP is high, nearly every query has a match among the first 20.
    for low, high in (("rank1", "rank10"), ("rank10", "rank20"), ("rank1", "rank20"),
                      ("map", "rank20"), ("minp", "rank20")):
        if low in value and high in value and value[low] > value[high]:
            reasons.append(f"{NAMES[low]} ({value[low]}) is above {NAMES[high]} ({value[high]})")
    return reasons


def notes_of(row: Row) -> list[str]:
    """Its footnotes; a file's name stands in backquotes."""
    notes = [f"Measured here: `{row.results_file}`; {row.protocol}."] if row.results_file else []
    notes += [row.note] if row.note else []
    notes += [f"Runs here: `METHOD={row.recipe} bash scripts/reproduce_sysu.sh DATA_FOLDER`."] if row.recipe else []
    notes += [row.reason] if row.reason else []
    for search, name in SEARCHES.items():
        reasons = implausible(row, search)
        if reasons:
            kept = "as measured" if row.results_file else "as printed"
            notes.append(
                f"{name} is kept {kept}, but its figures don't seem to fit their columns, so they are neither best nor "
                f"second best: {', '.join(reasons)} (plausibility, not proof)."
            )
    return notes


def marks_of(rows: list[Row]) -> dict[tuple[int, str], str]:
    """(row's number, cell) -> "best" or "second", by the figures as printed; ties share a mark."""
    marks: dict[tuple[int, str], str] = {}
    for cell in CELLS:
        search = cell.split("_")[0]
        values = {i: float(row.cells[cell]) for i, row in enumerate(rows) if row.cells[cell]}
        values = {i: value for i, value in values.items() if not implausible(rows[i], search)}
        for mark, value in zip(("best", "second"), sorted(set(values.values()), reverse=True)):
            marks |= {(i, cell): mark for i in values if values[i] == value}
    return marks


def latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {c: "\\" + c for c in "&%$#_{}"}
    return re.sub(r"`(.*?)`", r"\\texttt{\1}", "".join(special.get(c, c) for c in text))


def markdown(label: str) -> str:
    r"""MAUM$^P$ and IDKL$^\text{a}$ without LaTeX."""
    return re.sub(r"\$\^(?:\\text)?\{?(\w+)\}?\$", r"<sup>\1</sup>", label).replace("$", "")


def write_latex(rows: list[Row]) -> str:
    def line(i: int, row: Row) -> str:
        style = {"best": r"\textbf{%s}", "second": r"\underline{%s}", None: "%s"}
        source = row.source + (rf"~\cite{{{row.citation}}}" if row.citation else "")
        cells = [style[marks.get((i, cell))] % row.cells[cell] if row.cells[cell] else "--" for cell in CELLS]
        superscript = rf"\textsuperscript{{{numbers[i]}}}" if numbers[i] else ""
        return " & ".join([row.label + superscript, row.venue, source, *cells]) + r" \\"

    marks, (numbers, notes) = marks_of(rows), numbered_notes(rows)
    lines = [line(i, row) for i, row in enumerate(rows)]
    dated = sum(row.year < math.inf for row in rows)
    if 0 < dated < len(rows):
        lines.insert(dated, r"\midrule")
    n = len(COLUMNS)
    return "\n".join([
        "% Needs \\usepackage{booktabs}. Written by scripts/reproduce_table.py.",
        r"\begin{table*}", r"\centering", rf"\caption{{{latex(CAPTION)}}}",
        rf"\begin{{tabular}}{{lll*{{{2 * n}}}{{c}}}}",
        r"\toprule",
        " & & & " + " & ".join(rf"\multicolumn{{{n}}}{{c}}{{{name}}}" for name in SEARCHES.values()) + r" \\",
        rf"\cmidrule(lr){{4-{3 + n}}} \cmidrule(lr){{{4 + n}-{3 + 2 * n}}}",
        " & ".join(["Method", "Venue", "Source", *COLUMNS.values(), *COLUMNS.values()]) + r" \\",
        r"\midrule", *lines, r"\bottomrule", r"\end{tabular}", "",
        *(rf"\par\smallskip\footnotesize\textsuperscript{{{i}}} {latex(note)}" for i, note in enumerate(notes, 1)),
        r"\end{table*}", "",
    ])


def write_markdown(rows: list[Row]) -> str:
    style = {"best": "**%s**", "second": "<u>%s</u>", None: "%s"}
    marks, (numbers, notes) = marks_of(rows), numbered_notes(rows)
    header = ["Method", "Venue", "Source"] + [f"{s} {c}" for s in SEARCHES for c in COLUMNS.values()]
    lines = [header, ["---"] * len(header)]
    for i, row in enumerate(rows):
        name = markdown(row.label) if not row.results_file else row.method
        cells = [style[marks.get((i, cell))] % row.cells[cell] for cell in CELLS]
        lines.append([name + (f"<sup>{numbers[i]}</sup>" if numbers[i] else ""), row.venue, row.source, *cells])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return "\n\n".join([CAPTION, table, *(f"<sup>{i}</sup> {note}" for i, note in enumerate(notes, 1))]) + "\n"


def write_csv(rows: list[Row]) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["method", "citation", "venue", "source", "results_file", *CELLS, "note"])
    for row in rows:
        described = [row.method, row.citation, row.venue, row.source, row.results_file]
        table.writerow([*described, *(row.cells[cell] for cell in CELLS), " ".join(notes_of(row))])
    return text.getvalue()


def numbered_notes(rows: list[Row]) -> tuple[list[str], list[str]]:
    """The footnote numbers of each row, such as "1,2", and the footnotes in order; rows share one of the same words."""
    numbers: list[str] = []
    notes: list[str] = []
    for row in rows:
        own = notes_of(row)
        notes += [note for note in own if note not in notes]
        numbers.append(",".join(str(notes.index(note) + 1) for note in own))
    return numbers, notes


WRITERS = {"tex": write_latex, "md": write_markdown, "csv": write_csv}  # by the file's suffix


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, help="results files of test.py on SYSU-MM01")
    parser.add_argument("--gallery", choices=("random", "official"), default="random", help="of the measured rows")
    parser.add_argument("--weighting", help="of the measured rows; default: a row for each there is")
    parser.add_argument("--published", type=Path, default=PUBLISHED, help="the cited figures, instead of those here")
    parser.add_argument("--output", type=Path, default=Path("runs/tables"), help="folder of the three files")
    args = parser.parse_args()
    files = {args.output / f"sysu_mm01.{suffix}": write for suffix, write in WRITERS.items()}
    require_files(*files, fix="choose another --output")
    rows = read_published(args.published)
    if args.published == PUBLISHED:
        rows += read_published(OWN_SOURCES)
    rows.sort(key=lambda row: row.year)
    for path in args.results:
        rows += measured_rows(path, args.gallery, args.weighting)
    write_or_keep({file: write(rows) for file, write in files.items()})
    print(write_markdown(rows))
    print(f"written: {args.output}/sysu_mm01.tex, .md and .csv")


if __name__ == "__main__":
    fail_clearly(main, (OutputError, ResultsError))
