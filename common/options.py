"""How an option is declared: default, explanation and what is allowed, in one line. The check and its words follow."""

import ast
import math
import re
import unicodedata
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from yacs.config import CfgNode

MOST_EPOCHS = 100_000
TEXT, NAME = 2000, 255  # bytes: a path has room below a working folder, a name is what file systems take


class Section(SimpleNamespace):
    """Options, and sections of them, by name."""


@dataclass(frozen=True)
class Option:
    """
    default       its type is the option's: bool, int, float, str, or a list of one of these forms
                  [number, ...]           as many numbers as the default has
                  [[epoch, value], ...]   a schedule: epochs ascend, a value is in force until the next one
                  []                      words, each once
    explanation   what it does, for a reader who knows the option's name
    at_least, above, at_most, below
                  bounds of a number, of each in a list, of each value in a schedule
    rising        no number in the list is less than the one before
    from_start    the schedule's first epoch is 0
    one_of        the only values, or the only words in a list
    form          of a text: a regular expression for all of it, and what it allows in words
    goes_with     another option's key, and the values of that one with which this one is read: (key, value, ...)
    """

    default: bool | int | float | str | list
    explanation: str
    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf
    rising: bool = False
    from_start: bool = False
    one_of: tuple = ()
    form: tuple[str, str] | None = None
    goes_with: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """bool, int, float, str, numbers, schedule or words."""
        if not isinstance(self.default, list):
            return type(self.default).__name__
        if not self.default:
            return "words"
        return "schedule" if isinstance(self.default[0], list) else "numbers"

    @property
    def allowed(self) -> str:
        """In words that come after "it is"."""
        if self.kind == "bool":
            return "true or false"
        if self.kind == "words":
            return f"{', '.join(self.one_of) or 'words'}, each once at most"
        if self.one_of:
            return f"one of {', '.join(map(str, self.one_of))}"
        if self.kind == "str":
            if self.form:
                return self.form[1]
            empty = "" if self.default == "" else ", not empty"
            return f"a text on one line{empty}, {TEXT} bytes at most, {NAME} between slashes"
        bounds = [
            words for number, words in (
                (self.at_least, f"{self.at_least} at least"), (self.above, f"above {self.above}"),
                (self.at_most, f"{self.at_most} at most"), (self.below, f"below {self.below}"),
            ) if math.isfinite(number)
        ]
        if not math.isfinite(min(self.at_most, self.below)):
            bounds.append("finite")
        every = " and ".join(bounds)
        if self.kind == "numbers" and isinstance(self.default, list):
            return f"{len(self.default)} numbers{', ascending' if self.rising else ''}, each {every}"
        if self.kind == "schedule":
            epochs = f"ascending {'from' if self.from_start else 'within'} 0 to {MOST_EPOCHS}"
            return f"[[epoch, value], ...], the epochs {epochs}, each value {every}"
        return every

    def read(self, value: object) -> Any:
        """The value as this option has it: lists for tuples, a float where a whole number is written."""
        return read_as(self.default, value)

    def refusal(self, value: object) -> str:
        """Why a value is not allowed, in words that come after the value; "" where it is."""
        if type(value) is not type(self.default):
            wanted, got = type(self.default).__name__, type(value).__name__
            return f", {got} where {wanted} is wanted, such as {self.default!r}"
        if not like(self.default, value):
            return f", where {self.default or ['a list of words']!r} would do"
        if not self.holds(value):
            return f"; it is {self.allowed}"
        return ""

    def holds(self, value: Any) -> bool:
        """Whether a value of the right form is within its bounds."""
        if self.kind == "schedule":
            epochs = [epoch for epoch, _ in value]
            starts = epochs[:1] == [0] if self.from_start else all(epoch >= 0 for epoch in epochs)
            ascending = epochs == sorted({*epochs}) and all(epoch <= MOST_EPOCHS for epoch in epochs)
            return starts and ascending and all(self.fits(x) for _, x in value)
        if self.kind == "words":
            return len({*value}) == len(value) and all(map(self.fits, value))
        if self.kind == "numbers":
            return all(map(self.fits, value)) and (not self.rising or value == sorted(value))
        return self.kind == "bool" or self.fits(value)

    def fits(self, part: float | str) -> bool:
        """Whether one number or text is allowed."""
        if self.one_of:
            return part in self.one_of
        if isinstance(part, str):
            if self.form:
                return re.fullmatch(self.form[0], part) is not None
            return is_plain(part) and (part != "" or self.default == "")
        return self.at_least <= part <= self.at_most and self.above < part < self.below  # neither infinity, nor NaN


def option(default: bool | float | str | list, explanation: str, **allowed: Any) -> Option:
    """
    allowed   bounds and choices, named as the attributes of `Option`
    raises    ValueError where the default is not allowed itself
    """
    declared = Option(default, explanation, **allowed)
    if declared.refusal(default):
        raise ValueError(f"the default of {explanation!r} is {default!r}{declared.refusal(default)}")
    return declared


def options_of(section: Section, prefix: str = "") -> dict[str, Option]:
    """The options of a section and of those in it, by name from the section on, such as MFA.POSITIONS.

    raises   TypeError for an entry that is no option
    """
    found: dict[str, Option] = {}
    for name, entry in vars(section).items():
        if isinstance(entry, Section):
            found |= options_of(entry, f"{prefix}{name}.")
        elif isinstance(entry, Option):
            found[prefix + name] = entry
        else:
            raise TypeError(f"{prefix}{name} is {entry!r}; declare it by option(default, explanation, ...)")
    return found


def defaults_of(section: Section) -> CfgNode:
    return CfgNode({
        name: defaults_of(entry) if isinstance(entry, Section) else entry.default
        for name, entry in vars(section).items()
    })


def like(default: object, value: object) -> bool:
    """Whether a value has the form of an option's default: as many numbers, any number of such lists, or words."""
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if not isinstance(default, list):
        return type(value) is type(default)
    if not isinstance(value, list):
        return False
    if not default:
        return all(isinstance(word, str) for word in value)
    if isinstance(default[0], list):
        return all(like(default[0], part) for part in value)
    return len(value) == len(default) and all(map(like, default, value))


def is_plain(text: str) -> bool:
    """Whether a text can be printed on one line and be a path: no control characters, nothing that isn't Unicode."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        return False
    return len(text.encode()) <= TEXT and all(len(name.encode()) <= NAME for name in text.split("/"))


def read_as(default: object, value: object) -> Any:
    """The value as an option of that default has it (`Option.read`)."""
    if isinstance(value, (list, tuple)):
        value = [list(part) if isinstance(part, tuple) else part for part in value]
    if isinstance(value, str) and isinstance(default, float):
        value = parse(value)  # yaml reads 5e-4 as text
    if isinstance(default, float) and type(value) is int and abs(value) < 1e300:
        value = float(value)
    return value


def parse(text: str) -> object:
    """A command-line value: a Python literal, true or false, else the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
