"""The words of what programs say: one of a thing is one."""

import re

import errors
import pytest

from common.words import how_many

WORDS = "images|queries|identities|people|epochs|rows|entries|embeddings|cells|groups|searches|processes|threads"


@pytest.mark.parametrize("number, said", [(0, "0 queries"), (1, "1 query"), (1234, "1,234 queries")])
def test_one_of_a_thing_is_one(number, said):
    assert how_many(number, "query", "queries", form=",") == said
    assert how_many(number, "image").endswith("images") == (number != 1)


def test_what_begins_with_a_length_says_one_for_one():
    """`{len(...)} images`, where the number may be 1, goes through `how_many`."""
    found = {}
    for name in errors.CODE:
        place = errors.ROOT / name
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            lines = path.read_text(encoding="utf-8").splitlines()
            wrong = [line.strip() for line in lines if re.search(rf'f".*\{{len\([^}}]*\)\}} ({WORDS})\b', line)]
            if wrong:
                found[path.relative_to(errors.ROOT).as_posix()] = wrong
    assert found == {}
