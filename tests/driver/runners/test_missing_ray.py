"""What is said without the package ray.  This needs none, so it runs everywhere."""

import subprocess
import sys


def test_a_missing_ray_names_the_extra():
    program = (
        "import sys; sys.modules['ray'] = None\n"
        "from mmgevent.driver.runners.ray_session import open_ray\n"
        "open_ray('ray://auto')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'mmgevent[ray]'" in done.stderr
    assert "UsageError" in done.stderr
