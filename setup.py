"""Build the C core.

Everything else about the package is in pyproject.toml.  Without a compiler the
install still succeeds and `mmgevent._speedups` uses its Python twin;
MMGEVENT_REQUIRE_NATIVE=1 turns a failed build into an error.
"""

import os
import sys

from setuptools import Extension, setup

optional = os.environ.get("MMGEVENT_REQUIRE_NATIVE") != "1"
compile_args = [] if sys.platform == "win32" else ["-std=c11", "-O2", "-Wall", "-Wextra"]

setup(
    ext_modules=[
        Extension(
            "mmgevent._speedups._core",
            sources=["mmgevent/_speedups/_core.c"],
            depends=["mmgevent/_speedups/_table.h"],
            extra_compile_args=compile_args,
            optional=optional,
        )
    ]
)
