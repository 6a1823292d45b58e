"""Programs in processes of their own, beside the tests."""

import os
import subprocess
import sys
from pathlib import Path

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def output_by_threads(program):
    """What it prints, the same on one thread as on two.

    Args:
        program: Python, run in the root of the project.
    """
    outputs = []
    for threads in ("1", "2"):
        environment = {**os.environ, **dict.fromkeys(_THREADS, threads)}
        command = [sys.executable, "-c", program]
        folder = Path(__file__).parents[1]
        outputs.append(subprocess.run(command, env=environment, cwd=folder, capture_output=True, check=True).stdout)
    assert outputs[0] == outputs[1]
    return outputs[0]
