"""Another process that tries a lock of utils/lock.py, or holds one; it imports no torch, so it starts at once."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TRY = """
import sys; from pathlib import Path; from utils.lock import LockedError, only_one
try:
    with only_one(Path(sys.argv[1]), sys.argv[2]):
        print("taken", flush=True)
        sys.stdin.read()
except LockedError as error:
    print(error)
"""


def start(folder: Path, work: str) -> tuple[subprocess.Popen, str]:
    """The process, which holds the lock until its standard input is closed, and what it said: "taken", or why not."""
    process = subprocess.Popen([sys.executable, "-c", TRY, str(folder), work], cwd=ROOT, text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    return process, process.stdout.readline().strip()


def can_lock(folder: Path, work: str) -> bool:
    process, said = start(folder, work)
    process.communicate()
    return said == "taken"
