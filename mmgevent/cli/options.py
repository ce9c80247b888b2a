"""Read the command line of a command, by a table of its options.

Each option has a variable, `MMG_...`; what counts is the option, then the variable, then
the default.  Options stand before the first argument, so that a job file's own options
are its own.  Written here rather than with argparse, whose import alone would delay
the start of the engine by a tenth of what a small job takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from mmgevent.errors import OptionError, UsageError


class Option(NamedTuple):
    """One row of a command's table."""

    #: as written, the long one last: ("-o", "--output")
    names: tuple[str, ...]
    #: what stands for its value in the help; "" for a flag, which is counted
    metavar: str
    help: str
    #: turns text into the value, raises UsageError or OptionError
    convert: Callable[[str], Any] = str
    #: may be given several times: the value is a list, the variable is split at white space
    repeats: bool = False
    #: False where someone else reads the variable, by rules of its own (the password)
    reads_variable: bool = True
    #: options of one set exclude one another
    excludes: str = ""

    @property
    def name(self) -> str:
        return self.names[-1].lstrip("-").replace("-", "_")

    @property
    def variable(self) -> str:
        return f"MMG_{self.name.upper()}"


class Command(NamedTuple):
    """A command: what it is called, what it takes, what its help says."""

    name: str
    #: the lines after "usage: NAME"
    usage: tuple[str, ...]
    #: what it does, in a sentence or three
    summary: str
    options: tuple[Option, ...]
    #: (command line, what it does)
    examples: tuple[tuple[str, str], ...]
    #: what the help says after the options
    notes: str = ""


class Arguments:
    """What the command line and the environment say: an attribute for each option, and `rest`."""

    def __init__(self, rest: list[str], values: dict[str, Any], given: frozenset[str]):
        #: the arguments after the options
        self.rest = rest
        #: names of the options that came from the command line or a variable
        self.given = given
        self._values = values

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"the command has no option {name!r}") from None


class HelpAsked(Exception):
    """--help or --version: the text to print, and nothing else to do."""


HELP = Option(("-h", "--help"), "", "show this and leave", reads_variable=False)
VERSION = Option(("--version",), "", "show the version and leave", reads_variable=False)


def parse(command: Command, argv: Sequence[str], environ: Mapping[str, str]) -> Arguments:
    """Read a command line; raise UsageError for what is wrong, HelpAsked for --help and --version."""
    table = {name: option for option in (*command.options, HELP, VERSION) for name in option.names}
    found, rest = _scan(command, argv, table)
    if HELP.name in found:
        raise HelpAsked(help_text(command))
    if VERSION.name in found:
        raise HelpAsked(_version_text(command))
    _check_exclusive(command, [option for option in command.options if option.name in found], "")
    taken = {option.excludes for option in command.options if option.excludes and option.name in found}
    values: dict[str, Any] = {}
    given = set(found)
    from_environ = []
    for option in command.options:
        values[option.name] = [] if option.repeats else (None if option.metavar else 0)
        if option.name in found:
            values[option.name] = _value(option, found[option.name], option.names[-1])
        elif option.reads_variable and environ.get(option.variable) and option.excludes not in taken:
            values[option.name] = _value_of_variable(option, environ[option.variable])
            if values[option.name] or option.metavar:  # MMG_INLINE=0 is as good as none
                given.add(option.name)
                from_environ.append(option)
    _check_exclusive(command, from_environ, "variable ")
    return Arguments(rest, values, frozenset(given))


def _version_text(command: Command) -> str:
    """Return what `--version` prints: ours, Python's, and whether the C core is in use."""
    from mmgevent.wire.hello import VERSION, describe_python, missing_core

    why = missing_core()
    core = f"without the C core ({why})" if why else "with the C core"
    return f"{command.name} (mmgevent) {VERSION}, {describe_python()}, {core}"


def help_text(command: Command) -> str:
    """Return what `--help` prints."""
    indent = " " * len(f"usage: {command.name} ")
    lines = [
        f"usage: {command.name} " + f"\n{indent}".join(command.usage),
        "",
        command.summary,
        "",
        "options:",
    ]
    for option in (*command.options, HELP, VERSION):
        left = "  " + ", ".join(option.names) + (f" {option.metavar}" if option.metavar else "")
        lines.extend(_columns(left, option.help))
    lines += ["", "examples:"]
    for line, what in command.examples:
        lines += [f"  $ {line}", f"      {what}"]
    if command.notes:
        lines += ["", command.notes]
    lines += [
        "",
        "Every option --some-name can be given as the variable MMG_SOME_NAME instead; the option wins.",
    ]
    return "\n".join(lines)


def whole_number(text: str) -> int:
    """Convert the value of an option that counts something."""
    if not (text.isascii() and text.isdigit()):
        raise UsageError("expected a whole number, 0 or more")
    return int(text)


def seconds(text: str) -> float:
    """Convert the value of an option that is a time."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < 1e9:
        raise UsageError("expected a number of seconds above 0")
    return number


def memory_size(text: str) -> int:
    """Convert the value of an option that is a size of memory."""
    from mmgevent.job.options import parse_size

    n_bytes = parse_size(int(text) if text.isascii() and text.isdigit() else text)
    if n_bytes <= 0:
        raise UsageError('expected a size above 0, such as "512MiB"')
    return n_bytes


def refuse(command: str, message: str) -> NoReturn:
    """Raise the UsageError of a command line that cannot be run."""
    raise UsageError(f"{message}\n(see {command} --help)")


def refuse_late_options(command: Command, rest: Sequence[str], first: str) -> None:
    """Raise UsageError for options after the first argument, called `first`, of a command that takes none there.

    --help and --version are answered there, too.
    """
    late = [word for word in rest[1:] if word.startswith("-") and word != "-"]
    for word in late:
        if word in (*HELP.names, *VERSION.names):
            parse(command, [word], {})
    if late:
        option = late[0].partition("=")[0]
        refuse(
            command.name,
            f"{option} stands after {first}; options stand before it: {command.name} {option} ... {rest[0]}",
        )


def _scan(
    command: Command, argv: Sequence[str], table: dict[str, Option]
) -> tuple[dict[str, list[str]], list[str]]:
    """Return {option name: [text, ...]} ("" for each time a flag is given), and the arguments."""
    found: dict[str, list[str]] = {}
    words = list(argv)
    while words:
        word = words[0]
        if word == "--":
            return found, words[1:]
        if word == "-" or not word.startswith("-"):
            break
        words.pop(0)
        for name, text in _split_word(command, word, table):
            option = table[name]
            if option.metavar and text is None:
                if not words:
                    refuse(command.name, f"{name} needs a value: {name} {option.metavar}")
                text = words.pop(0)
            found.setdefault(option.name, []).append(text or "")
    return found, words


def _split_word(command: Command, word: str, table: dict[str, Option]) -> list[tuple[str, str | None]]:
    """Split one word into options and their values (None: none in this word): --a, --a=1, -vv, -p1."""
    if word.startswith("--"):
        name, equals, text = word.partition("=")
        if name not in table:
            _refuse_unknown(command, name, table)
        if equals and not table[name].metavar:
            refuse(command.name, f"{name} takes no value; got {word!r}")
        return [(name, text if equals else None)]
    pairs: list[tuple[str, str | None]] = []
    for at in range(1, len(word)):
        name = "-" + word[at]
        if name not in table:
            _refuse_unknown(command, name if at > 1 or len(word) == 2 else word, table)
        if table[name].metavar:
            return [*pairs, (name, word[at + 1 :] or None)]
        pairs.append((name, None))
    return pairs


def _refuse_unknown(command: Command, name: str, table: dict[str, Option]) -> NoReturn:
    import difflib

    nearest = difflib.get_close_matches(name, table, n=1, cutoff=0.6)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    refuse(command.name, f"unknown option {name}{hint}")


def _value(option: Option, texts: list[str], where: str) -> Any:
    if not option.metavar:
        return len(texts)
    try:
        values = [option.convert(text) for text in texts]
    except (UsageError, OptionError) as error:
        shown = f" {texts[-1]!r}" if repr(texts[-1]) not in str(error) else ""
        raise UsageError(f"{where}{shown}: {error}") from None
    return values if option.repeats else values[-1]


def _value_of_variable(option: Option, text: str) -> Any:
    if option.metavar:
        return _value(option, text.split() if option.repeats else [text], f"variable {option.variable}")
    word = text.strip().lower()
    if word in ("0", "no", "false", "off"):
        return 0
    if word in ("1", "yes", "true", "on"):
        return 1
    if word.isascii() and word.isdigit():
        return int(word)
    raise UsageError(f"variable {option.variable}: expected 1 or 0; got {text!r}")


def _check_exclusive(command: Command, options: list[Option], kind: str) -> None:
    for i, option in enumerate(options):
        for other in options[:i]:
            if option.excludes and option.excludes == other.excludes:
                names = [o.variable if kind else o.names[-1] for o in (other, option)]
                refuse(command.name, f"{kind}{names[0]} and {names[1]} exclude one another; give one of them")


def _columns(left: str, text: str) -> list[str]:
    """Set one option beside its help, wrapped to 100 columns."""
    at, width = 28, 72
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".lstrip()
    lines.append(line)
    first = [left] if len(left) >= at - 1 else []
    starts = ["" if first else left] + [""] * len(lines)
    return first + [f"{start:{at}}{text}" for start, text in zip(starts, lines, strict=False)]
