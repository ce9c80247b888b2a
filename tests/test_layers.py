"""The house stands: imports point up the list of rooms, gevent stays in the engine, servers unpickle nothing."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mmgevent"

#: One row a room: what it is made of at the top of the package. A room imports what stands above it.
ROOMS = {
    "errors": "errors",
    "real_modules": "real_modules beside",
    "_speedups": "_speedups",
    "reducers": "reducers",
    "machine": "machine",
    "wire": "wire",
    "access": "access",
    "job": "job",
    "tasks": "tasks",
    "executor": "executor",
    "engine": "engine",
    "driver": "driver",
    "cli": "cli",
    "mincemeat": "mincemeat",
    "front": "__init__ __main__",
}
ORDER = {top: number for number, tops in enumerate(ROOMS.values()) for top in tops.split()}

#: importer -> imported, of a room further down, and what ends it: such imports only become fewer
STILL_UPWARD: dict[tuple[str, str], str] = {}
#: importer -> imported, which closes a circle, and what ends it: such imports only become fewer
STILL_CIRCULAR = {
    ("real_modules", "beside"): "the front door gives the user's modules, where there are any",
    ("job.file", "job.job"): "what makes a Job of a file's names goes to job.job",
    ("engine.worker.slot", "engine.worker.offering"): "what a worker holds goes to engine.worker.held",
    ("driver.watching", "driver.cluster"): "PeerInfo goes to driver.watching",
    ("mincemeat.channel", "mincemeat.server"): "a channel needs no more of its server than a protocol",
    (
        "mincemeat.taskmanager",
        "mincemeat.server",
    ): "a queue of jobs needs no more of its server than a protocol",
}

#: Packages whose `__init__` hands names on; every other one is empty.
HAND_ON = {"__init__", "_speedups", "mincemeat"}

#: rooms that may import gevent, and the two modules of executors of a job with `greenlets`
GEVENT_ROOMS = {"engine"}
GEVENT_TOO = {"executor.pool", "executor.template"}

#: what a standing server is made of
SERVER_ROLE = [
    "engine.server.role",
    "engine.server.conductor",
    "engine.server.store",
    "engine.scheduler.scheduler",
    "engine.net.link",
    "engine.net.socket_link",
    "engine.net.tls",
    "engine.net.listener",
]


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name.removesuffix(".__init__") if name != "__init__" else name, path


PATHS = dict(modules())
#: The C core is a module without a source of its own here.
MODULES = {*PATHS, "_speedups._core"}


def imports_of(path, *, types=False):
    """Every module a file imports, at its top or inside functions; with `types` for type checkers, too."""
    found = set()

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not types:
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found.update(name_of(node.module, alias.name) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text("utf-8")))
    return found


def name_of(module, name):
    """Return the module that `from module import name` imports."""
    return f"{module}.{name}" if f"{module}.{name}".removeprefix("mmgevent.") in MODULES else module


def own(imports):
    """Return the names, within the package, of modules of ours among some that are imported."""
    inner = {name.removeprefix("mmgevent.") for name in imports if name.startswith("mmgevent.")}
    return inner | ({"__init__"} if "mmgevent" in imports else set())


IMPORTS = {name: imports_of(path) for name, path in PATHS.items()}
OWN_IMPORTS = {name: own(imports) for name, imports in IMPORTS.items()}
#: With those for type checkers; that a program imports itself, to be a module like others, is no circle.
ALL_IMPORTS = {name: own(imports_of(path, types=True)) - {name} for name, path in PATHS.items()}


def room_of(name):
    return ORDER[name.partition(".")[0]]


def test_every_module_has_a_room_and_every_room_its_modules():
    tops = {name.partition(".")[0] for name in PATHS}
    assert tops - set(ORDER) == set()
    assert set(ORDER) - tops == set()


def test_every_import_is_of_a_module_that_is_there():
    assert {(name, other) for name in PATHS for other in ALL_IMPORTS[name] if other not in MODULES} == set()


@pytest.mark.parametrize("name", sorted(PATHS))
def test_imports_point_up_the_list(name):
    below = {other for other in ALL_IMPORTS[name] if room_of(other) > room_of(name)}
    assert {other for other in below if (name, other) not in STILL_UPWARD} == set()


@pytest.mark.parametrize(("importer", "imported"), sorted(STILL_UPWARD))
def test_an_import_that_is_excused_for_pointing_down_still_does(importer, imported):
    assert imported in ALL_IMPORTS[importer]
    assert room_of(imported) > room_of(importer)


def find_circle(imports):
    """Return modules of which each imports the next, and the last one the first; an empty list if there are none."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        path.append(name)
        for other in sorted(imports.get(name, ())):
            if found := visit(other):
                return found
        done.add(path.pop())
        return []

    return next((found for name in sorted(imports) if (found := visit(name))), [])


def imports_without(excused):
    return {
        name: {other for other in others if (name, other) not in excused}
        for name, others in ALL_IMPORTS.items()
    }


def test_modules_import_one_another_in_no_circle():
    assert find_circle(imports_without({*STILL_UPWARD, *STILL_CIRCULAR})) == []


@pytest.mark.parametrize(("importer", "imported"), sorted(STILL_CIRCULAR))
def test_an_import_that_is_excused_for_closing_a_circle_still_does(importer, imported):
    assert imported in ALL_IMPORTS[importer]
    assert find_circle(imports_without({*STILL_UPWARD, *STILL_CIRCULAR} - {(importer, imported)})) != []


def test_a_circle_is_found():
    assert find_circle({"a": {"b"}, "b": {"c", "d"}, "c": {"d"}, "d": {"b"}}) == ["b", "c", "d"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("name", [name for name, path in PATHS.items() if path.name == "__init__.py"])
def test_packages_hold_no_logic(name):
    body = ast.parse(PATHS[name].read_text("utf-8")).body
    kinds = {
        type(node)
        for node in body
        if not (isinstance(node, ast.Expr) and ast.get_docstring(ast.Module([node], [])))
    }
    if name == "__init__":
        return  # the front door, which imports what it names on first use
    assert not kinds or name in HAND_ON
    assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef}


@pytest.mark.parametrize("name", sorted(IMPORTS))
def test_gevent_appears_only_at_the_edge(name):
    assert not uses_gevent(name) or name.partition(".")[0] in GEVENT_ROOMS or name in GEVENT_TOO


def uses_gevent(name):
    return any(imported.partition(".")[0] == "gevent" for imported in IMPORTS[name])


def reachable(names):
    seen, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(OWN_IMPORTS[name] & set(IMPORTS))
    return seen


def test_what_runs_in_the_users_process_imports_no_gevent():
    """Not even through the modules of the engine that start it: it may be patched, or forked, or have none."""
    assert {
        name for name in reachable(n for n in PATHS if n.startswith("driver.")) if uses_gevent(name)
    } == set()


def test_nothing_that_a_server_is_made_of_imports_pickle_or_dill():
    guilty = {
        name
        for name in reachable(SERVER_ROLE)
        if {i.partition(".")[0] for i in IMPORTS[name]} & {"pickle", "_pickle", "dill", "shelve", "marshal"}
    }
    assert not guilty


def test_one_module_pickles_data_and_one_ships_code():
    def users(package):
        return {n for n in IMPORTS if any(i.partition(".")[0] == package for i in IMPORTS[n])}

    assert users("dill") <= {"job.shipping.pack", "job.shipping.packer", "job.shipping.definitions"}
    assert users("pickle") <= {
        "mincemeat.commands",  # what scripts send one another; encoded and decoded in their processes only
        "tasks.records",
        "job.shipping.pack",
        "job.shipping.packer",
        "job.shipping.plain",
        "job.shipping.definitions",
        "job.outputs.sinks",
    }


PURE = ["driver.batching", *(name for name in IMPORTS if name.startswith("engine.scheduler"))]


@pytest.mark.parametrize("name", PURE)
def test_the_pure_core_reads_no_clock_and_does_no_io(name):
    forbidden = {"time", "socket", "os", "threading", "select", "subprocess", "tempfile", "datetime"}
    assert not {i.partition(".")[0] for i in IMPORTS[name]} & forbidden


@pytest.mark.parametrize("name", [n for n in IMPORTS if n.startswith(("wire.", "access."))])
def test_the_wire_is_sans_io(name):
    forbidden = {"time", "socket", "select", "subprocess", "ssl"}
    if name == "access.certificates":  # contexts of TLS are made there, and used elsewhere
        forbidden.remove("ssl")
    assert not {i.partition(".")[0] for i in IMPORTS[name]} & forbidden


def test_the_core_imports_nothing_of_ours():
    assert {other for name in PATHS if name.startswith("_speedups") for other in OWN_IMPORTS[name]} <= {
        name for name in MODULES if name.startswith("_speedups")
    }


def test_importing_the_package_loads_nothing_heavy():
    import subprocess

    code = "import sys, mmgevent; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"gevent", "dill", "logging", "cryptography", "rich", "psutil", "json"} & set(
        ast.literal_eval(out)
    )
