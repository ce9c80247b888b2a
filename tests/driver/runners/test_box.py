"""What runs in a foreign process needs nothing of it: no gevent, no other modules, no threads that end."""

import subprocess
import sys


def test_the_box_and_the_runners_import_no_gevent():
    modules = "mmgevent.box.guest, mmgevent.driver.runners.futures, mmgevent.driver.runners.executors"
    program = f"import sys, {modules}; print([n for n in ('gevent', 'greenlet', 'dask', 'ray') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
