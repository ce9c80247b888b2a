"""Commands as processes, with a home of their own, and what is left of them when they have ended."""

import json
import os
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent.parent

#: how a closing line of mmg-run begins
CLOSING = r"(done in|(failed|interrupted|terminated|stopped by the reader) after) [\d.,]+ (s|min|h)\b"
#: the closing line, and lines that mmg-run writes after 5 s, so on a slow machine only
PROGRESS = re.compile(
    r"^mmg-run: ((stage \d+ of \d+: )?\w+(: waiting for workers| [\d,]+(/[\d,]+)? (items|tasks), .* slots).*"
    r"|(sorting results|writing results|finishing the output).*|" + CLOSING + r".*)\n",
    re.MULTILINE,
)


class Commands:
    """Start commands with a home, and so a password, of their own."""

    def __init__(self, folder):
        self.folder = folder
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MMG_")}
        self.environ = {**clean, "HOME": str(folder), "XDG_CONFIG_HOME": "", "PYTHONPATH": str(ROOT)}
        #: in the environment of every process that comes of these commands
        self._mark = self.environ["MMGEVENT_TESTED_BY"] = uuid.uuid4().hex
        self._started = []

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def start(self, *argv, environ=None, program=("-m", "mmgevent"), stdin=subprocess.DEVNULL, **kwargs):
        process = subprocess.Popen(
            [sys.executable, *program, *map(str, argv)],
            cwd=self.folder,
            env={**self.environ, **(environ or {})},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            **kwargs,
        )
        self._started.append(process)
        return process

    def run(self, *argv, **kwargs):
        """Run a command to its end; returncode, stdout, stderr."""
        return self.finish(self.start(*argv, **kwargs))

    def finish(self, process):
        """Wait until a command has ended; returncode, stdout, and stderr without progress and closing line."""
        stdout, stderr = process.communicate(timeout=100)
        return subprocess.CompletedProcess(
            process.args, process.returncode, stdout, PROGRESS.sub("", stderr or "")
        )

    def start_server(self, *argv, **kwargs):
        """Start mmg-server on a free port; return it and "host:port"."""
        server = self.start("server", "--listen", "127.0.0.1:0", *argv, **kwargs)
        return server, wait_for(server.stderr, r"listens on (127\.0\.0\.1:\d+)")[1]

    def left_behind(self):
        """Wait a little; return what runs of all processes that came of these commands."""
        _, alive = psutil.wait_procs(list(self._descendants()), timeout=3 * patience_s())
        return alive

    def _descendants(self):
        running = [process.pid for process in self._started if process.poll() is None]
        for process in psutil.process_iter():
            try:
                if process.environ().get("MMGEVENT_TESTED_BY") == self._mark and process.pid not in running:
                    yield process
            except psutil.Error:
                continue  # it ended just now, or is another user's

    def close(self):
        for process in self._started:
            process.kill()
            process.communicate()


def patience_s():
    """Seconds in which a command must end: three, and more while it takes long to start a process at all."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-IS", "-c", ""], check=True)
    return 3.0 + 30 * (time.monotonic() - began)


def wait_for(stream, pattern):
    """Read lines until one has the pattern; return the match."""
    seen = []
    for line in stream:
        seen.append(line)
        match = re.search(pattern, line)
        if match:
            return match
    raise AssertionError(f"{pattern!r} never came; what came:\n{''.join(seen)}")


def read_tsv(text):
    return {key: json.loads(value) for key, value in (line.split("\t") for line in text.splitlines())}
