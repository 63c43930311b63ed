"""The helper that compiles kernels ends with whom it helps."""

import os
import subprocess
import sys


def test_a_helper_that_nobody_listens_to_any_more_ends_without_a_word():
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([sys.executable, "-m", "worker.warm"], stdin=subprocess.DEVNULL, stdout=write,
                              stderr=subprocess.PIPE)  # fmt: skip
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
