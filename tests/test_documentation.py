"""What README.md and docs/ say is so: links, names, options and errors; the first pages' commands run as printed."""

import ast
import re
import shutil
from pathlib import Path

import locks
import pytest
import yaml
from programs import run
from shells import Shell
from trees import write_image

from configs.defaults import get_defaults
from configs.load import flatten
from data.synthetic import write_synthetic

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
FIRST = "\n".join([README, *((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
                            for name in ("quickstart", "tables", "training"))])  # what a new user reads first
OPTIONS = {key for key, _ in flatten(get_defaults())}
EXTERNAL = re.compile(r"sysu|regdb|llcm|RegDB|LLCM")  # the real data sets


def commands():
    """The first pages' commands: of their bash blocks, a continued line being one, and of text and tables."""
    blocks = "".join(re.findall(r"```bash\n(.*?)```", FIRST, re.DOTALL)).replace("\\\n", " ")
    lines = [line.partition(" #")[0].strip() for line in blocks.splitlines()]
    lines += re.findall(r"`((?:python|bash) [^`]+)`", FIRST)
    lines = [line for line in lines if re.match(r"(METHOD=\S+ )?(python|bash|torchrun) ", line)]
    return [" ".join(line.split()) for line in dict.fromkeys(lines)]


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    content = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", content):
        path, _, anchor = "".join(target).partition("#")
        if "://" in path:
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_the_citation_has_what_its_format_asks_for():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= {*citation}
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "MIT"
    title, = re.findall(r"title  = {CMFN: (.*)}", README)
    assert citation["title"].lower() == title


@pytest.mark.parametrize("command", commands())
def test_what_a_command_names_is_there(command):
    words = command.replace("METHOD=agw ", "").split()
    script = next((word for word in words[1:] if re.search(r"\.(py|sh)$", word)), None)
    assert (ROOT / script).exists()
    for word in words:
        if word.startswith("configs/") and "$" not in word:
            assert (ROOT / word).exists(), word
        if word.startswith("--") and not word.startswith("--nproc"):
            assert f'"{word}"' in (ROOT / script).read_text(), word
        if re.fullmatch(r"[A-Z]+(\.[A-Z_]+)+", word):
            assert word in OPTIONS, word


def test_the_method_page_names_what_the_code_has():
    rows = re.findall(r"\| \[`(\S+\.py)`\]\(\S+\) \| (.*) \|", (ROOT / "docs/method.md").read_text(encoding="utf-8"))
    assert len(rows) > 20
    for file, names in rows:
        defined = set()
        for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                defined.add(node.name)
                defined |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        assert set(re.findall(r"`(\S+)`", names)) <= defined, file


def copy_of_the_repository(folder):
    for name in ("configs", "assembly", "common", "data", "losses", "models", "scripts", "utils", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.py"), *ROOT.glob("requirements*.txt")]:
        shutil.copy(path, folder)
    return folder


def test_the_first_pages_run_as_printed(tmp_path, whole, request):
    """On little data, and by default with a thin network; with --all the first command has interpreters of its own."""
    repository = copy_of_the_repository(tmp_path / "repository")
    if not whole:
        request.getfixturevalue("thin")
    here, apart = Shell(tmp_path / "here"), Shell(tmp_path / "apart", apart=True)

    def call(command):
        shell = apart if whole and "quickstart.sh" in command else here
        shell.run("bash", "-c", command, folder=repository)
        person = repository / "datasets" / "synthetic" / "cam3" / "0510"  # whom a command searches for
        if not person.exists():
            shutil.copytree(person.with_name("0005"), person)

    write_image(repository / "photos" / "day.jpg", seed=1)
    write_image(repository / "night.jpg", seed=2)
    # check_device takes hours without a GPU, and serve doesn't end.
    elsewhere = re.compile(rf"{EXTERNAL.pattern}|run_tests|check_device|serve")
    lines = [line for line in commands() if not elsewhere.search(line)]
    assert len(lines) >= 10
    if not whole:
        lines = [line for line in lines if "onnx" not in line]  # it takes long, and tests/test_export.py has it
    for command in lines:
        # The whole training takes minutes; one epoch leaves the same files.
        small = " SOLVER.EPOCHS 1 SOLVER.IDENTITIES 2"
        if not whole:
            small += " DATA.WORKERS 0"
        call(command + small * ("quickstart.sh" in command))
    if whole:
        page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
        program = re.search(r"```python\n(# onnx_example.py.*?)```", page, re.DOTALL)[1]
        (repository / "onnx_example.py").write_text(program)
        shutil.copy(repository / "photos" / "day.jpg", repository)
        line = re.search(r"^python (onnx_example.py .*)$", page, re.MULTILINE)[1]
        done = here.run("bash", "-c", f"python -I {line}", folder=repository)
        assert re.fullmatch(r"similarity: -?[01]\.\d{4}\n", done.stdout)
    assert (repository / "runs" / "quickstart-1" / "results.json").exists()  # that docs/tables.md's OUTPUT names
    left = {path.name for path in (repository / "runs" / "quickstart").iterdir()}
    assert {"curves.png", "cmc.png", "distances.png", "report.html", "model_card.md", "pictures", "found"} <= left


@pytest.fixture(scope="module")
def place(tmp_path_factory, thin):
    folder = tmp_path_factory.mktemp("errors")
    write_synthetic(folder / "data", seed=3, train_identities=6, test_identities=4, images_per_camera=1, height=64,
                    width=32)
    shutil.copytree(folder / "data", folder / "broken")
    for path in (folder / "broken").glob("cam3/*/*.jpg"):
        path.write_bytes(path.read_bytes()[:300])
    (folder / "cut.pth").write_bytes(b"PK\x03\x04 and no more")
    provoke(folder, "train.py --config configs/quickstart_cmfn.yaml OUTPUT {place}/done", fails=False)
    content = bytearray((folder / "done" / "last.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "damaged.pth").write_bytes(content)
    holder, _ = locks.start(folder / "busy", "train")
    yield folder
    holder.communicate()


def provoke(place, command, fails=True):
    small = {
        "DATA.ROOT": place / "data", "DATA.WORKERS": 0, "DEVICE": "cpu", "SOLVER.EPOCHS": 1, "SOLVER.IDENTITIES": 3,
        "OUTPUT": place / "run",
    }
    words = command.format(place=place).split()
    pairs = [str(word) for key, value in small.items() if key not in words for word in (key, value)]
    done = run(*words, *pairs, check=False, drawn=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr


TRAIN = "train.py --config configs/quickstart_cmfn.yaml"
PROVOKED = {
    "there is no folder": f"{TRAIN} DATA.ROOT nowhere",
    "which is not an option; the nearest is": f"{TRAIN} SOLVER.EPOCH 3",
    "; it is 0 at least": f"{TRAIN} SEED -1",
    "where int is wanted": f"{TRAIN} SOLVER.EPOCHS three",
    "there is no configuration file": "train.py --config configs/sysu.yaml",
    "holds a training already": f"{TRAIN} OUTPUT {{place}}/done",
    "is at work in": f"{TRAIN} OUTPUT {{place}}/busy",
    "cannot be written": f"{TRAIN} OUTPUT {{place}}/cut.pth/run",
    "was trained with other options": f"{TRAIN} --resume OUTPUT {{place}}/done SOLVER.IDENTITIES 4 SOLVER.EPOCHS 2",
    "there is no checkpoint at": "test.py --checkpoint nothing",
    "is truncated, corrupt or no checkpoint at all": "test.py --checkpoint {place}/cut.pth",
    "its checksum differs": "test.py --checkpoint {place}/damaged.pth",
    "is broken or no image": f"{TRAIN} DATA.ROOT {{place}}/broken",
    "and the training set has 6: lower": f"{TRAIN} SOLVER.IDENTITIES 100",
    "an odd number of positions": f"{TRAIN} DATA.HEIGHT 40 DATA.WIDTH 20",
    "the loss is not finite": f"{TRAIN} SOLVER.BASE_LR 1e12 OUTPUT {{place}}/nan",
}


def errors(page):
    """Message → its fix, without the targets of links."""
    table = re.search(r"^\| what it says.*\n\|[-|]+\n((?:\|.*\n)+)", page.read_text(encoding="utf-8"), re.MULTILINE)[1]
    return dict(re.findall(r"^\| `(.*?)` \| (.*) \|$", re.sub(r"\]\(.*?\)", "]", table), re.MULTILINE))


def test_every_error_of_the_page_is_provoked():
    assert {*errors(ROOT / "docs/troubleshooting.md")} == {*PROVOKED}


def test_no_row_of_the_readme_has_an_empty_cell():
    assert not re.findall(r"^.*\| \|.*$", README, re.MULTILINE)


def test_the_readme_leads_to_every_script_and_method():
    """In one click at most."""
    linked = [ROOT / path for path in re.findall(r"\]\(([^)#]+\.md)", README)]
    pages = README + "".join(page.read_text(encoding="utf-8") for page in linked)
    scripts = {path.name for path in (ROOT / "scripts").glob("*.*")} - {"environment.sh", "installed.py"}  # of others
    assert not {name for name in scripts if name not in pages}
    commands = {f"`python train.py --config configs/{path.name}`" for path in (ROOT / "configs").glob("sysu_*.yaml")}
    missing = {command for command in commands if command not in README}
    assert missing == {"`python train.py --config configs/sysu_cmfn_as_drawn.yaml`"}


@pytest.mark.parametrize("message", PROVOKED)
def test_an_error_is_one_line_with_its_message(message, place):
    stderr = provoke(place, PROVOKED[message])
    assert message in stderr and "error: " in stderr and "Traceback" not in stderr
