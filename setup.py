"""Build the C core.

Everything else about the package is in pyproject.toml. Without a compiler the install still
succeeds, and `mmgevent._speedups` uses its Python twin. MMGEVENT_REQUIRE_NATIVE=1 turns a failed
build into an error. A free-threaded Python is refused here: otherwise pip would first spend minutes
on compiling gevent for it.
"""

import os
import sys
import sysconfig
from glob import glob

from setuptools import Extension, setup

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    sys.exit(
        "mmgevent needs gevent, which has no release for free-threaded builds of Python: "
        "use the usual build of Python {}.{}".format(*sys.version_info)
    )

optional = os.environ.get("MMGEVENT_REQUIRE_NATIVE") != "1"
compile_args = [] if sys.platform == "win32" else ["-std=c11", "-O2", "-Wall", "-Wextra"]

setup(
    ext_modules=[
        Extension(
            "mmgevent._speedups._core",
            sources=["mmgevent/_speedups/_core.c"],
            depends=sorted(glob("mmgevent/_speedups/*.h")),
            extra_compile_args=compile_args,
            optional=optional,
        )
    ]
)
