"""Make what repeats the tables of options: docs/options.md, manual pages, completions for shells.

`python -m mmgevent.cli.option_pages --write` writes them, in the folder of the sources. A test says
when they are out of date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mmgevent.cli import dashboard, looks, run_options, server, worker
from mmgevent.cli.options import BUILT_IN, Command, Option, help_text

#: Folder of the sources.
ROOT = Path(__file__).resolve().parents[2]

COMMANDS = (run_options.COMMAND, worker.COMMAND, server.COMMAND, dashboard.COMMAND)

#: Columns of a file of ours.
_WIDTH = 100

_MADE = "made by `python -m mmgevent.cli.option_pages --write`"


def pages() -> dict[str, str]:
    """Return {path: text} of all that is made of the tables."""
    made = {
        "mmgevent/cli/option_names.py": _names(),
        "docs/options.md": _tables(),
        "docs/completions/mmg.bash": _bash(),
        "docs/completions/_mmg": _zsh(),
        "docs/completions/mmg.fish": _fish(),
    }
    for command in COMMANDS:
        made[f"docs/man/{command.name}.1"] = _manual(command)
    return made


def main() -> None:
    """Write the pages with --write, else print which are out of date."""
    for path, text in pages().items():
        file = ROOT / path
        if file.exists() and file.read_text("utf-8") == text:
            continue
        sys.stdout.write(f"{path}\n")
        if "--write" in sys.argv[1:]:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")


def _options(command: Command) -> tuple[Option, ...]:
    return (*command.options, *BUILT_IN)


def _names() -> str:
    lines = [
        '"""The names of the options of each command, without its table, which takes time to import.',
        "",
        _MADE.capitalize() + ".",
        '"""',
        "",
        "OPTION_NAMES: dict[str, frozenset[str]] = {",
    ]
    for command in COMMANDS:
        lines += [f'    "{command.name}": frozenset(', "        {"]
        lines += [f'            "{name}",' for name in sorted(option.name for option in command.options)]
        lines += ["        }", "    ),"]
    return "\n".join([*lines, "}", ""])


def _tables() -> str:
    lines = [
        "# Options of the commands",
        "",
        f"This page is {_MADE}.",
        "`COMMAND --help` prints the same.",
        "",
        "An option `--some-name` can also be given by the variable `MMG_SOME_NAME`, or as `some-name` in",
        "a file of settings ([where-it-runs.md](where-it-runs.md#settings-in-a-file)). The option wins",
        "over the variable, and the variable over the file. `--show-config` says where each value comes",
        "from. Files of completions for bash, zsh and fish are in `docs/completions`, manual pages in",
        "`docs/man`.",
    ]
    for command in (*COMMANDS, *looks.COMMANDS.values()):
        lines += ["", f"## {command.name}", "", "| option | meaning |", "|---|---|"]
        for option in _options(command):
            names = ", ".join(f"`{name}`" for name in option.names)
            value = f" `{option.metavar}`" if option.metavar else ""
            lines.append(f"| {names}{value} | {option.help.replace('|', chr(92) + '|')} |")
    return "\n".join([*lines, ""])


def _roff(text: str) -> str:
    """Return a text fit for a manual page: no line is a request, and dashes stay dashes."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in escaped.split("\n"))


def _manual(command: Command) -> str:
    lines = [
        f'.\\" {_MADE}',
        f'.TH {command.name.upper().replace("-", chr(92) + "-")} 1 "" "mmgevent"',
        ".SH NAME",
        f"{_roff(command.name)} \\- {_roff(command.summary.split('. ')[0].replace(chr(10), ' '))}",
        ".SH SYNOPSIS",
    ]
    for usage in command.usage:
        lines += [f".B {_roff(command.name)}", _roff(usage), ".br"]
    lines += [".SH DESCRIPTION", _roff(command.summary), ".SH OPTIONS"]
    for option in _options(command):
        names = ", ".join(option.names) + (f" {option.metavar}" if option.metavar else "")
        lines += [".TP", f".B {_roff(names)}", _roff(option.help)]
    lines += [".SH EXAMPLES"]
    for line, what in command.examples:
        lines += [".TP", f".B {_roff(line)}", _roff(what)]
    lines += [".SH NOTES", _roff(command.notes), ".SH SETTINGS"]
    lines += [_roff(" ".join(help_text(command).splitlines()[-2:])), ""]
    return "\n".join(lines)


def _words(command: Command) -> list[str]:
    return [name for option in _options(command) for name in option.names]


def _wrapped(words: list[str], indent: str) -> str:
    lines, line = [], indent
    for word in words:
        if len(line) + len(word) + 1 > _WIDTH:
            lines.append(line.rstrip())
            line = indent
        line += f"{word} "
    return "\n".join([*lines, line.rstrip()])


def _bash() -> str:
    lines = [f"# Completion for bash, {_MADE}.", "# Source this file, for example from ~/.bashrc.", ""]
    for command in COMMANDS:
        name = command.name.replace("-", "_")
        verbs = f" {' '.join(server.VERBS)}" if command is server.COMMAND else ""
        lines += [
            f"_{name}() {{",
            '    local current="${COMP_WORDS[COMP_CWORD]}"',
            '    if [[ "$current" == -* ]]; then',
            "        local words='",
            _wrapped(_words(command), "            "),
            "        '",
            '        COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "    else",
            f'        COMPREPLY=($(compgen -f -W "{verbs.strip()}" -- "$current"))',
            "    fi",
            "}",
            f"complete -o filenames -F _{name} {command.name}",
            "",
        ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _zsh() -> str:
    lines = [
        f"#compdef {' '.join(command.name for command in COMMANDS)}",
        f"# Completion for zsh, {_MADE}.",
        "# Put this file into a folder of $fpath.",
        "",
        'case "$service" in',
    ]
    for command in COMMANDS:
        lines += [f"    {command.name})", "        _arguments -S \\"]
        for option in _options(command):
            text = re.sub(r"([][:\\])", r"\\\1", option.help)
            value = (
                f":{option.metavar.translate(str.maketrans('[]:', '() '))}:_files" if option.metavar else ""
            )
            repeat = "*" if option.repeats or not option.metavar else ""
            for name in option.names:
                lines.append(f"            {_quoted(f'{repeat}{name}[{text}]{value}')} \\")
        verbs = f"1:word:({' '.join(server.VERBS)})" if command is server.COMMAND else "*:argument:_files"
        lines += [f"            {_quoted(verbs)}", "        ;;"]
    return "\n".join([*lines, "esac", ""])


def _fish() -> str:
    lines = [f"# Completion for fish, {_MADE}.", "# Put this file into ~/.config/fish/completions.", ""]
    for command in COMMANDS:
        for option in _options(command):
            names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names)
            value = " -r" if option.metavar else ""
            lines.append(f"complete -c {command.name} {names}{value} -d {_fish_quoted(option.help)}")
        if command is server.COMMAND:
            lines.append(
                f"complete -c {command.name} -f -n __fish_use_subcommand -a {_quoted(' '.join(server.VERBS))}"
            )
    return "\n".join([*lines, ""])


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


if __name__ == "__main__":
    main()
