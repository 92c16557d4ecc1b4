"""What ruff and mypy say of the code, as ruff.toml and mypy.ini ask them."""

import sys

import pytest
from programs import run_apart


def check(*command):
    done = run_apart(sys.executable, "-m", *command)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing():
    check("ruff", "check")


@pytest.mark.long
def test_mypy_accepts_all_but_the_tests():
    check("mypy")
