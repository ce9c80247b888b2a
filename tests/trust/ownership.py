"""Who owns what can fail or wait unseen: the list in ownership.tsv, and the code that it must agree with.

    python -m tests.trust.ownership           say where list and code differ
    python -m tests.trust.ownership --write   add and remove rows; new ones have "?" as owner, which is not allowed

A row is one kind in one function: file, function, kind, count, owner. There are no line numbers, so that a row lives
as long as what it speaks of. Kinds:

    except     a handler of Exception, of BaseException or of everything: what becomes of the error
    greenlet   a greenlet is spawned: what its unexpected end fails
    thread     a thread is started, or a function runs in one: the same
    process    a process is started or forked: who waits for it and ends it
    deadline   something is waited for, for a time: what follows when the time is over
    wait       something is waited for without a limit: what ends the wait

Constants of seconds (`*_S`) say themselves what they limit, in the `#:` comment before them, which must be there.
"""

import ast
import re
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mmgevent"
LIST = Path(__file__).with_suffix(".tsv")

#: the only module that spawns greenlets; all others use what it has
SPAWNERS = "engine/greenlets.py"

BROAD = {"Exception", "BaseException"}
THREADS = {
    "Thread",
    "Timer",
    "run_in_thread",
    "apply",
    "start_new_thread",
    "ThreadPoolExecutor",
    "start_thread",
}
PROCESSES = {"Popen", "run", "check_output", "call", "fork", "_fork", "forkpty", "posix_spawn"}
DEADLINES = {"wait", "get", "acquire", "join", "wait_for_room", "select", "poll"}
WAITS = {
    "wait",
    "get",
    "acquire",
    "join",
    "accept",
    "recv",
    "recvmsg",
    "recv_into",
    "select",
    "poll",
    "waitpid",
}
WAITING_FUNCTIONS = {"waitpid", "wait_read", "joinall", "killall", "getaddrinfo", "create_connection"}


class Place(NamedTuple):
    """Where one kind is found."""

    file: str
    function: str
    kind: str


def find_places(package: Path = PACKAGE) -> Counter[Place]:
    """Return what the code has: place -> how often it has that kind."""
    found: Counter[Place] = Counter()
    for path in sorted(package.rglob("*.py")):
        finder = _Finder(path.relative_to(package).as_posix())
        finder.visit(ast.parse(path.read_text()))
        found.update(finder.found)
    return found


class _Finder(ast.NodeVisitor):
    def __init__(self, file: str):
        self.found: list[Place] = []
        self._file = file
        self._scope: list[str] = []

    def _add(self, kind: str) -> None:
        self.found.append(Place(self._file, ".".join(self._scope) or "module", kind))

    def _visit_scope(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._scope.append(node.name)
        self.generic_visit(node)
        self._scope.pop()

    visit_ClassDef = visit_FunctionDef = visit_AsyncFunctionDef = _visit_scope

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        types = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        if node.type is None or any(isinstance(t, ast.Name) and t.id in BROAD for t in types):
            self._add("except")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        kind = _kind_of(node)
        if kind is not None:
            self._add(kind)
        if _callee(node) == "suppress" and any(isinstance(a, ast.Name) and a.id in BROAD for a in node.args):
            self._add("except")
        self.generic_visit(node)


def _callee(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _owner_of(node: ast.Call) -> str:
    """The name that a method is called of, or an empty text."""
    function = node.func
    return ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""


def _kind_of(node: ast.Call) -> str | None:
    name, of = _callee(node), _owner_of(node)
    is_method = isinstance(node.func, ast.Attribute)
    if name in ("spawn", "spawn_later", "spawn_awaited", "spawn_raw") or (
        name == "Greenlet" and of == "gevent"
    ):
        return "greenlet"
    if name in THREADS and (name != "apply" or "threadpool" in of):
        return "thread"
    if name in PROCESSES and (of in ("subprocess", "os") or name == "_fork"):
        return "process"
    if name == "Timeout" or name == "settimeout":
        return "deadline"
    if name in WAITING_FUNCTIONS:
        return "deadline" if any(k.arg == "timeout" for k in node.keywords) else "wait"
    timed = [k for k in node.keywords if k.arg in ("timeout", "timeout_s")]
    if name in DEADLINES and is_method and (timed or (node.args and _is_time(node.args[-1]))):
        return "deadline"
    if name in WAITS and is_method and (not node.args or name.startswith("recv")) and not _is_named(of):
        return "wait"
    return None


def _is_time(node: ast.expr) -> bool:
    """Whether an argument is a time, by its name."""
    return not isinstance(node, ast.Constant) and bool(
        re.search(r"(_s|_S|timeout|grace)\b", ast.unparse(node))
    )


def _is_named(of: str) -> bool:
    """Whether it is no object that waits: a context variable, a module of ours."""
    return of == "variable"


def find_bare_limits(package: Path = PACKAGE) -> list[str]:
    """Return the constants of seconds that no comment explains."""
    bare = []
    for path in sorted(package.rglob("*.py")):
        lines = path.read_text().splitlines()
        for before, line in zip(["", *lines], lines, strict=False):
            if (match := re.match(r"(_?[A-Z][A-Z_]*_S)\b.* = ", line)) and not before.startswith("#"):
                bare.append(f"{path.relative_to(package)}: {match[1]}")
    return bare


def read_list() -> dict[Place, tuple[int, str]]:
    """Return the rows of the list: place -> (count, owner)."""
    rows = {}
    for line in LIST.read_text().splitlines():
        file, function, kind, count, owner = line.split("\t")
        rows[Place(file, function, kind)] = (int(count), owner)
    return rows


def compare() -> list[str]:
    """Return a line for each difference between list and code, with what to do."""
    code, rows = find_places(), read_list()
    lines = []
    for place in sorted({*code, *rows}):
        name = f"{place.kind} in {place.file}, {place.function}"
        count, owner = rows.get(place, (0, ""))
        if code[place] != count:
            lines.append(
                f"{name}: {code[place]} in the code, {count} in the list: run with --write, say who owns it"
            )
        elif not owner or "?" in owner:
            lines.append(f"{name}: nobody owns it: say in the list what happens")
    return lines


def write() -> None:
    """Write the list anew: rows of the code, with the owners that are known. A changed count asks again."""
    code, rows = find_places(), read_list() if LIST.exists() else {}
    text = ""
    for place in sorted(code):
        count, owner = rows.get(place, (0, ""))
        if count != code[place]:
            owner = f"? {owner}".strip()
        text += "\t".join([*place, str(code[place]), owner]) + "\n"
    LIST.write_text(text)


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        write()
    differences = compare()
    said = "\n".join(differences) or f"{sum(find_places().values())} places, each with an owner"
    sys.stdout.write(f"{said}\n")
    sys.exit(bool(differences))
