"""A web application whose processes all work for the requests of each.

    $ python examples/webfarm.py --port 8000 -n 4 books/*.txt
    $ curl 'localhost:8000/count?word=whale'
    {"word": "whale", "count": 1685, "by": {"ada/4713": 1011, "ada/4719": 674}}
    $ curl localhost:8000/stats
    $ kill -9 ...                               # any of them, and ask again

Shows: nodes in a program whose processes start and end at any time. Each node is made after the
fork, in the process that uses it. A request submits a job, and all processes work on it. One of
them is the server without knowing it; if it dies, another one becomes the server. Other machines
can help: mmg-worker --elect.

`application` is plain WSGI, for any server that forks first. The processes become nodes at their
first request:

    $ WEBFARM_FILES='books/*.txt' MMG_ELECT=localhost gunicorn -w 4 --chdir examples webfarm:application
"""

import argparse
import functools
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import platform
import re
import signal
import socket
import socketserver
import sys
import threading
import urllib.parse
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import psutil

import mmgevent as mmg
from mmgevent.reducers import sum_values

ANSWER_S = 20.0  # for a job, seconds; then the client gets an error and may try again
END_S = 10.0  # for a process to end after SIGTERM, seconds

_node = None
_making = threading.Lock()


def get_node():
    """Return the node of this process. The first call makes it, which is after the fork."""
    global _node
    with _making:
        if _node is None:
            _node = mmg.Node(os.environ.get("MMG_ELECT", "localhost").split(","))
        return _node


# The jobs


def name_worker():
    """Return host/pid of the worker; called in an executor, which is two processes below it."""
    return f"{platform.node()}/{psutil.Process().parents()[1].pid}"


def count(word, path, text):
    yield name_worker(), len(re.findall(rf"\b{re.escape(word)}\b", text, re.IGNORECASE))


def describe(number, _):
    yield name_worker(), {"load": os.getloadavg()[0], "python": platform.python_version()}


def answer_count(query):
    files = mmg.Files(os.environ.get("WEBFARM_FILES", __file__).split(os.pathsep), errors="replace")
    word = query["word"][0]
    by = run(mmg.Job(files, functools.partial(count, word), sum_values, name="count"))
    return {"word": word, "count": sum(by.values()), "by": by}


def answer_stats(query):
    everybody = ((number, None) for number in itertools.count())
    workers = run(mmg.Job(everybody, describe, allocation="oneshot", name="stats"))
    return {"asked": os.getpid(), "workers": {name: facts for name, [facts] in workers.items()}}


def run(job):
    handle = get_node().submit(job)
    try:
        return handle.result(ANSWER_S)
    finally:
        handle.cancel()  # nothing happens if it is done


# The application

PAGES = {"/count": answer_count, "/stats": answer_stats}


def application(environ, start_response):
    page = PAGES.get(environ["PATH_INFO"])
    query = urllib.parse.parse_qs(environ.get("QUERY_STRING", ""))
    if page is None:
        status, answer = "404 Not Found", {"error": f"expected {' or '.join(PAGES)}"}
    elif page is answer_count and "word" not in query:
        status, answer = "400 Bad Request", {"error": "expected /count?word=WORD"}
    else:
        try:
            status, answer = "200 OK", page(query)
        except (mmg.MmgeventError, TimeoutError) as error:
            status, answer = "503 Service Unavailable", {"error": str(error)}
    body = json.dumps(answer).encode() + b"\n"
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


# A small server that forks first


class RequestHandler(WSGIRequestHandler):
    timeout = 10.0  # seconds that a client may be silent


class Server(socketserver.ThreadingMixIn, WSGIServer):
    """Answer requests in threads, on a socket that was opened before the fork."""

    daemon_threads = True

    def __init__(self, listener, parent):
        super().__init__(listener.getsockname(), RequestHandler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = listener.getsockname()[:2]
        self.setup_environ()
        self.set_app(application)
        self.parent = parent

    def service_actions(self):
        """End with the parent, however it ends; called twice a second."""
        if os.getppid() != self.parent:
            sys.exit(1)


def serve(listener, parent):
    """Be one of the processes, until a signal ends it."""
    with get_node(), Server(listener, parent) as server:
        server.serve_forever()


def main():
    parser = argparse.ArgumentParser(prog="webfarm.py")
    parser.add_argument("--port", type=int, default=8000, help="where to answer HTTP (8000)")
    parser.add_argument("--elect", metavar="HOST[:PORT][,...]", help="where the nodes meet (localhost)")
    parser.add_argument("-n", type=int, default=4, metavar="N", help="processes (4)")
    parser.add_argument(
        "paths", nargs="*", default=[__file__], metavar="path", help="whose words are asked for"
    )
    given = parser.parse_args()
    os.environ["WEBFARM_FILES"] = os.pathsep.join(map(os.path.abspath, given.paths))
    if given.elect:
        os.environ["MMG_ELECT"] = given.elect
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    with socket.create_server(("127.0.0.1", given.port)) as listener:
        listener.setblocking(False)  # several processes wake up for a client, and one of them gets it
        print("http://{}:{}".format(*listener.getsockname()), flush=True)
        keep_up(given.n, listener)


def keep_up(n, listener):
    """Keep `n` processes serving. This process has no threads and no node, so it may fork."""
    fork = multiprocessing.get_context("fork")
    processes = []
    try:
        while True:
            while len(processes) < n:
                process = fork.Process(target=serve, args=(listener, os.getpid()), daemon=True)
                process.start()
                processes.append(process)
            multiprocessing.connection.wait([process.sentinel for process in processes])
            if any(process.exitcode == 1 for process in processes):  # an exception, not a signal
                raise SystemExit("webfarm.py: a process failed; what it said is above")
            processes = [process for process in processes if process.is_alive()]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(END_S)
            process.kill()


if __name__ == "__main__":
    main()
