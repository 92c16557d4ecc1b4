"""docs/errors.md: every message that a user can get, and its test."""

import ast

import errors


def test_every_message_has_a_test():
    found = errors.messages()
    places = errors.tests_of(found)
    assert len(found) > 150
    assert [message for message in found if message not in places] == []


def test_the_page_is_made_from_this_code():
    found = errors.messages()
    assert errors.PAGE.read_text(encoding="utf-8") == errors.page(found, errors.tests_of(found)), (
        "docs/errors.md is not of this code: python tests/errors.py writes it"
    )


def test_a_message_that_no_test_names_is_noticed():
    words = ["customary", "is", "green", "where", "purple,", "is", "…", "the"]
    text = " ".join(reversed(words))  # which this file doesn't hold
    mine = errors.Message("train.py", "main", "ConfigError", text)
    known = errors.Message("train.py", "main", "CheckpointError", "… holds a training already: add --resume")
    assert errors.tests_of([mine, known]).keys() == {known}


def test_a_template_keeps_the_words_and_marks_what_differs():
    node = ast.parse('f"{a} is {b!r}, " + "not " + c').body[0].value
    assert errors.template(node) == "… is …, not …"
