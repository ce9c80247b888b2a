"""Read the command line of a command, by a table of its options.

Each option has a variable, `MMG_...`, and a setting in a file (`settings_file`). The option wins
over the variable, the variable over the setting, and that over the default. Options stand before the first argument, so a job file can have options of its own.
argparse is not used: its import alone would delay the start of the engine by a tenth of the time of
a small job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from mmgevent.errors import OptionError, UsageError
from mmgevent.shown_text import shown
from mmgevent.wire.limits import MAX_SLOTS, MAX_TIMEOUT_S

#: Most repetitions of a flag that a variable may ask for. -vv is the most that means something.
MAX_REPEATS = 9

#: Digits of the longest whole number of an option. Python refuses to convert thousands of them.
_MAX_DIGITS = 30

#: Longest text of a value in an error about it, characters.
_MAX_SHOWN_CHARS = 200


class Option(NamedTuple):
    """One row of a command's table."""

    #: The names as written, the long one last: ("-o", "--output").
    names: tuple[str, ...]
    #: The word for its value in the help. "" is a flag; its value is how often it was given.
    metavar: str
    help: str
    #: Turns text into the value; raises UsageError or OptionError.
    convert: Callable[[str], Any] = str
    #: Whether it may be repeated. If so, its value is a list, and its variable is split at blanks.
    repeats: bool = False
    #: Whether `parse` reads the variable. The variables of the password have rules of their own.
    reads_variable: bool = True
    #: Name of a set of options of which only one may be given, or "".
    excludes: str = ""

    @property
    def name(self) -> str:
        return self.names[-1].lstrip("-").replace("-", "_")

    @property
    def variable(self) -> str:
        return f"MMG_{self.name.upper()}"


class Command(NamedTuple):
    """A command: its name, its options and the texts of its help."""

    name: str
    #: The usage lines, without "usage: NAME".
    usage: tuple[str, ...]
    #: What it does, in one to three sentences.
    summary: str
    options: tuple[Option, ...]
    #: Pairs of (command line, what it does).
    examples: tuple[tuple[str, str], ...]
    #: The text of the help after the options.
    notes: str = ""
    #: Options of other commands, each with what to do instead.
    elsewhere: Mapping[str, str] = {}


class Arguments:
    """The values from the command line and the environment: an attribute per option, and `rest`."""

    def __init__(self, rest: list[str], values: dict[str, Any], given: dict[str, str]):
        #: The arguments after the options.
        self.rest = rest
        #: {option that was given: where}: COMMAND_LINE, "variable MMG_..." or the place in a file.
        self.given = given
        self._values = values

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"the command has no option {name!r}") from None


class HelpAsked(Exception):
    """--help or --version was given: print the text of the exception, and do nothing else."""


#: Where an option was given that stands on the command line.
COMMAND_LINE = "command line"

HELP = Option(("-h", "--help"), "", "show this help and exit", reads_variable=False)
VERSION = Option(("--version",), "", "show the version and exit", reads_variable=False)
SHOW_CONFIG = Option(
    ("--show-config",),
    "",
    "show the value of each option and where it comes from, and exit",
    reads_variable=False,
)
#: Options of every command.
BUILT_IN = (HELP, VERSION, SHOW_CONFIG)

#: Options for passwords, and variables that win over all of them in a file.
_PASSWORDS = frozenset({"password", "password_file", "worker_password_file"})
_PASSWORD_VARIABLES = (
    "MMG_PASSWORD", "MMG_PASSWORD_FILE", "MMG_WORKER_PASSWORD", "MMG_WORKER_PASSWORD_FILE",
)  # fmt: skip


def parse(command: Command, argv: Sequence[str], environ: Mapping[str, str]) -> Arguments:
    """Read a command line; raise UsageError if it is wrong, HelpAsked for --help and --version."""
    table = {name: option for option in (*command.options, *BUILT_IN) for name in option.names}
    found, rest = _scan(command, argv, table)
    if HELP.name in found:
        raise HelpAsked(help_text(command))
    if VERSION.name in found:
        raise HelpAsked(_version_text(command))
    _check_exclusive(command, [option for option in command.options if option.name in found], "")
    taken = {option.excludes for option in command.options if option.excludes and option.name in found}
    values: dict[str, Any] = {}
    given = dict.fromkeys(found, COMMAND_LINE)
    from_environ = []
    for option in command.options:
        values[option.name] = [] if option.repeats else (None if option.metavar else 0)
        if option.name in found:
            values[option.name] = _value(option, found[option.name], option.names[-1])
        elif option.reads_variable and environ.get(option.variable) and option.excludes not in taken:
            values[option.name] = _value_of_variable(option, environ[option.variable])
            if values[option.name] or option.metavar:  # MMG_INLINE=0 means not given
                given[option.name] = f"variable {option.variable}"
                from_environ.append(option)
    _check_exclusive(command, from_environ, "variable ")
    _take_settings(command, values, given, environ)
    if SHOW_CONFIG.name in found:
        from mmgevent.cli.shown_config import show_config

        raise HelpAsked(show_config(command.options, values, given, environ))
    return Arguments(rest, values, given)


def _take_settings(
    command: Command, values: dict[str, Any], given: dict[str, str], environ: Mapping[str, str]
) -> None:
    """Add what a file says of options that were not given."""
    from mmgevent.cli.settings_file import find_settings

    settings = find_settings(command.name.split()[0], environ)
    if not settings:
        return
    taken = {option.excludes for option in command.options if option.excludes and option.name in given}
    has_password = not _PASSWORDS.isdisjoint(given) or any(map(environ.get, _PASSWORD_VARIABLES))
    from_file = []
    for option in command.options:
        setting = settings.get(option.name)
        if setting is None or option.name in given or option.excludes in taken:
            continue
        if has_password and option.name in _PASSWORDS:
            continue
        values[option.name] = _value_of_setting(option, setting.texts, setting.where)
        if values[option.name] or option.metavar:
            given[option.name] = setting.where
            from_file.append(option)
    _check_exclusive(command, from_file, "setting ")


def _version_text(command: Command) -> str:
    """Return the text of `--version`: our version, Python's, and whether the C core is in use."""
    from mmgevent.wire.hello import VERSION, describe_python, missing_core

    why = missing_core()
    core = f"without the C core ({why})" if why else "with the C core"
    return f"{command.name} (mmgevent) {VERSION}, {describe_python()}, {core}"


def help_text(command: Command) -> str:
    """Return the text of `--help`."""
    indent = " " * len(f"usage: {command.name} ")
    lines = [
        f"usage: {command.name} " + f"\n{indent}".join(command.usage),
        "",
        command.summary,
        "",
        "options:",
    ]
    for option in (*command.options, *BUILT_IN):
        left = "  " + ", ".join(option.names) + (f" {option.metavar}" if option.metavar else "")
        lines.extend(_columns(left, option.help))
    lines += ["", "examples:"]
    for line, what in command.examples:
        lines += [f"  $ {line}", f"      {what}"]
    if command.notes:
        lines += ["", command.notes]
    lines += [
        "",
        "Instead of an option --some-name you can set the variable MMG_SOME_NAME, or write some-name = VALUE",
        "into a file mmgevent.toml. The option wins, then the variable.",
    ]
    return "\n".join(lines)


def slot_count(text: str) -> int:
    """Convert the value of an option that is a number of executors."""
    number = text.strip()
    if not _is_whole(number) or int(number) > MAX_SLOTS:
        raise UsageError(f"expected a whole number from 0 to {MAX_SLOTS}")
    return int(number)


def seconds(text: str) -> float:
    """Convert the value of an option that is a time."""
    try:
        number = float(text) if text.isascii() and "_" not in text else -1.0
    except ValueError:
        number = -1.0
    if not 0 < number <= MAX_TIMEOUT_S:
        raise UsageError(f"expected a number of seconds above 0, at most {MAX_TIMEOUT_S:.0e} (31 years)")
    return number


def memory_size(text: str) -> int:
    """Convert the value of an option that is a size of memory."""
    from mmgevent.job.options import parse_memory

    n_bytes = parse_memory(text)
    assert n_bytes is not None
    return n_bytes


def _is_whole(text: str) -> bool:
    """Return whether a text is a whole number that `int` converts, and no absurd one."""
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS


def refuse(command: str, message: str) -> NoReturn:
    """Raise UsageError with a message and a hint at --help."""
    raise UsageError(f"{message}\n(see {command} --help)")


def refuse_late_options(command: Command, rest: Sequence[str], first: str) -> None:
    """Raise UsageError for options after the first argument, which the help calls `first`.

    --help and --version are allowed there, too.
    """
    late = [word for word in rest[1:] if word.startswith("-") and word != "-"]
    for word in late:
        if word in (*HELP.names, *VERSION.names):
            parse(command, [word], {})
    if late:
        option = late[0].partition("=")[0]
        refuse(
            command.name,
            f"{shown(option)} stands after {first}; options stand before it: {command.name} {shown(option)} ... {shown(rest[0])}",
        )


def options_first(command: Command, argv: Sequence[str]) -> list[str]:
    """Return a command line with all options before the arguments, wherever they stood.

    Raises UsageError for an option that is unknown or lacks its value.
    """
    table = {name: option for option in (*command.options, *BUILT_IN) for name in option.names}
    options: list[str] = []
    arguments: list[str] = []
    words = list(argv)
    while words:
        _, rest = _scan(command, words, table)
        taken = words[: len(words) - len(rest)]
        if "--" in taken and not (len(taken) > 1 and taken[-1] != "--"):
            return [*options, *taken, *arguments, *rest]
        options += taken
        arguments += rest[:1]
        words = rest[1:]
    return [*options, "--", *arguments]


def _scan(
    command: Command, argv: Sequence[str], table: dict[str, Option]
) -> tuple[dict[str, list[str]], list[str]]:
    """Return {option name: [text, ...]} and the arguments. A flag has "" each time it is given."""
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
    """Split one word into options and their values: --a, --a=1, -vv, -p1.

    A value is None if it is not in the word.
    """
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

    if name in command.elsewhere:
        refuse(command.name, f"unknown option {name}: {command.elsewhere[name]}")
    nearest = difflib.get_close_matches(name, table, n=1, cutoff=0.6)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    refuse(command.name, f"unknown option {shown(name)}{hint}")


def _value(option: Option, texts: list[str], where: str) -> Any:
    if not option.metavar:
        return len(texts)
    try:
        values = [option.convert(text) for text in texts]
    except (UsageError, OptionError) as error:
        value = "" if repr(texts[-1]) in str(error) else f" {_shown(texts[-1])}"
        raise UsageError(f"{where}{value}: {error}") from None
    return values if option.repeats else values[-1]


def _shown(text: str) -> str:
    return shown(repr(text), max_line_chars=_MAX_SHOWN_CHARS)


def _value_of_variable(option: Option, text: str) -> Any:
    where = f"variable {option.variable}"
    if option.metavar:
        return _value(option, text.split() if option.repeats else [text], where)
    return _value_of_flag(text, where)


def _value_of_setting(option: Option, texts: list[str], where: str) -> Any:
    if len(texts) > 1 and not option.repeats:
        raise UsageError(f"{where}: expected one value, got a list of {len(texts)}")
    if not texts:
        return [] if option.repeats else (None if option.metavar else 0)
    return _value(option, texts, where) if option.metavar else _value_of_flag(texts[0], where)


def _value_of_flag(text: str, where: str) -> Any:
    word = text.strip().lower()
    if word in ("0", "no", "false", "off"):
        return 0
    if word in ("1", "yes", "true", "on"):
        return 1
    if _is_whole(word) and int(word) <= MAX_REPEATS:
        return int(word)
    raise UsageError(f"{where}: expected 1 or 0, at most {MAX_REPEATS}; got {_shown(text)}")


def _check_exclusive(command: Command, options: list[Option], kind: str) -> None:
    for i, option in enumerate(options):
        for other in options[:i]:
            if option.excludes and option.excludes == other.excludes:
                names = [o.variable if kind == "variable " else o.names[-1] for o in (other, option)]
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
