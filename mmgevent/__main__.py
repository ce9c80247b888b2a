"""Run a command where its script is not on the path: `python -m mmgevent run|worker|server ...`."""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = ("run", "worker", "server")


def main() -> None:
    """Run the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        is_asked = name in ("-h", "--help")
        text = "usage: python -m mmgevent run|worker|server [option]... (see python -m mmgevent run --help)\n"
        (sys.stdout if is_asked else sys.stderr).write(text)
        sys.exit(0 if is_asked else 2)
    del sys.argv[1]
    if not sys.flags.safe_path:
        # -m puts the working directory first, where a random.py would hide the real one.
        sys.path.append(sys.path.pop(0))
    import_module(f"mmgevent.cli.{name}").main()


if __name__ == "__main__":
    main()
