"""The objects of one test, among the millions that all tests of a process have made."""

import contextlib
import gc


@contextlib.contextmanager
def only_new_objects():
    """Hide from the garbage collector, and so from `gc.get_objects`, all objects made before.

    Each look at the objects of a large suite takes 0.3 s otherwise. Not around hypothesis, which asks
    the collector who refers to an object of its own.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
