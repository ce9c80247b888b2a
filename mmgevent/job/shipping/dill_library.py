"""Import dill, late: it takes 50 ms, and most processes never need it.

No other module of the package imports dill.
"""

from typing import Any

from mmgevent.machine.resources import find_scratch_folder


def import_dill() -> Any:
    """Return the module dill, also where no folder for temporary files can be written to.

    dill looks for such a folder while it is imported.
    """
    try:
        import dill
    except FileNotFoundError:
        import tempfile

        tempfile.tempdir = find_scratch_folder()
        try:
            import dill
        finally:
            tempfile.tempdir = None
    return dill
