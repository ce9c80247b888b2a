"""The files of examples/clusters: what the systems that read them would check, and what they start."""

import json
import os
import re
import shlex
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from mmgevent.cli import server, worker
from mmgevent.cli.options import parse
from tests.integration.commands import ROOT, wait_for

FILES = ROOT / "examples" / "clusters"
COMMANDS = {"mmg-worker": worker.COMMAND, "mmg-server": server.COMMAND}

JOB = "datasource = {n: n for n in range(9)}\ndef mapfn(key, value):\n    yield 1, value\n"


def read(name):
    return (FILES / name).read_text("utf-8")


def checked(words):
    """Return the options of a command line, as the command itself reads them."""
    return parse(COMMANDS[Path(words[0]).name], words[1:], {})


# Slurm


def test_the_array_of_slurm_is_a_worker_that_leaves_before_its_time_is_over(commands):
    text = read("pilots.sbatch")
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE))
    assert len(directives) == len(re.findall("^#SBATCH", text, re.MULTILINE))
    assert text.index("#SBATCH") < text.index("\nexec")  # Slurm ignores later ones
    hours, minutes, seconds = map(int, directives["time"].split(":"))
    lifetime_s = int(re.search(r"--lifetime (\d+)", text)[1])
    grace_s = int(re.search(r"--grace (\d+)", text)[1])
    assert grace_s < lifetime_s < hours * 3600 + minutes * 60 + seconds - 5

    folder = commands.folder / "bin"
    folder.mkdir()
    program = folder / "mmg-worker"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m mmgevent worker "$@"\n')
    program.chmod(0o755)
    _, where = commands.start_server()
    environ = {
        **commands.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_CPUS_PER_TASK": directives["cpus-per-task"],
        "MMG_SERVER": where,
    }
    pilot = subprocess.Popen(
        ["bash", FILES / "pilots.sbatch"],
        env=environ,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_for(pilot.stderr, f"joined the server at {where} with 2 slots")
        run = commands.run("run", "--join", where, "--expect-workers", "1", commands.write("job.py", JOB))
        assert run.returncode == 0, run.stderr
    finally:
        pilot.terminate()
        pilot.communicate()
    assert pilot.returncode == 143
    del environ["MMG_SERVER"]
    alone = subprocess.run(["bash", FILES / "pilots.sbatch"], env=environ, capture_output=True, text=True)
    assert alone.returncode
    assert "MMG_SERVER: set it to the host" in alone.stderr


# Kubernetes

#: what each kind must have, and what else it may have in this file
SHAPES = {
    "Service": ({"selector", "ports"}, set()),
    "Deployment": ({"replicas", "selector", "template"}, {"strategy"}),
}
CONTAINER = {
    "name", "image", "command", "args", "ports", "env", "readinessProbe", "livenessProbe", "resources",
    "securityContext",
}  # fmt: skip


def documents():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return list(yaml.safe_load_all(read("kubernetes.yaml")))


def containers():
    return [
        (document, container)
        for document in documents()
        if document["kind"] == "Deployment"
        for container in document["spec"]["template"]["spec"]["containers"]
    ]


def test_the_objects_of_kubernetes_have_the_fields_of_their_kinds_and_fit_together():
    names = [(document["kind"], document["metadata"]["name"]) for document in documents()]
    assert len(set(names)) == len(names) == 3
    services = {}
    for document in documents():
        assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}
        needed, allowed = SHAPES[document["kind"]]
        assert needed <= document["spec"].keys() <= needed | allowed
        assert document["apiVersion"] == {"Service": "v1", "Deployment": "apps/v1"}[document["kind"]]
        if document["kind"] == "Service":
            services[document["metadata"]["name"]] = document["spec"]
            continue
        template = document["spec"]["template"]
        assert document["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
        assert template["spec"].keys() == {"terminationGracePeriodSeconds", "containers"}
    for document, container in containers():
        assert container.keys() <= CONTAINER
        assert {name.partition(":")[2] for name in [container["image"]]} == {"latest"}
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        for probe in ("readinessProbe", "livenessProbe"):
            if probe in container:
                assert container[probe]["tcpSocket"]["port"] in ports
        if document["metadata"]["name"] in services:
            service = services[document["metadata"]["name"]]
            assert service["selector"] == document["spec"]["template"]["metadata"]["labels"]
            assert [port["targetPort"] for port in service["ports"]] == list(ports)
            assert [port["port"] for port in service["ports"]] == list(ports.values())
    words = containers()[1][1]["args"]
    assert words[-1].partition(":")[0] in services


def test_the_containers_of_kubernetes_start_our_commands_with_a_secret_and_time_to_drain():
    page = (ROOT / "docs" / "clusters.md").read_text("utf-8")
    secret = re.search(r"create secret generic (\S+) ", page)[1]
    keys = re.findall(r"--from-literal=([\w-]+)=", page)
    passwords = {"mmg-server": ("MMG_PASSWORD", keys[0]), "mmg-worker": ("MMG_WORKER_PASSWORD", keys[1])}
    for document, container in containers():
        variables = {entry["name"]: entry["valueFrom"] for entry in container["env"]}
        name, key = passwords[container["command"][0]]
        assert variables[name] == {"secretKeyRef": {"name": secret, "key": key}}
        assert sum("PASSWORD" in name for name in variables) == 1
        text = json.dumps(container["command"] + container["args"])
        assert set(re.findall(r"\$\((\w+)\)", text)) <= variables.keys()
        words = json.loads(re.sub(r"\$\(\w+\)", "x", text))
        arguments = checked(words)
        grace_s = getattr(arguments, "grace", None) if words[0] == "mmg-worker" else 2
        assert document["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > grace_s + 3


# systemd


def test_systemd_accepts_the_unit_and_its_command_is_one_of_ours(tmp_path):
    unit = read("mmg-worker.service")
    command = re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)[1]
    arguments = checked(shlex.split(command))
    assert arguments.rest == ["${MMG_SERVER}"]
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[1]) > arguments.grace + 3
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze on this machine; the command of the unit was checked")
    copy = tmp_path / "mmg-worker.service"
    copy.write_text(unit.replace(shlex.split(command)[0], shutil.which("true")))
    verified = subprocess.run([program, "verify", copy], capture_output=True, text=True, check=False)
    told = [line for line in verified.stderr.splitlines() if "mmg-worker.service" in line]
    assert (verified.returncode, told) == (0, []), verified.stderr


# Containers

INSTRUCTIONS = {"FROM", "COPY", "RUN", "USER", "WORKDIR", "STOPSIGNAL", "EXPOSE", "CMD"}


def test_the_containerfile_has_a_python_that_we_support_and_starts_our_command():
    lines = re.sub(r"\\\n", " ", read("Containerfile")).splitlines()
    steps = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    assert {name for name, _ in steps} <= INSTRUCTIONS
    given = dict(steps)
    assert steps[0][0] == "FROM"
    minor = int(re.search(r"python:3\.(\d+)-slim$", given["FROM"])[1])
    least = int(re.search(r'^requires-python = ">=3\.(\d+)', (ROOT / "pyproject.toml").read_text(), re.M)[1])
    assert minor >= least
    assert given["USER"].isdigit()  # a name would not pass runAsNonRoot
    assert json.loads(given["CMD"])[0] in COMMANDS
    for text in (text for name, text in steps if name == "RUN"):
        assert subprocess.run(["sh", "-n", "-c", text], check=False).returncode == 0


def test_a_probe_that_connects_and_says_nothing_is_no_line_in_the_log(commands):
    """A server on Kubernetes would log nothing else."""
    server, where = commands.start_server()
    address = ("127.0.0.1", int(where.rpartition(":")[2]))
    for _ in range(3):
        socket.create_connection(address).close()
    with socket.create_connection(address) as reset:
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with socket.create_connection(address) as stranger:
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
        refused = wait_for(server.stderr, "connection (refused|closed): .*:(\\d+)")
        assert int(refused[2]) == stranger.getsockname()[1]
