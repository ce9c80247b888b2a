"""The house stands: imports point down the floors, gevent stays at the edge, the server knows no pickle."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mmgevent"

#: floor -> modules; what a module imports of mmgevent lies on its floor or below
FLOORS = {
    0: "cgroups python_path real_modules beside here environment interpreter errors versions failures deaths machine positions _speedups _speedups._fallback _speedups._encoding _speedups._core",
    1: """listening shipping.lookups shipping.missing shipping.package_files shipping.struct_classes shipping.arrivals shipping.bindings shipping.instances walks wire.limits destinations attributes shipping.settings shipping.library_settings arguments functions reducers refs paths sources options job jobfile sinks records addresses password certificates page
          shipping shipping.packer shipping.definitions shipping.modules shipping.installed shipping.plain
          shipping.refusals shipping.surroundings shipping.effects shipping.outside
          wire wire.frames wire.streams wire.messages wire.handshake""",
    2: """tasks tasks.map_task tasks.reduce_task tasks.blame tasks.scratch tasks.items tasks.originals tasks.grouping tasks.mapping
          tasks.returned tasks.skipping store batching
          scheduler scheduler.commands scheduler.attempts scheduler.ledger scheduler.roster
          scheduler.dispatcher scheduler.oneshot""",
    3: """executor.terminal inline set_aside executor executor.attempt executor.channel executor.pool offered processes template results feeding
          telling watching engine_configuration engine_process driver handle cluster node""",
    4: "net net.link net.socket_link net.local_link net.tls net.tls_socket net.listener net.guesses net.watchdog net.forker net.supervisor net.threads net.election net.backlog",
    5: """server server.peers server.hosted server.intake server.watchers server.partitioning server.obituaries
          worker worker.slot worker.obituary worker.offering""",
    6: "engine foreground membership relay passing",
    7: """cli cli.debugging cli.exits cli.options cli.progress cli.run cli.server cli.shared cli.streams cli.worker
          mincemeat mincemeat.schedule mincemeat.endpoint mincemeat.commands mincemeat.channel mincemeat.client
          mincemeat.taskmanager mincemeat.server mincemeat.daemons mincemeat.__main__
          __main__ __init__""",
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names.split()}

#: the only floors that may import gevent; executor.pool: items at once in an executor of a job with `greenlets`
GEVENT_FLOORS = {4, 5, 6}
GEVENT_TOO = {"executor.pool", "template"}

#: what a standing server is made of
SERVER_ROLE = [
    "server",
    "server.peers",
    "server.hosted",
    "server.intake",
    "store",
    "scheduler",
    "net.link",
    "net.socket_link",
    "net.tls",
    "net.listener",
]


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name.removesuffix(".__init__") if name != "__init__" else name, path


def imports_of(path):
    """Every module a file imports, at its top or inside functions, except for type checkers only."""
    found = set()

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text("utf-8")))
    return found


IMPORTS = {name: imports_of(path) for name, path in modules()}


def own_imports(name):
    inner = {i.removeprefix("mmgevent.") for i in IMPORTS[name] if i.startswith("mmgevent.")}
    return {i for i in inner if i in FLOOR_OF}


def test_every_module_has_a_floor_and_every_floor_its_modules():
    written = set(IMPORTS) | {"_speedups._core"}
    assert written - set(FLOOR_OF) == set()
    assert set(FLOOR_OF) - written == set()


@pytest.mark.parametrize("name", sorted(IMPORTS))
def test_imports_point_down(name):
    if name in ("__init__", "__main__"):
        return  # the front door names them all, lazily
    above = {i for i in own_imports(name) if FLOOR_OF[i] > FLOOR_OF[name]}
    assert not above


@pytest.mark.parametrize("name", sorted(IMPORTS))
def test_gevent_appears_only_at_the_edge(name):
    uses = any(i.partition(".")[0] == "gevent" for i in IMPORTS[name])
    assert not uses or FLOOR_OF[name] in GEVENT_FLOORS or name in GEVENT_TOO


def reachable(names):
    seen, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(own_imports(name) & set(IMPORTS))
    return seen


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

    assert users("dill") <= {"shipping", "shipping.packer", "shipping.definitions", "executor"}
    assert users("pickle") <= {
        "mincemeat.commands",  # what scripts send one another; encoded and decoded in their processes only
        "records",
        "shipping",
        "shipping.packer",
        "shipping.plain",
        "shipping.definitions",
        "sinks",
    }


@pytest.mark.parametrize("name", ["batching", *(n for n in IMPORTS if n.partition(".")[0] == "scheduler")])
def test_the_pure_core_reads_no_clock_and_does_no_io(name):
    forbidden = {"time", "socket", "os", "threading", "select", "subprocess", "tempfile", "datetime"}
    assert not {i.partition(".")[0] for i in IMPORTS[name]} & forbidden


@pytest.mark.parametrize("name", [n for n in IMPORTS if n.startswith("wire.")])
def test_the_wire_is_sans_io(name):
    forbidden = {"time", "socket", "select", "subprocess", "ssl"}
    assert not {i.partition(".")[0] for i in IMPORTS[name]} & forbidden


def test_importing_the_package_loads_nothing_heavy():
    import subprocess

    code = "import sys, mmgevent; print(sorted({m.partition('.')[0] for m in sys.modules}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"gevent", "dill", "logging", "cryptography", "rich", "psutil", "json"} & set(
        ast.literal_eval(out)
    )
