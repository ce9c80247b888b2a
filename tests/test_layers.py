"""The rules of the layout: imports point up the list of rooms, gevent stays in the engine, parts stay small.

Every table of exceptions only shrinks: a row that is no longer needed fails, too.
"""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mmgevent"

#: Room -> its modules and packages at the top of mmgevent. A room may import only rooms above it.
ROOMS = {
    "errors": "shown_text errors",
    "real_modules": "real_modules beside",
    "_speedups": "_speedups",
    "reducers": "summaries reducers",
    "machine": "machine",
    "wire": "wire",
    "access": "access",
    "job": "job",
    "tasks": "tasks",
    "executor": "executor",
    "engine": "engine",
    "box": "box",
    "driver": "driver",
    "report": "report",
    "web": "web",
    "cli": "cli",
    "mincemeat": "mincemeat",
    "joblib": "joblib",
    "testing": "testing testing_plugin",
    "front": "__init__ __main__",
}
ORDER = {top: number for number, tops in enumerate(ROOMS.values()) for top in tops.split()}

#: (importer, imported): what will end an import of a room further down.
STILL_UPWARD: dict[tuple[str, str], str] = {}
#: (importer, imported): what will end an import that closes a circle.
STILL_CIRCULAR: dict[tuple[str, str], str] = {}

#: Statements of packages whose `__init__` is not empty. No package defines a class.
NOT_EMPTY = {
    "mincemeat": {ast.ImportFrom, ast.Assign},  # hands names on
    "_speedups": {ast.Import, ast.ImportFrom, ast.Assign, ast.If, ast.Try},  # chooses between C and Python
    # The front door imports a name on first use, by module functions that Python calls (PEP 562).
    "__init__": {ast.ImportFrom, ast.Assign, ast.If, ast.Expr, ast.FunctionDef},
}

#: Rooms that may import gevent.
GEVENT_ROOMS = {"engine", "web"}
#: Modules of executors that import gevent, for jobs with `greenlets`.
GEVENT_TOO = {"executor.pool", "executor.template"}

#: Most lines of a module, of a function, and most members of a class: what a reader keeps in view.
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_ATTRIBUTES = 25
MAX_METHODS = 30

_ONE_NOUN = "one noun, little over"

#: Larger modules, each with a reason; docs/decisions.md has more about each.
LARGE_MODULES = {
    "driver.engine_link": _ONE_NOUN,
    "driver.submission": _ONE_NOUN,
    "engine.scheduler.attempts": _ONE_NOUN,
    "engine.scheduler.scheduler": _ONE_NOUN,
    "job.job": _ONE_NOUN,
}
#: Longer functions, each with a reason.
LONG_FUNCTIONS: dict[str, str] = {}
#: Classes with more attributes or methods, each with a reason.
LARGE_CLASSES = {
    "driver.submission.Submission": "one method for each message of the server",
}
#: Names that several classes share, each with a reason.
SHARED_NAMES: dict[str, str] = {}

#: What a standing server is made of.
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
    tree = ast.parse(PATHS[name].read_text("utf-8"))
    body = tree.body[1:] if ast.get_docstring(tree) else tree.body
    body = [node for node in body if not (isinstance(node, ast.ImportFrom) and node.module == "__future__")]
    assert {type(node) for node in body} - NOT_EMPTY.get(name, set()) == set()
    assert [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)] == (
        ["__dir__", "__getattr__"] if name == "__init__" else []
    )


def definitions(kinds):
    """Yield (dotted name, node) of every function or class of the package, methods and nested ones included."""

    def visit(node, prefix):
        for child in ast.iter_child_nodes(node):
            name = prefix
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                name = f"{prefix}.{child.name}"
                if isinstance(child, kinds):
                    yield name, child
            yield from visit(child, name)

    for module, path in PATHS.items():
        yield from visit(ast.parse(path.read_text("utf-8")), module)


def members_of(node):
    """Return the names of the attributes and of the methods that a class gives to its objects."""
    methods = [child for child in node.body if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))]
    attributes = {
        child.target.id
        for child in node.body
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name)
    }
    for method in methods:
        attributes.update(
            found.attr
            for found in ast.walk(method)
            if isinstance(found, ast.Attribute)
            and isinstance(found.ctx, ast.Store)
            and isinstance(found.value, ast.Name)
            and found.value.id == "self"
        )
    return attributes, {method.name for method in methods}


def check_excused(found, table):
    """Fail for what is found and not in a table of exceptions, and for rows that are no longer needed."""
    assert sorted(found - set(table)) == []
    assert sorted(set(table) - found) == []


def test_modules_are_small():
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in PATHS.items()}
    check_excused({name for name, count in lines.items() if count > MAX_MODULE_LINES}, LARGE_MODULES)


def test_a_large_module_has_its_reason_on_the_page_of_decisions():
    page = (PACKAGE.parent / "docs" / "decisions.md").read_text("utf-8")
    assert [name for name in LARGE_MODULES if f"`{name.replace('.', '/')}.py`" not in page] == []


def test_functions_are_short():
    functions = definitions((ast.FunctionDef, ast.AsyncFunctionDef))
    long = {name for name, node in functions if node.end_lineno - node.lineno >= MAX_FUNCTION_LINES}
    check_excused(long, LONG_FUNCTIONS)


def test_classes_have_few_members():
    large = set()
    for name, node in definitions(ast.ClassDef):
        attributes, methods = members_of(node)
        if len(attributes) > MAX_ATTRIBUTES or len(methods) > MAX_METHODS:
            large.add(name)
    check_excused(large, LARGE_CLASSES)


def test_no_two_classes_have_one_name():
    homes = {}
    for name, _ in definitions(ast.ClassDef):
        homes.setdefault(name.rpartition(".")[2], []).append(name)
    check_excused({name for name, found in homes.items() if len(found) > 1}, SHARED_NAMES)


def test_members_are_counted():
    node = ast.parse(
        "class A:\n  x: int\n  def f(self):\n    self.y = 1\n    self.z, other.w = 1, 2\n    self.y += 1\n  g = 3\n"
    ).body[0]
    assert members_of(node) == ({"x", "y", "z"}, {"f"})


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

    assert users("dill") == {"job.shipping.dill_library"}
    assert users("pickle") <= {
        "mincemeat.commands",  # what scripts send one another; encoded and decoded in their processes only
        "job.outputs.runs",  # results on their way to and from a file of this process
        "driver.cluster_executor",  # large arguments of calls, which the caller sends to its own functions
        "driver.trying.promises",  # copies within a test's process, and whether they are the same
        "driver.trying.sameness",  # compares what has no == by its pickle
        "tasks.columns",
        "tasks.records",  # single values, of items set aside
        "tasks.plain_data",  # that of workers that are not trusted
        "tasks.unpicklable",  # tries what fails, one record after another
        "job.shipping.pack",
        "job.shipping.load",
        "job.shipping.trial",
        "job.shipping.packer",
        "job.shipping.plain",
        "job.shipping.definitions",
        "job.outputs.formats",
    }


PURE = ["driver.input.batching", *(name for name in IMPORTS if name.startswith("engine.scheduler"))]


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
