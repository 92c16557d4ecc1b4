"""utils/lock.py: one process at a time, whatever becomes of it."""

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest
from locks import ROOT, can_lock, start

from utils import lock as module
from utils.lock import LockedError, only_one


def test_a_second_process_is_refused_with_folder_and_process(tmp_path):
    other, said = start(tmp_path, "train")
    assert said == "taken"
    with pytest.raises(LockedError) as error, only_one(tmp_path, "train"):
        pass
    assert f"process {other.pid} on " in str(error.value) and str(tmp_path) in str(error.value)
    with only_one(tmp_path, "test"):  # other work is not locked out
        pass
    other.communicate()
    with only_one(tmp_path, "train"):
        assert not can_lock(tmp_path, "train")
    assert can_lock(tmp_path, "train") and not [*tmp_path.iterdir()]


def test_a_killed_process_leaves_the_folder_free_even_where_a_child_of_it_lives_on(tmp_path):
    code = (
        "import os, sys, time; from pathlib import Path; from utils.lock import only_one\n"
        "with only_one(Path(sys.argv[1]), 'train'):\n"
        "    if not os.fork():\n        time.sleep(60)\n"
        "    print('taken', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                               start_new_session=True)
    assert process.stdout.readline() == "taken\n" and not can_lock(tmp_path, "train")
    process.kill()
    process.wait()
    assert can_lock(tmp_path, "train")
    os.killpg(process.pid, signal.SIGKILL)


def test_a_process_that_waits_says_so_and_goes_on_when_the_other_has_finished(tmp_path):
    other, _ = start(tmp_path, "cache")
    said = []

    def say(sentence):
        said.append(sentence)
        threading.Thread(target=other.communicate).start()

    with only_one(tmp_path, "cache", say, wait=True):
        assert not can_lock(tmp_path, "cache")
    assert len(said) == 1 and f"process {other.pid} on" in said[0] and said[0].endswith(": waiting for it")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_it_is_said_once_and_the_work_goes_on(tmp_path, monkeypatch, number):
    def refuse(file):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "lock", refuse)
    said, done = [], []
    for _ in range(2):
        with only_one(tmp_path, "train", said.append):
            done.append(True)
    assert done == [True, True]
    assert len(said) == 1 and said[0].startswith(f"warning: {tmp_path} is on a file system without locks")


def test_a_folder_that_cannot_be_made_is_the_systems_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), only_one(tmp_path / "file" / "run", "train"):
        pass


def test_on_windows_a_byte_is_locked(tmp_path):
    """There is no fcntl there, but msvcrt."""
    code = (
        "import sys, types\n"
        "sys.modules['fcntl'] = None\n"
        "calls = []\n"
        "sys.modules['msvcrt'] = types.SimpleNamespace(LK_NBLCK=2, locking=lambda *a: calls.append(a[1:]))\n"
        "from pathlib import Path\n"
        "from utils.lock import only_one\n"
        "with only_one(Path(sys.argv[1]), 'train'):\n    print(calls)\n"
    )
    assert subprocess.check_output([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, text=True) == "[(2, 1)]\n"
