"""Numbers for the names that people give to identities and cameras."""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from data.records import DataError

LARGEST = 10 ** 9  # a name of a greater number is no number: products of two must fit into int64


def numbers(names: set[str], what: str, source: Path) -> dict[str, int]:
    """A number for each name: its own where all are numbers, else its place in their order, from 1.

    raises   DataError where two names are one number, or look alike
    """
    spelt: dict[str, str] = {}
    for name in sorted(names):
        other = spelt.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            raise DataError(
                f"{source} has the {what} {other!a} and {name!a}, which are one name in two spellings of Unicode, as "
                "macOS and other systems write it: write it in one way"
            )
    if not all(name.isascii() and name.isdecimal() and int(name) < LARGEST for name in names):
        return {name: place for place, name in enumerate(sorted(names), start=1)}
    found: dict[int, str] = {}
    for name in sorted(names):
        other = found.setdefault(int(name), name)
        if other != name:
            raise DataError(f"{source} has the {what} {other} and {name}, which are one number: write it in one way")
    return {name: number for number, name in found.items()}


def camera_numbers(names: set[str]) -> dict[str, int]:
    """Likewise, of cam1, Camera 01 or c1 the number is 1: they are one camera, and so are Door and door."""
    matches = {name: re.fullmatch(r"(?:camera|cam|c)?[-_ ]?([0-9]{1,9})", name.lower()) for name in names if name}
    found = {name: int(match[1]) for name, match in matches.items() if match}
    if len(found) == len(matches):
        return found
    one: dict[object, list[str]] = {}
    for name in sorted(matches):
        one.setdefault(found.get(name, unicodedata.normalize("NFC", name).casefold()), []).append(name)
    return {name: place for place, same in enumerate(one.values(), start=1) for name in same}


def but_for_capitals(names: Iterable[str]) -> list[str]:
    """Those of the names that another one is but for small and capital letters."""
    same: dict[str, list[str]] = {}
    for name in names:
        same.setdefault(name.casefold(), []).append(name)
    return [name for alike in same.values() if len(alike) > 1 for name in alike]
