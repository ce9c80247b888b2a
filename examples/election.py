"""Watch equal processes elect a server, and another one when that server dies.

    $ python examples/election.py           # in several terminals
    4711 connecting
    4711 server at localhost:11235
    $ kill -9 4711                          # the one that says "server": another one will say it
    $ python examples/election.py localhost:5001,localhost:5002

Shows: a node without jobs of its own. All nodes get the same addresses. If nobody listens there,
one of them binds the port and becomes the server, and the others become its workers. If the server
dies, one of them takes its place. `on_state` is called from a thread of the node and must not
block, so it puts each change into a queue. Ctrl-C ends a node.
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
                node.wait()  # raises what closed the node, such as a wrong password


def describe(state, reason, address):
    # The address is None if the node has already left that state.
    where = "{}:{}".format(*address) if address else "nobody"
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
