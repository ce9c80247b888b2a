"""Say why something cannot travel: what it is, what holds it, and which function reaches it.

A pickler only knows the object at which it failed. The way to that object is read from the
traceback afterwards, from the frames of the pickler's `save`. So a job that can travel pays nothing
for it.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

#: Advice about a definition that cannot travel: a class, or what a decorator returns.
OWN_MODULE = "put it into a module of its own beside the job and import it from there, as executors then do"
_MAKE_INSIDE = f"make it inside the function that uses it, or {OWN_MODULE}"

_NOT_SHARED = "executors share no memory with this process, so leave it out or make it inside the function"

#: {name of a type: (what it is, what to do instead)}.
_KINDS = {
    "TextIOWrapper": ("an open file", "open it inside the function, or send its path"),
    "BufferedReader": ("an open file", "open it inside the function, or send its path"),
    "BufferedWriter": ("an open file", "open it inside the function, or send its path"),
    "BufferedRandom": ("an open file", "open it inside the function, or send its path"),
    "FileIO": ("an open file", "open it inside the function, or send its path"),
    "socket": ("a socket", "connect inside the function"),
    "generator": ("a generator", "send a list of what it yields, or the function that makes it"),
    "coroutine": ("a coroutine", "send the function that makes it"),
    "Thread": ("a thread", "start it inside the function"),
    "_thread._ThreadHandle": ("a thread", "start it inside the function"),
    "Event": ("an event of threads", _NOT_SHARED),
    "Barrier": ("a barrier of threads", _NOT_SHARED),
    "Queue": ("a queue of threads", _NOT_SHARED),
    "SimpleQueue": ("a queue of threads", _NOT_SHARED),
    "Popen": ("a process that was started", "start it inside the function"),
    "Future": ("a result that is not there yet", "send the result"),
    "Connection": ("a connection", "connect inside the function"),
    "Cursor": ("a database cursor", "connect inside the function"),
}


class Refusal(Exception):
    """Raised for an object that must not travel although it could be pickled."""


@dataclass(frozen=True, eq=False)
class Reach:
    """One name that travels, and the chain of names by which the job reaches it."""

    #: the dict that has it, or None for a module that is only imported
    namespace: dict[str, Any] | None
    name: str
    #: qualified name of the function or class that uses it; "" for the job's own functions
    user: str = ""
    #: how `user` was reached, or None for the job's own functions
    parent: Reach | None = None
    #: whether no function of the job was seen to name it, so that it may stay behind
    is_spare: bool = False

    def chain(self) -> list[str]:
        """Return the names from the job's function to this one."""
        names = [self.name]
        step: Reach | None = self.parent
        while step is not None:
            names.append(step.name)
            step = step.parent
        return names[::-1]


def explain(reach: Reach, error: BaseException) -> str:
    """Return a sentence that says why `reach` cannot travel; the pickler raised `error`."""
    chain = reach.chain()
    trail = _saved_objects(error.__traceback__)[1:]  # without the binding itself
    if reach.parent is not None:
        where = f"{reach.user} uses the global {reach.name!r} ({' → '.join(chain)})"
    elif reach.is_spare:
        is_class = reach.namespace is not None and isinstance(reach.namespace.get(reach.name), type)
        where = f"the class {reach.name}" if is_class else f"the global {reach.name!r}"
    else:
        where = f"the function {_name_of(trail[0])!r}" if trail else "it"
    if isinstance(error, RecursionError):
        reason = "which is nested too deeply to be pickled: send it flat, or build it in the function"
    elif isinstance(error, Refusal) and str(error):
        reason = f"and {error}"
    elif (trail and type(trail[-1]).__name__ in _KINDS) or isinstance(error, Refusal):
        kind, advice = _KINDS.get(type(trail[-1]).__name__, (f"a {type(trail[-1]).__name__}", _MAKE_INSIDE))
        if len(trail) > 1 and advice != _MAKE_INSIDE:
            advice += f"; or {OWN_MODULE}"
        reason = f"which {_place(trail)} {kind}: {advice}"
    elif trail:
        held = f"{_place(trail)} of type {type(trail[-1]).__module__}.{type(trail[-1]).__qualname__}"
        reason = f"which {held} and cannot be pickled ({type(error).__name__}: {error}): {_advice(reach)}"
    else:
        reason = f"which cannot travel: {error}"
    return f"{chain[0]} cannot travel to an executor: {where}, {reason}"


def _advice(reach: Reach) -> str:
    value = None if reach.namespace is None else reach.namespace.get(reach.name)
    return OWN_MODULE if isinstance(value, (type, types.FunctionType)) else _MAKE_INSIDE


def _place(trail: list[Any]) -> str:
    """Return how the last object of the trail is held: "is", or "holds, as ...,"."""
    if len(trail) < 2:
        return "is"
    steps = _steps(trail, is_dict=False) or _steps(trail, is_dict=True)
    return f"holds, as {' in '.join(steps)}," if steps else "holds"


def _steps(trail: list[Any], is_dict: bool) -> list[str]:
    """Return a phrase for each step down the trail that has a name, the innermost first.

    Most dicts on the trail are states of objects, which the user did not write. They count only if
    nothing else has a name.
    """
    steps = []
    below = {id(trail[-1])}
    for owner in reversed(trail[:-1]):
        if (type(owner) is dict) == is_dict:
            found = next((description for part, description in _parts(owner) if id(part) in below), None)
            if found is not None:
                steps.append(found if is_dict else f"{found} of {_name_of(owner)}")
        below.add(id(owner))
    return steps


def _parts(owner: Any) -> Iterator[tuple[Any, str]]:
    """Yield what an object holds, and under which name of the user's."""
    if isinstance(owner, types.FunctionType):
        for name, cell in zip(owner.__code__.co_freevars, owner.__closure__ or (), strict=True):
            try:
                yield cell.cell_contents, f"closure variable {name!r}"
            except ValueError:  # an empty cell
                continue
        for value in owner.__defaults__ or ():
            yield value, "a default argument"
        for name, value in (owner.__kwdefaults__ or {}).items():
            yield value, f"default of {name!r}"
    elif type(owner) is dict:
        for key, value in owner.items():
            yield value, f"item {key!r:.60}"
    for name, value in _attributes(owner):
        yield value, f"attribute {name!r}"


def _attributes(owner: Any) -> list[tuple[str, Any]]:
    try:
        return list(vars(owner).items())
    except TypeError:
        return []


def _name_of(owner: Any) -> str:
    name = getattr(owner, "__qualname__", None)
    return name if isinstance(name, str) else f"a {type(owner).__qualname__}"


def _saved_objects(traceback: TracebackType | None) -> list[Any]:
    """Return the objects that the pickler was saving when it failed, the outermost first."""
    found: list[Any] = []
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name == "save" and "obj" in frame.f_locals:
            obj = frame.f_locals["obj"]
            if not found or found[-1] is not obj:
                found.append(obj)
        traceback = traceback.tb_next
    return found
