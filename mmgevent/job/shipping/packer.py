"""Bind what the functions of a job reach, name by name, into one payload.

Every binding is a *chunk*, a pickle of its own. All chunks have one memo, so shared objects stay
shared. `agenda` says in which order names are bound, `reductions` how each object travels, and
`namespaces` which dicts functions have as their globals.

*Spare* names travel although no function names them:

- classes of the job's modules, since an item may be an instance of one;
- all names of a module, if a function is reached that looks names up while it runs (`lookups.py`);
- names in annotations that are strings.

If a spare name cannot travel, the user reads the reason only if the name is missed.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import io
import pickle
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mmgevent.errors import ShippingError, TooLargeError
from mmgevent.job.shipping import bindings, lookups
from mmgevent.job.shipping.effects import Effect, find_effects, program_files
from mmgevent.job.shipping.modules import JobImport
from mmgevent.job.shipping.outside import find_changes, find_rebound, own_place
from mmgevent.job.shipping.reductions import PRESENT, Reductions
from mmgevent.job.shipping.refusals import Reach, explain
from mmgevent.wire.limits import MAX_CODE_BYTES

#: Number of parts, the largest ones, that an error names if the payload is too large.
_SHOWN_PARTS = 3

#: Largest pickle of a spare name, bytes. Larger values are mostly tables that only the driver
#: reads.
MAX_SPARE_BYTES = 32 << 20

_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)


class EarlyNames(Exception):
    """Names of the job's modules must be bound before what was packed: pack again with them."""

    def __init__(self, imports: frozenset[JobImport]):
        super().__init__()
        self.imports = imports


class Packer:
    """Packs one payload; used once."""

    def __init__(
        self,
        by_value: frozenset[str],
        pickler_class: Callable[[io.BytesIO, Reductions], Any],
        early: frozenset[JobImport] = frozenset(),
        *,
        stays_here: bool = False,
    ):
        """early: imports by which the user's modules take names from the job's modules.

        These names are bound first.
        """
        self._by_value = by_value
        self._early = early
        self._reductions = Reductions(by_value, stays_here=stays_here)
        self._namespaces = self._reductions.namespaces
        self._agenda = self._reductions.agenda
        self.tree = self._reductions.tree
        #: imports in the tree that were followed to the job's own names
        self._followed: set[JobImport] = set()
        #: modules of the tree whose source was searched for lookups of names
        self._searched: set[str] = set()
        #: (names from the job's function to what is bound, (module, name) if spare, pickle)
        self._chunks: list[tuple[str, tuple[str, str] | None, bytes]] = []
        self._chunk_bytes = 0
        #: {module: {name: why it stayed behind}}
        self._left: dict[str, dict[str, str]] = {}
        #: imports for their effect, in the order of the file
        self._effects: list[Effect] = []
        self._buffer = bindings.Buffer()
        self._pickler = pickler_class(self._buffer, self._reductions)

    def add_effects(self) -> None:
        """Add what the job's file, or else the program, imports only for its effect."""
        left_out = {*self._by_value, "mmgevent", "__future__"}
        for module, text in program_files(self._by_value):
            for effect in find_effects(module, text, left_out):
                self._effects.append(effect)
                if effect.module.partition(".")[0] not in PRESENT:
                    self._reductions.is_plain = False
                with contextlib.suppress(ShippingError):  # executors find it, or warn
                    self.tree.add_import(effect.module, 0, effect.names, "")

    def find_left(self, setupfn: Any) -> Iterator[str]:
        """Yield a sentence for each change outside of the job that setupfn does not repeat."""
        repeated = set(lookups.names_used(setupfn)) if isinstance(setupfn, types.FunctionType) else set()
        rebound: dict[str, str] = {}
        for source in self.tree.sources.values():
            loaded = sys.modules.get(source.name)
            if loaded is not None:
                rebound.update(find_rebound(loaded, source.text, repeated))
        yield from rebound.values()
        for module, text in program_files(self._by_value):
            reached = self._agenda.used_names(vars(module))
            packages = {own_place(vars(module).get(name)).partition(".")[0] for name in reached}
            packages.update(name.partition(".")[0] for name in self.tree.sources)
            is_reached = functools.partial(self._is_reached, vars(module), reached, packages)
            yield from find_changes(module, text, is_reached, repeated, rebound)

    def _is_reached(
        self, namespace: dict[str, Any], reached: set[str], packages: set[str], name: str, package: str
    ) -> bool:
        is_instance = not isinstance(namespace[name], (types.ModuleType, type, *_FUNCTIONS))
        if name in reached:
            return not is_instance  # an instance travels as it is now
        word = re.compile(rf"\b{re.escape(package)}\b")
        return package in packages or any(word.search(source.text) for source in self.tree.sources.values())

    def pack(
        self, roles: dict[str, Any], argv: list[str], settings: dict[str, Any], environ: dict[str, str]
    ) -> bytes:
        """Return the payload for `{role: function or form}`, to be run with this `sys.argv`.

        The settings are those of `job.shipping.settings`, the variables those of `pass_env`. Raises EarlyNames if names must be bound
        before: pack again with them.
        """
        self._namespaces.add_anonymous(roles)
        for statement in sorted(self._early, key=str):
            for reach in self._imported_names(statement, is_spare=False):
                self._pack_all([reach])
        self._pack_all(Reach(roles, role) for role in roles)
        self._agenda.put_off(self._agenda.spare_classes())
        while spares := self._agenda.take_spares():
            self._pack_all(spares)
        self._chunks.append(("the job", None, self._pickle(lambda: self._pickler.save(roles))))
        files = self._reductions.files.items()
        lines = {path: text for path, space in files if (text := bindings.read_lines(path, space))}
        payload = {
            "argv": argv,
            "environ": environ,
            "effects": [tuple(effect) for effect in self._effects],
            "modules": self._namespaces.job_modules(),
            "sources": [(s.name, s.path, s.folders, s.text, s.code, s.files) for s in self.tree.collect()],
            "lines": lines,
            "chunks": self._chunks,
            "left": self._left,
            "settings": settings,
            "unused": self._agenda.unused_names(),
            "is_plain": self._reductions.is_plain and not self.tree.sources and not self.tree.stay_behind,
        }
        packed = pickle.dumps(payload, protocol=5)
        self._check_size(len(packed))
        return packed

    def _check_size(self, n_bytes: int) -> None:
        """Raise TooLargeError, naming the largest parts, if that many bytes are too many."""
        if n_bytes <= MAX_CODE_BYTES:
            return
        parts = [(len(chunk), label) for label, _, chunk in self._chunks]
        parts += [(len(source.text), f"the module {source.name}") for source in self.tree.sources.values()]
        largest = [f"{label} ({size:,})" for size, label in heapq.nlargest(_SHOWN_PARTS, parts)]
        raise TooLargeError(
            f"the job's code and what it captures have {n_bytes:,} bytes or more, {n_bytes - MAX_CODE_BYTES:,} more than "
            f"can be sent ({MAX_CODE_BYTES:,}); the largest parts: {', '.join(largest)}. Put large data into a file and "
            f"read it by its path in setupfn, or pass it as input: Files(...)"
        )

    def _pack_all(self, reaches: Iterable[Reach]) -> None:
        for reach in reaches:
            self._agenda.add(reach)
        while self._agenda:
            self._pack_next(self._agenda.take())
            self._check_size(self._chunk_bytes)
            self._follow_job_imports()
        self._follow_job_imports()

    def _follow_job_imports(self) -> None:
        """Add what the user's modules and functions import from the job's modules."""
        new = [statement for statement in self.tree.job_imports if statement not in self._followed]
        self._followed.update(new)
        early = {statement for statement in new if statement.names and not statement.is_late} - self._early
        if early:
            raise EarlyNames(frozenset(early))
        for name in [name for name in self.tree.sources if name not in self._searched]:
            self._searched.add(name)
            if lookups.source_looks_up(self.tree.sources[name].text, self._by_value):
                self._agenda.open()
        for statement in new:
            if not statement.names or "*" in statement.names:
                self._agenda.open(self._namespaces.home(statement.module))
            elif statement.is_late:
                self._agenda.put_off(self._imported_names(statement, is_spare=True))

    def _imported_names(self, statement: JobImport, is_spare: bool) -> Iterator[Reach]:
        namespace = self._namespaces.home(statement.module) or {}
        parent = Reach(None, f"module {statement.importer!r}", is_spare=is_spare)
        for name in namespace if "*" in statement.names else statement.names:
            if name in namespace and self._namespaces.is_bound(namespace, name):
                yield Reach(namespace, name, parent.name, None if is_spare else parent, is_spare)

    def _pack_next(self, reach: Reach) -> None:
        """Append the chunk of one name. Leave it behind if it is spare and cannot travel."""
        memo, cells = len(self._pickler.memo), len(self._reductions.cells)
        before = self._agenda.save() if reach.is_spare else None
        self._reductions.reach = reach
        self._buffer.limit = MAX_SPARE_BYTES if reach.is_spare else None
        try:
            chunk = self._pickle(lambda: self._save_binding(reach))
        except Exception as error:  # the user's own __reduce__ may raise anything
            bindings.shorten(self._pickler.memo, memo)
            bindings.shorten(self._reductions.cells, cells)
            self._buffer.limit = None
            found = self._find_elsewhere(reach)
            if found is not None:
                chunk = self._pickle(lambda: self._save_import(reach, *found))
            elif before is None:
                raise ShippingError(explain(reach, error)) from error
            else:
                self._agenda.restore(before)
                self._left.setdefault(self._home_name(reach), {})[reach.name] = explain(reach, error)
                return
        spare = (self._home_name(reach), reach.name) if reach.is_spare else None
        self._chunks.append((" → ".join(reach.chain()), spare, chunk))
        self._chunk_bytes += len(chunk)

    def _home_name(self, reach: Reach) -> str:
        return self._namespaces.name_of(reach.namespace) or ""

    def _find_elsewhere(self, reach: Reach) -> tuple[str, str] | None:
        """Return (module, name) of an importable module that has the same value, or None.

        A value travels as it is now. If it cannot, executors import it from that module.
        """
        if reach.namespace is None:
            return None
        return self._reductions.find_elsewhere(reach.namespace[reach.name])

    def _save_import(self, reach: Reach, module: str, name: str) -> None:
        self._reductions.is_plain = False
        self._pickler.save_reduce(bindings.bind_import, (reach.namespace, reach.name, module, name))

    def _pickle(self, save: Callable[[], None]) -> bytes:
        self._buffer.seek(0)
        self._buffer.truncate()
        self._buffer.write(pickle.PROTO + bytes([self._pickler.proto]))
        save()
        self._buffer.write(pickle.STOP)
        self._buffer.limit = None
        return self._buffer.getvalue()

    def _save_binding(self, reach: Reach) -> None:
        if reach.is_spare and reach.namespace is not None:
            bindings.refuse_drivers_own(reach.namespace[reach.name])
        if reach.namespace is None:
            self._reductions.note_module(reach.name)
            self._pickler.save_reduce(bindings.import_module, (reach.name,))
        else:
            arguments = (reach.namespace, reach.name, reach.namespace[reach.name])
            self._pickler.save_reduce(bindings.bind, arguments)
