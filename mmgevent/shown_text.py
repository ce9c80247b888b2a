"""Make text fit to be shown: on a terminal, in a log, in an error.

Names, reasons and errors come from other machines, from file names and from functions.  They may
hold escape sequences that drive a terminal, newlines that forge lines of a log, marks that reverse
the direction of writing, and a megabyte of anything.  `shown` is the only function that decides
what of it can be seen.  Logs apply it (`machine.logs`), and so do the errors of `errors` and all
that commands say (`cli.exits.say`).

Results are the user's own data. Files and pipes get them as they are, and terminals get the same
text by `harmless`.
"""

from __future__ import annotations

#: Longest line, characters: 25 lines of a terminal. Longer ones hide what stands around them.
MAX_LINE_CHARS = 2000

#: Most lines of a text that may have several, such as a traceback: some pages of a terminal.
MAX_LINES = 400

#: Longest name of a peer or its version, characters. Several of them stand in one line.
MAX_NAME_CHARS = 200

_CUT = "..."

#: Blanks that change nothing but the width of a gap. `isprintable` counts them as unprintable.
_BLANKS = frozenset(
    "\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)


def shown(text: object, max_lines: int = 1, max_line_chars: int = MAX_LINE_CHARS) -> str:
    r"""Return a text with every character escaped that does more than fill its place.

    These are control characters, marks of direction, separators of lines, invisible characters and
    lone surrogates.  ESC becomes `\x1b`, for example.  If more than one line is allowed, newlines
    and tabs stay.

    Lines over `max_line_chars` are cut at the end.  If there are more than `max_lines`, the middle
    is left out.  Shown text that is shown again stays the same.
    """
    text = str(text)
    if max_lines == 1:
        return _show_line(text, max_line_chars)
    lines = text.replace("\r\n", "\n").split("\n")
    if len(lines) > max_lines:
        kept = max_lines // 2
        left_out = f"... {len(lines) - 2 * kept} lines left out ..."
        lines = [*lines[:kept], left_out, *lines[len(lines) - kept + 1 :]]
    return "\n".join(
        "\t".join(_show_line(part, max_line_chars) for part in line[: max_line_chars + 1].split("\t"))
        for line in lines
    )


def harmless(text: str) -> str:
    """Return a text of lines and tabs with the same characters escaped, and nothing cut."""
    if text.replace("\t", "").replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c in _BLANKS or c in "\t\n" else _escape(c) for c in text)


def _show_line(text: str, max_chars: int) -> str:
    if len(text) <= max_chars and text.isprintable():
        return text
    line = "".join(c if c.isprintable() or c in _BLANKS else _escape(c) for c in text[: max_chars + 1])
    return line if len(line) <= max_chars else line[: max_chars - len(_CUT)] + _CUT


def _escape(character: str) -> str:
    return repr(character)[1:-1]
