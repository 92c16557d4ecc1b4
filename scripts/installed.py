"""Whether requirement files are installed in a virtual environment; its exit status is 1 where a package is missing.

    .venv/bin/python scripts/installed.py .venv requirements.txt
    .venv/bin/python scripts/installed.py .venv --forget     # what was cut off, so that pip installs it again

Used by scripts/environment.sh. An installation that was cut off leaves packages which pip takes for installed: without
the list of their files, or without some of these.
"""

import csv
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def cut_off(packages: Path) -> list[Path]:
    """The *.dist-info folders, in a folder of packages, of those that aren't whole."""
    return [info for info in packages.glob("*.dist-info") if not is_whole(info)]


def is_whole(info: Path) -> bool:
    """Looks for its list of files, and of these for the one that makes a folder a package."""
    try:
        files = [row[0] for row in csv.reader((info / "RECORD").read_text(encoding="utf-8").splitlines()) if row]
    except OSError:
        return False
    return (info / "METADATA").exists() and all(
        (info.parent / file).exists() for file in files if file.endswith("__init__.py")
    )


def missing(requirements: Path) -> list[str]:
    """Names in a requirement file that no installed package has."""
    names = re.findall(r"^[A-Za-z0-9][\w.-]*", requirements.read_text(encoding="utf-8"), re.MULTILINE)
    return [name for name in names if not is_there(name)]


def is_there(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def main(folder: str, *arguments: str) -> bool:
    """Whether all is there."""
    broken = [info for packages in Path(folder).glob("lib/python*/site-packages") for info in cut_off(packages)]
    if arguments == ("--forget",):
        for info in broken:
            shutil.rmtree(info)
        return True
    return not broken and not any(missing(Path(file)) for file in arguments)


if __name__ == "__main__":
    sys.exit(not main(*sys.argv[1:]))
