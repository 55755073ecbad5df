"""nclib on a pretend CUDA device, in a process of its own (see ``fakecuda.py``)."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_nclib_on_the_pretend_device():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "device_cases.py"],
        cwd=HERE, capture_output=True, text=True, timeout=600,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
