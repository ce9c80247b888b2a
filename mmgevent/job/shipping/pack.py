"""Pack the functions of a job into one payload for executors. No copy of the program is sent.

The user's definitions travel by value: functions and classes of `__main__`, of the job file, of
notebook cells. In executors they live in one fresh module of the same name. So they share globals
and call one another as they do here. Instances of their classes are plain pickles in both
directions. Everything else travels by name. Executors import the standard library and what is
installed (`installed.py`). Other modules of the user's travel as source (`modules.py`).
"""

from __future__ import annotations

import functools
import io
import os
import pickle
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmgevent.errors import ShippingError
from mmgevent.job.functions import FUNCTION_FIELDS
from mmgevent.job.shipping import settings
from mmgevent.job.shipping.dill_library import import_dill
from mmgevent.job.shipping.module_source import MAIN_NAMES
from mmgevent.job.shipping.modules import JobImport
from mmgevent.job.shipping.packer import EarlyNames, Packer
from mmgevent.job.shipping.reductions import Reductions

if TYPE_CHECKING:
    from mmgevent.job.functions import Functions

#: Held while packing: neither dill nor the warning filters can be used by several threads at once.
_packing = threading.Lock()


def pack_functions(
    functions: Functions,
    *,
    by_value: Collection[str] = (),
    py_files: Sequence[str | os.PathLike[str]] = (),
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
    stays_here: bool = False,
    on_left: Callable[[str], None] = lambda _: None,
) -> bytes:
    """Return the payload that `load_functions` turns into these functions in another process.

    by_value: names of modules, besides `__main__`, whose definitions travel by value.
    py_files: modules, package folders or zips that travel whether or not an import names them.
    argv: what the functions see as `sys.argv`, or None for that of this process.
    environ: environment variables that executors get.
    stays_here: whether all executors are on this machine. They import what cannot travel.
    on_left: gets a sentence for each change that stays behind, as far as that can be seen, such as
        a library's setting that the top of the job's file makes.

    The payload holds the values that globals have now, and the settings of this process and thread
    (`settings.py`). Raise ShippingError, which names what cannot travel, the function that uses it,
    and what to do.
    """
    for name in by_value:
        if name.partition(".")[0] in sys.stdlib_module_names:
            raise ShippingError(
                f"the job's module {name!r} has the name of a standard library module: rename it"
            )
    with _packing:
        found = settings.read()  # the filters of warnings are among them
        with warnings.catch_warnings():
            warnings.simplefilter("error", import_dill().PicklingWarning)
            return _pack(
                functions,
                frozenset(by_value),
                py_files,
                argv,
                dict(environ or {}),
                stays_here,
                found,
                on_left,
            )


def _pack(
    functions: Functions,
    by_value: frozenset[str],
    py_files: Sequence[str | os.PathLike[str]],
    argv: Sequence[str] | None,
    environ: dict[str, str],
    stays_here: bool,
    found: dict[str, Any],
    on_left: Callable[[str], None],
) -> bytes:
    roles = {role: getattr(functions, role) for role in FUNCTION_FIELDS}
    shown = list(map(str, sys.argv if argv is None else argv))
    early: frozenset[JobImport] = frozenset()
    while True:  # at most once for each import of the job's names
        packer = Packer(by_value | MAIN_NAMES, _pickler_class(), early, stays_here=stays_here)
        for path in py_files:
            packer.tree.add_py_file(path)
        packer.add_effects()
        try:
            payload = packer.pack(roles, shown, found, environ)
        except EarlyNames as more:
            early |= more.imports
            continue
        for sentence in (*settings.left_behind(), *packer.find_left(functions.setupfn)):
            on_left(sentence)
        return payload


def preload() -> None:
    """Import what packing needs, before a folder of the user's can hide any of it."""
    _pickler_class()


@functools.lru_cache(maxsize=1)
def _pickler_class() -> Any:
    """Return the pickler that asks `Reductions` how each object travels. dill decides the rest."""
    dill = import_dill()
    stock: Any = pickle

    class Dispatch(dict[type, Any]):
        """dill's current table, except for dicts: dill would compare each one with `__main__`'s."""

        def get(self, kind: type, default: Any = None) -> Any:
            return stock._Pickler.save_dict if kind is dict else dill.Pickler.dispatch.get(kind, default)

    class Pickler(dill.Pickler):  # type: ignore[name-defined]
        dispatch = Dispatch()

        def __init__(self, file: io.BytesIO, reductions: Reductions):
            super().__init__(file, protocol=5, recurse=False, byref=False)
            self._reductions = reductions

        def reducer_override(self, obj: Any) -> Any:
            return self._reductions.reduce(obj)

        def save_global(self, obj: Any, name: str | None = None) -> None:
            module = stock.whichmodule(obj, name or obj.__qualname__)
            reduction = self._reductions.reduce_named(obj, module)
            if reduction is not None:
                self.save_reduce(*reduction, obj=obj)
                return
            self._reductions.note_module(module)
            super().save_global(obj, name)

    return Pickler
