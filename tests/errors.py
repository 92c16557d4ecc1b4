"""Every error message that a user can get, read from the code, and the test that asks for it: docs/errors.md.

    python tests/errors.py     # writes the page

A message counts as tested where a test function names a part of it that tells it from the others: in `match=...`, or
as the text that it looks for.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "errors.md"
CODE = ("train.py", "test.py", "configs", "data", "losses", "models", "utils", "scripts")
HEAD = """# Every error message

Made from the code by `python tests/errors.py`; `tests/test_errors.py` holds that it is complete and that each message
has a test. `…` stands for what differs: a path, an option, a number. What to do about the frequent ones:
[troubleshooting.md](troubleshooting.md).
"""
GAP = "…"
LONGEST = 6  # words in a row that are compared


@dataclass(frozen=True)
class Message:
    file: str
    function: str
    error: str
    text: str  # with GAP where something is filled in

    def parts(self) -> list[str]:
        return [part for part in self.text.split(GAP) if part.strip()]


def files() -> Iterator[Path]:
    for name in CODE:
        path = ROOT / name
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def messages() -> list[Message]:
    """Of each `raise` of an error of ours, and of each `sys.exit` with a text."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files()}
    ours = {
        node.name for tree in trees.values() for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(is_error(base) for base in node.bases)
    } | {"ArgumentTypeError"}
    found = []
    for path, tree in trees.items():
        for function, call in calls(tree):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            if (name in ours or name == "exit") and call.args:
                text = " ".join(template(call.args[0]).split())
                if len(re.sub(r"\W", "", text)) >= 8:  # more than gaps
                    found.append(Message(str(path.relative_to(ROOT)), function, name, text))
    return list(dict.fromkeys(found))


def is_error(base: ast.expr) -> bool:
    name = getattr(base, "attr", getattr(base, "id", ""))
    return name.endswith(("Error", "Exception"))


def calls(node: ast.AST, function: str = "") -> Iterator[tuple[str, ast.Call]]:
    for child in ast.iter_child_nodes(node):
        inner = child.name if isinstance(child, ast.FunctionDef | ast.ClassDef) else function
        if isinstance(child, ast.Call):
            yield inner, child
        yield from calls(child, inner)


def template(node: ast.expr) -> str:
    """The text of an expression, with GAP for what isn't known before it runs."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return GAP


def tested() -> dict[str, str]:
    """Texts that test functions name -> file::function."""
    texts = {}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            name = getattr(node, "name", "")
            for inner in ast.walk(node):
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    for part in re.split(r"\.\*|\.\+|\\n|\[\^?.*?\]|\{.*?\}|\n", inner.value):
                        text = " ".join(re.sub(r"\\(.)", r"\1", part).split())
                        texts.setdefault(text, f"{path.name}::{name}".rstrip(":"))
    return texts


def tests_of(found: list[Message]) -> dict[Message, str]:
    """The messages that have a test: a text means those with which it shares the most words in a row."""
    left, places = tested(), {}
    for count in range(LONGEST, 1, -1):
        runs = {message: {run for part in message.parts() for run in word_runs(part, count)} for message in found}
        for text, where in [*left.items()]:
            named = {*word_runs(text, count)}
            meant = [message for message in found if runs[message] & named]
            if meant:
                del left[text]
            if len(meant) <= (3 if count > 2 else 1):  # what fits many tells none
                for message in meant:
                    places.setdefault(message, where)
    return places


def word_runs(text: str, count: int) -> list[tuple[str, ...]]:
    """Each so many words that follow one another."""
    words = re.findall(r"[\w'-]+", text)
    return [tuple(words[i:i + count]) for i in range(len(words) - count + 1)]


def page(found: list[Message], places: dict[Message, str]) -> str:
    lines = [HEAD]
    for file in dict.fromkeys(message.file for message in found):
        lines += [f"\n## {file}\n", "| message | test |", "|---|---|"]
        lines += [
            f"| {message.text.replace('|', chr(92) + '|')} | {places.get(message, '')} |"
            for message in found if message.file == file
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    found = messages()
    places = tests_of(found)
    PAGE.write_text(page(found, places), encoding="utf-8")
    for message in found:
        if message not in places:
            print(f"no test: {message.file}, {message.function}: {message.text}", file=sys.stderr)
    print(f"{len(found)} messages, {len(places)} with a test: {PAGE}")


if __name__ == "__main__":
    main()
