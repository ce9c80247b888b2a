"""Rebuild the functions of a job from their payload, in executors and trial loads.

The user's definitions get one fresh module of the same name, so they share globals and call one
another as in the program that sent them. What travelled by name is imported.
"""

from __future__ import annotations

import builtins
import io
import os
import pickle
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from mmgevent import beside
from mmgevent.errors import ShippingError
from mmgevent.job.functions import FUNCTION_FIELDS, Functions

# Payloads name functions of the first three: a template imports them once for all its executors.
from mmgevent.job.shipping import bindings, definitions, instances, missing, settings  # noqa: F401
from mmgevent.job.shipping.arrivals import find_lookers, install, made_by_value, show_lines
from mmgevent.job.shipping.dill_library import import_dill
from mmgevent.job.shipping.effects import Effect, run_effects
from mmgevent.job.shipping.module_source import MAIN_NAMES, ModuleSource
from mmgevent.job.shipping.refusals import OWN_MODULE


def load_functions(
    payload: bytes | bytearray | memoryview,
    on_slow: Callable[[Effect, float], None] = lambda *_: None,
    on_failure: Callable[[list[tuple[Effect, BaseException]]], None] = lambda _: None,
    on_warning: Callable[[str], None] = lambda _: None,
) -> Functions:
    """Rebuild the functions in this process, which runs one job and ends.

    The job's variables are put into its environment. Its modules replace those of the same names, `__main__` included. Its settings replace
    those of this process. None of the following stops the load:

    - `on_slow` gets each slow import that the job does for its effect only, and its seconds.
    - `on_failure` gets the imports for their effect that fail here, and the exceptions.
    - `on_warning` gets a sentence for each setting that cannot be made, and for each module that
      looks for files in a folder that is not here.

    Raise ImportError for a module that is missing here, with what to do about it. Raise
    ShippingError, with its name, for whatever else does not load.
    """
    dill = import_dill()
    parts = pickle.loads(payload)
    sys.argv = parts["argv"]
    os.environ.update(parts["environ"])
    effects = [Effect(*fields) for fields in parts["effects"]]
    settings.apply(parts["settings"], is_loaded=False)
    _install_modules(parts, on_warning)
    failed = run_effects(effects, on_slow)
    roles = _load_chunks(dill, parts["chunks"], parts["left"])
    failed = run_effects([effect for effect, _ in failed], on_slow)  # some need what the job's file defines
    if failed:
        on_failure(failed)
    for problem in settings.apply(parts["settings"], is_loaded=True):
        on_warning(problem)
    return Functions(**{role: roles[role] for role in FUNCTION_FIELDS})


def _install_modules(parts: dict[str, Any], on_warning: Callable[[str], None]) -> None:
    """Make modules importable: those that travelled, and empty ones for definitions."""
    sources = [ModuleSource(*fields) for fields in parts["sources"]]
    install(sources)
    for sentence in find_lookers(sources):
        on_warning(sentence)
    beside.give_shipped((source.name for source in sources), (name for name, _ in parts["modules"]))
    for path, text in parts["lines"].items():
        show_lines(path, text)
    for name, attributes in parts["modules"]:
        _make_module(name, attributes, parts["left"])
    missing.remember(parts["left"], parts["unused"])


def _load_chunks(
    dill: Any, chunks: list[tuple[str, tuple[str, str] | None, bytes]], left: dict[str, dict[str, str]]
) -> Any:
    """Load each chunk, in order, with one memo.

    Return what the last one holds: {role: function or form}.
    """
    file = io.BytesIO(b"".join(chunk for _, _, chunk in chunks))
    unpickler = dill.Unpickler(file, ignore=True)
    end = 0
    roles: Any = None
    for label, spare, chunk in chunks:
        end += len(chunk)
        try:
            roles = unpickler.load()
        except (Exception, SystemExit) as error:  # SystemExit comes from a module of the user's
            if spare is None:
                if isinstance(error, SystemExit):
                    raise
                raise _loading_error(label, error) from error
            module, name = spare
            reason = f"{name} does not load here ({type(error).__name__}: {error})"
            left.setdefault(module, {})[name] = reason
            missing.note(module, name, reason)
            file.seek(end)
    return roles


def _make_module(name: str, attributes: dict[str, Any], left: dict[str, dict[str, str]]) -> None:
    """Install a fresh module that can say why an attribute is missing."""

    def explain_missing(attribute: str) -> Any:
        reason = missing.attribute_reason(name, attribute)
        if attribute in left.get(name, ()):
            raise ShippingError(reason)  # pickle would drop the text of an AttributeError
        raise AttributeError(
            reason or f"module {name!r} has no attribute {attribute!r} in an executor",
            name=attribute,
            obj=module,
        )

    module = ModuleType(name)
    vars(module).update(attributes, __builtins__=builtins, __getattr__=explain_missing)
    sys.modules[name] = module
    if name in MAIN_NAMES:
        sys.modules["__main__"] = module
    else:
        module.__spec__ = made_by_value(name)


def _loading_error(label: str, error: Exception) -> Exception:
    if isinstance(error, ImportError):
        return type(error)(f"{label}: {error}. {import_advice(error)}", name=error.name, path=error.path)
    text = str(error).rstrip(".")
    return ShippingError(
        f"{label} does not load in an executor: {type(error).__name__}: {text}; {OWN_MODULE}"
    )


def import_advice(error: ImportError) -> str:
    """Say what to do about a module that cannot be imported in an executor."""
    name = (error.name or "the module").partition(".")[0]
    return (
        f"Install {name} on the workers, or, if it is a module of your own, send it along: "
        f"add --py-files PATH (py_files=[PATH] in options) with the path of {name}"
    )
