"""What runs in a foreign process needs nothing of it: no gevent, no other modules, no threads that end."""

import subprocess
import sys


def test_the_box_and_the_runners_import_no_gevent():
    runners = ", ".join(
        f"mmgevent.driver.runners.{name}" for name in ("futures", "executors", "ray", "ray_session")
    )
    modules = f"mmgevent.box.guest, mmgevent.box.leased, {runners}"
    program = f"import sys, {modules}; print([n for n in ('gevent', 'greenlet', 'dask', 'ray') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
