"""Run a command where its script is not on the path: `python -m mmgevent run|worker|server|dashboard ...`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

COMMANDS = ("run", "worker", "server", "dashboard")


def main() -> None:
    """Run the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        from mmgevent.cli.exits import run_command

        sys.exit(run_command("mmgevent", _explain, [name]))
    del sys.argv[1]
    if not sys.flags.safe_path:
        # -m puts the working directory first, where a random.py would hide the real one.
        sys.path.append(sys.path.pop(0))
    import_module(f"mmgevent.cli.{name}").main()


def _explain(argv: Sequence[str]) -> int:
    from mmgevent.cli.options import HelpAsked
    from mmgevent.errors import UsageError

    usage = "usage: python -m mmgevent run|worker|server|dashboard [option]... (see python -m mmgevent run --help)"
    if argv[0] in ("-h", "--help"):
        raise HelpAsked(usage)
    raise UsageError(f"expected a command, got {argv[0]!r}; {usage}")


if __name__ == "__main__":
    main()
