"""`python -m mmgevent run|worker|server ...`: the commands where their scripts are not on the path."""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = ("run", "worker", "server")


def main() -> None:
    """Be the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        is_asked = name in ("-h", "--help")
        text = "usage: python -m mmgevent run|worker|server [option]... (see python -m mmgevent run --help)\n"
        (sys.stdout if is_asked else sys.stderr).write(text)
        sys.exit(0 if is_asked else 2)
    del sys.argv[1]
    if not sys.flags.safe_path:
        sys.path.append(
            sys.path.pop(0)
        )  # -m puts the working directory first, and a random.py there would hide the real one
    import_module(f"mmgevent.cli.{name}").main()


if __name__ == "__main__":
    main()
