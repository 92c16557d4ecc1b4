"""Tests run from anywhere and import the project's packages from the root of the repository."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
settings.register_profile("any machine", deadline=None)  # a busy one takes longer, which is no error
settings.load_profile("any machine")


@pytest.fixture
def data_dir() -> Path:
    return ROOT / "tests" / "data"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="the long tests whole")


@pytest.fixture(scope="session")
def whole(request) -> bool:
    """Whether the long tests are to run whole."""
    return request.config.getoption("--all")
