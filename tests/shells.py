"""Shell scripts whose `python` is the test's own process, where programs start in no time."""

import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

from programs import ROOT, Done, run

LITTLE = "--train-identities 4 --test-identities 3 --images-per-camera 2 --workers 1"  # images of the embedded data set
# Adds that to what draws the data set, hands the repository's programs over, and starts an interpreter for all else.
PYTHON = f"""#!/bin/sh
case "$2" in data.synthetic) set -- "$@" {LITTLE} ;; esac
[ -n "{{apart}}" ] && exec "{{python}}" "$@"
case "$1" in
*.py) ;;
-m) case "$2" in data.*) ;; *) exec "{{python}}" "$@" ;; esac ;;
*) exec "{{python}}" "$@" ;;
esac
printf '%s\\0' $# "$PWD" "$@" > "{{folder}}/call"
read -r status < "{{folder}}/status"
cat "{{folder}}/stdout"
cat "{{folder}}/stderr" >&2
exit "$status"
"""


class Shell:
    """Runs commands of a shell; the folder is made the virtual environment that scripts/environment.sh finds complete.

    Programs that run here draw no curves (`programs.run`). The embedded data set is drawn small.

    apart   every `python` is an interpreter of its own instead
    """

    def __init__(self, folder: Path, apart: bool = False):
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        python = folder / "bin" / "python"
        python.write_text(PYTHON.format(python=sys.executable, folder=folder, apart="apart" if apart else ""))
        python.chmod(0o755)
        for path in ROOT.glob("requirements*.txt"):
            shutil.copy(path, folder / f"installed-{path.name}")
        os.mkfifo(folder / "call")
        os.mkfifo(folder / "status")

    def run(self, *command, check: bool = True, folder: Path = ROOT, environment: dict | None = None) -> Done:
        """How the command ended, which is run in the folder with these variables set."""
        variables = {"VENV": self.folder, "PYTHON": sys.executable, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}
        env = os.environ | {name: str(value) for name, value in (variables | (environment or {})).items()}
        outputs = self.folder / "shell-stdout", self.folder / "shell-stderr"
        with open(outputs[0], "w") as stdout, open(outputs[1], "w") as stderr:
            # Both for reading and writing: they never end then, and no reader takes the end of an answer for the next.
            calls, status = (os.open(self.folder / name, os.O_RDWR) for name in ("call", "status"))
            try:
                process = subprocess.Popen([*map(str, command)], cwd=folder, env=env, stdout=stdout, stderr=stderr)
                while process.poll() is None:
                    if select.select([calls], [], [], 0.01)[0]:
                        self.answer(calls, status)
            finally:
                os.close(calls)
                os.close(status)
        done = Done(process.returncode, *(output.read_text() for output in outputs))
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def answer(self, calls: int, status: int) -> None:
        received = b""
        while not received.count(b"\0") or received.count(b"\0") < int(received.split(b"\0")[0]) + 2:
            received += os.read(calls, 2**16)
        _, folder, *words = (os.fsdecode(word) for word in received.split(b"\0")[:-1])
        done = run(*words, check=False, folder=Path(folder), drawn=False)
        (self.folder / "stdout").write_text(done.stdout)
        (self.folder / "stderr").write_text(done.stderr)
        os.write(status, b"%d\n" % done.returncode)
