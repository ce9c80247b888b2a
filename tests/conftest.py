"""For all tests: examples that are the same in every run, and nothing in the environment that a command would read."""

import os
import signal

from hypothesis import HealthCheck, settings

# A slow machine fails no test (no deadline, no check of speed), and a run fails on nothing that the run before it
# could not have failed on (no chance in the examples).  To look for new ones: pytest --hypothesis-profile=explore
_ON_ANY_MACHINE = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("certain", derandomize=True, database=None, **_ON_ANY_MACHINE)
settings.register_profile("explore", max_examples=2000, print_blob=True, **_ON_ANY_MACHINE)
settings.load_profile("certain")

for _name in [name for name in os.environ if name.startswith("MMG_")]:
    del os.environ[_name]

# A shell that is not interactive starts `make test &` with SIGINT ignored, and so would be every command that a
# test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
