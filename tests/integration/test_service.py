"""mmg-server as a service: what it tells the service manager, and its log for programs."""

import json
import os
import re
import socket
import sys

import pytest

from tests.trust.raw_peer import PASSWORD, PATIENCE_S, RawDriver, running, running_server

#: (name in NOTIFY_SOCKET, address to bind) in a folder
ADDRESSES = {
    "a path": lambda folder: (f"{folder}/s", f"{folder}/s"),
    "an abstract name": lambda folder: (f"@mmgevent-{os.getpid()}", f"\0mmgevent-{os.getpid()}"),
}


@pytest.mark.parametrize("kind", ADDRESSES)
def test_the_service_manager_hears_when_it_is_ready_alive_and_stopping(tmp_path, monkeypatch, kind):
    if kind != "a path" and sys.platform != "linux":
        pytest.skip("only Linux has abstract names")
    name, address = ADDRESSES[kind](tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.settimeout(PATIENCE_S)
        heard.bind(address)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        with running_server(tmp_path) as server:
            assert heard.recv(4096) == f"READY=1\nSTATUS=listens on {server.where}".encode()
            assert [heard.recv(4096), heard.recv(4096)] == [b"WATCHDOG=1"] * 2
            server.stop()
            last = b"WATCHDOG=1"
            while last == b"WATCHDOG=1":
                last = heard.recv(4096)
            assert last == b"STOPPING=1\nSTATUS=the server was stopped"


@pytest.mark.parametrize("name", ["/nobody/listens/there", "x" * 300, "@"])
def test_a_service_manager_that_is_not_there_hurts_nobody(tmp_path, monkeypatch, name):
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with running_server(tmp_path) as server:
        server.wait_said("NOTIFY_SOCKET")
        assert server.stop() == 143


def test_a_log_for_programs_has_an_object_a_line_and_says_who_submitted_what(tmp_path):
    evil = 'evil\n{"message": "forged"}'
    with running(tmp_path, "server", "--listen", "127.0.0.1:0", "--log-format", "json") as server:
        server.wait_said("server listens on ")
        port = int(re.search(r"listens on 127\.0\.0\.1:(\d+)", server.said)[1])
        with RawDriver(("127.0.0.1", port)) as driver:
            driver.say("submit", 1, name=evil, options={}, code_bytes=0, fingerprint="f")
            driver.wait_for("accepted", "rejected")
            server.wait_said("job accepted")
            driver.leave()
        server.stop()
        lines = [json.loads(line) for line in server.said.splitlines()]
    assert all(set(line) >= {"time", "level", "logger", "pid", "message"} for line in lines)
    (accepted,) = [line for line in lines if line["message"].startswith("job accepted")]
    assert "submitted by ?@raw (pid 1)" in accepted["message"]
    assert accepted["level"] == "info"
    assert not any(line["message"] == "forged" for line in lines)
    assert PASSWORD not in server.said


def test_another_log_format_is_refused(tmp_path):
    from tests.integration.commands import Commands

    commands = Commands(tmp_path)
    done = commands.run("server", "--log-format", "xml")
    commands.close()
    assert done.returncode == 2
    assert "--log-format 'xml': expected text or json" in done.stderr
