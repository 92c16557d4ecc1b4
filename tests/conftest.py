"""Tests run from anywhere and import the project's packages from the root of the repository, and its scripts."""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # sums are split alike here and in every process that a test starts

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

# What imports torch is imported where it is used: the process that only hands tests out doesn't wait for it.


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="whole what else runs small, being long by nature")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes its time by nature, and runs with --all")
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return  # this process hands tests out
    from hypothesis import settings

    # No deadline: a busy machine takes longer, which is no error. The same examples each time.
    examples = 100 if config.getoption("--all") else 25
    settings.register_profile("tests", deadline=None, derandomize=True, database=None, max_examples=examples)
    settings.load_profile("tests")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--all"):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture(scope="session")
def whole(request) -> bool:
    """Whether what is long by nature runs whole: many kills, many examples, a README's commands as printed."""
    return request.config.getoption("--all")


@pytest.fixture
def data_dir() -> Path:
    return ROOT / "tests" / "data"


@pytest.fixture(autouse=True)
def seeded():
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def imported_for_good():
    """A program that ends with an error collects garbage: it need not go through all that was ever imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared(request, tmp_path_factory):
    """shared.Shared: what all tests read."""
    from shared import Shared

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "shared"
    folder.mkdir(exist_ok=True)
    Shared.of_the_session = Shared(folder)
    return Shared.of_the_session


@pytest.fixture(autouse=True)
def shared_stays_as_it_is(shared):
    yield
    changed = shared.changed()
    assert not changed, f"all tests share {', '.join(map(str, changed))}, which this one changed: copy it before"


@pytest.fixture(scope="session")
def shared_data(shared) -> Path:
    """The folder of a tiny synthetic data set, for reading."""
    return shared.data()


@pytest.fixture(scope="module")
def thin():
    """A ResNet-18 of few channels in the place of torchvision's, for a module that asks for it."""
    from thin import thin as thin_network

    with thin_network():
        yield


@pytest.fixture(scope="module")
def trained(shared, thin) -> Callable[[str], Path]:
    """Takes a method of shared.METHODS, returns the folder of its trained and tested run, for reading."""
    return shared.run


@pytest.fixture(scope="module")
def cmfn(tmp_path_factory, thin) -> Path:
    """The checkpoint of an untrained network, by which tests search."""
    from searches import checkpoint

    return checkpoint(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def gallery(shared_data, tmp_path_factory) -> Path:
    """For the search page: a visible image of each person of the test by three cameras, a minute apart."""
    from data.dataset import open_benchmark

    folder = tmp_path_factory.mktemp("page") / "photos"
    shown = [record for record in open_benchmark("synthetic", shared_data).test if not record.infrared]
    for minute, record in enumerate(shown):
        path = folder / f"cam{record.camera}" / f"{record.identity}_20240501-13{minute:02d}00.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Path(record.path).read_bytes())
    return folder
