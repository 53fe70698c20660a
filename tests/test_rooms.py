"""The rooms of the package: what may be imported without what; how old import paths are answered."""

import subprocess
import sys


def in_a_new_process(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_method_loads_no_trainer():
    loaded = in_a_new_process(
        "import sys, ift.step; print([name for name in ('trl', 'peft', 'datasets') if name in sys.modules])"
    )
    assert loaded == "[]"
