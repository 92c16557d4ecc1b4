"""Every error message that a user can get, read from the code, and the test that asks for it: docs/errors.md.

    python tests/errors.py     # writes the page

A message counts as tested where a test function holds words that can be read in it, and in no other message as well.
"""

import ast
import builtins
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "errors.md"
CODE = ("train.py", "test.py", "configs", "assembly", "common", "data", "losses", "models", "utils", "scripts")
HEAD = """# Every error message

Made from the code by `python tests/errors.py`; `tests/test_errors.py` holds that it is complete and that each message
has a test. `…` stands for what differs: a path, an option, a number. What to do about the frequent ones:
[troubleshooting.md](troubleshooting.md).
"""
GAP = "…"
WILD = re.compile(r"\.\*\??|\.\+\??|\\[dws]\+?|\[\^?.*?\][+*]?|\{.*?\}")  # of a regular expression or a template


@dataclass(frozen=True)
class Message:
    file: str
    function: str
    error: str
    text: str  # with GAP where something is filled in


def files() -> Iterator[Path]:
    for name in CODE:
        path = ROOT / name
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


@cache
def messages() -> list[Message]:
    """Of each error that is made with a text, and of each `sys.exit` and `parser.error` with one."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files()}
    errors = {
        node.name for tree in trees.values() for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(is_error(name_of(base)) for base in node.bases)
    } | {"ArgumentTypeError", "exit", "error"} | {name for name in vars(builtins) if is_error(name)}
    found = []
    for path, tree in trees.items():
        for function, call in calls(tree):
            name = name_of(call.func)
            if name in errors and call.args:
                text = " ".join(template(call.args[0]).split())
                if len(re.sub(r"\W", "", text)) >= 8:  # more than gaps
                    found.append(Message(str(path.relative_to(ROOT)), function, name, text))
    return list(dict.fromkeys(found))


def name_of(node: ast.expr) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


def is_error(name: str) -> bool:
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


@cache
def tested() -> dict[str, str]:
    """Texts in test functions, with GAP where anything may stand -> file::function."""
    found = {}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tables = {name_of(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
        for test in tree.body:
            if not getattr(test, "name", "").startswith("test_") or path.name == "test_errors.py":
                continue
            used = [tables[name] for node in ast.walk(test) if (name := name_of(node)) in tables]
            for text in (text for node in [test, *used] for text in texts(node)):
                for line in re.split(r"\\n|\n", text):
                    found.setdefault(re.sub(r"\\(.)", r"\1", WILD.sub(GAP, line)), f"{path.name}::{test.name}")
    return found


def texts(node: ast.AST) -> Iterator[str]:
    """But for docstrings and what an assert says when it fails."""
    if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp) and (text := template(node)).strip(GAP):
        yield text
    for child in ast.iter_child_nodes(node):
        said = isinstance(node, ast.Assert) and child is node.msg
        docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        if not said and not docstring:
            yield from texts(child)


def tests_of(found: list[Message]) -> dict[Message, str]:
    """The messages that have a test, and the test that holds most of their words.

    A text means the message with which it shares most: two words at least, of 8 letters and a third of the text's own.
    Of two, it means the one that it holds whole.
    """
    sentences = {tuple(words(message.text)) for message in found}
    holding, places = defaultdict(list), {}
    for sentence in sentences:
        for word in {*sentence} - {GAP}:
            holding[word].append(sentence)
    for text, where in tested().items():
        part = words(text.removeprefix("error: "))
        most = Counter(sentence for word in part for sentence in holding[word] for _ in word)
        meant, best = [], (max(8, letters(part) / 3), False)
        for sentence, bound in most.most_common():
            if bound < best[0]:
                break
            shared = shared_letters(part, sentence)
            score = shared, shared == letters(sentence)
            if score >= best and shared > max(len(word) for word in part if word in sentence):
                meant = [sentence, *meant] if score == best else [sentence]
                best = score
        if len(meant) == 1:  # what fits two tells neither
            places[meant[0]] = max(places.get(meant[0], (0, "")), (best[0], where))
    tested_by = {message: places.get(tuple(words(message.text))) for message in found}
    return {message: place[1] for message, place in tested_by.items() if place}


def words(text: str) -> list[str]:
    """The words without what surrounds them; GAP for what isn't known and what sticks to it."""
    found = [GAP if GAP in word else re.sub(r"^\W+|\W+$", "", word) for word in text.split()]
    return [word for word in found if word]


def letters(part: Iterable[str]) -> int:
    return sum(len(word) for word in part if word != GAP)


def shared_letters(part: Sequence[str], whole: Sequence[str]) -> int:
    """Those of the words of both where the part is read somewhere in the whole, -1 where it cannot be.

    A GAP is any words.
    """
    best = [0] * (len(whole) + 1)  # by the place in the whole that is reached, after the words of the part so far
    for word in part:
        if word == GAP:
            best = [*accumulate(best, max)]
            continue
        after = [-1] * len(best)
        for place, there in enumerate(whole):
            if there == GAP:
                after[place] = max(after[place], best[place])
                after[place + 1] = after[place]
            elif there == word and best[place] >= 0:
                after[place + 1] = best[place] + len(word)
        best = after
    return max(best)


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
