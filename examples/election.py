"""Watch equals elect a server, and another when that one is gone.

    $ python examples/election.py           # in several terminals
    4711 connecting
    4711 server at localhost:11235
    $ kill -9 4711                          # of the one that says "server": another will say it
    $ python examples/election.py localhost:5001,localhost:5002

Shows: a node without jobs of its own. All nodes are given the same addresses. Where nobody
listens one of them binds the port and is the server, the others are its workers, and when
it dies they do not wait for it. `on_state` is called from a thread of the node's and must not
block, so it puts what it is told into a queue. Ctrl-C ends one.
"""

import argparse
import os
import queue

import mmgevent as mmg


def main():
    parser = argparse.ArgumentParser(prog="election.py")
    parser.add_argument("addresses", nargs="?", default="localhost", metavar="HOST[:PORT][,...]")
    addresses = parser.parse_args().addresses.split(",")
    changes = queue.SimpleQueue()
    with mmg.Node(addresses, on_state=lambda *change: changes.put(change)) as node:
        print(os.getpid(), node.state, flush=True)
        while True:
            state, reason = changes.get()
            print(os.getpid(), describe(state, reason, node.address), flush=True)
            if state == "closed":
                node.wait()  # raises what closed it: a password that is not that of the server, say


def describe(state, reason, address):
    where = (
        "{}:{}".format(*address) if address else "nobody"
    )  # None: it is on its way to the next state already
    if state == "server":
        return f"server at {where}"
    if state == "worker":
        return f"worker of {where}"
    return f"{state}: {reason}" if reason else state


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except mmg.MmgeventError as error:
        raise SystemExit(f"election.py: {error}") from None
