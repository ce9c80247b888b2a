"""Write results as lines of text or as a stream of pickles.

- tsv: `key TAB value` a line.  A str stands as it is, with `\\\\ \\t \\n \\r` escaped;
  everything else as JSON, and what JSON cannot say as `repr()`.
- jsonl: `[key, value]` a line; what JSON cannot say is an OutputError.
- pickle: one `(key, value)` after another, for `load`.

In JSON a tuple is an array and a set a sorted array.  Text is UTF-8 whatever the
locale; a surrogate, which UTF-8 cannot say, is written `\\udc80`, which JSON reads
back and which no escaped str looks like.

A file appears under its name only when everything was written: until then it
is a temporary one beside it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import stat
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, BinaryIO, TextIO

from mmgevent.errors import DatasourceError, OutputError

_FORMAT_OF_SUFFIX = {
    ".tsv": "tsv",
    ".txt": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".pkl": "pickle",
    ".pickle": "pickle",
}

#: bytes collected before a write: few calls, and no delay that a reader of a pipe would notice
_BUFFER_BYTES = 256 * 1024

#: only these change a str on its way into tsv
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})

_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(", ", ": ")).encode


class _NotJson(Exception):
    """JSON cannot say this value; the text says which part of it."""


def open_sink(
    path: str | os.PathLike[str] | None = None,
    format: str | None = None,
    stream: TextIO | BinaryIO | None = None,
) -> Sink:
    """Check where and how results are to be written, and return the sink for them.

    `path` None writes to `stream`, by default stdout.  `format` None lets the
    suffix of `path` decide; without a suffix it is tsv.  Raise OutputError for an
    unknown format or suffix, a missing folder, a path that is a folder or cannot
    be written, and pickles on a terminal.
    """
    name = None if path is None else os.fspath(path)
    chosen = _choose_format(name, format)
    encode = _ENCODERS[chosen]
    if name is not None:
        return _open_file(name, encode)
    out: Any = sys.stdout if stream is None else stream
    if chosen == "pickle" and out.isatty():
        raise OutputError("format pickle is not for terminals; write it to a file with -o PATH")
    out.flush()
    return Sink(encode, getattr(out, "buffer", out))


def load(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
    """Read the `(key, value)` records of a file that was written in format pickle.

    Load only files you trust: pickles can run code.  Raise OSError if the file
    cannot be opened, DatasourceError where it ends within a record or is
    something else.
    """
    with open(path, "rb") as file:
        while file.peek(1):
            try:
                record = pickle.load(file)
            except (EOFError, pickle.UnpicklingError) as error:
                raise DatasourceError(f"{os.fspath(path)} is damaged or no pickle stream: {error}") from error
            if not isinstance(record, tuple) or len(record) != 2:
                raise DatasourceError(f"{os.fspath(path)} holds a {type(record).__name__}, not (key, value)")
            yield record


class Sink:
    """Take records one by one; a context manager.

    Leaving it normally makes the output final; leaving it by an exception
    removes what a file has so far.  What went to a stream has gone.
    """

    def __init__(
        self,
        encode: Callable[[Any, Any], bytes],
        file: BinaryIO,
        temporary: str | None = None,
        target: str | None = None,
        closes: bool = False,
    ) -> None:
        self._encode = encode
        self._file = file
        self._temporary = temporary
        self._target = target
        self._closes = closes
        self._buffer = bytearray()

    def write(self, key: Any, value: Any) -> None:
        """Write one record; raise OutputError naming the key for what the format cannot say.

        An OSError of a file becomes an OutputError; one of a stream passes
        unchanged (BrokenPipeError: its reader went away).
        """
        self._buffer += self._encode(key, value)
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()

    def commit(self) -> None:
        """Write what is left, and put a file under its own name."""
        self._flush()
        if not self._closes:
            self._file.flush()
            return
        try:
            self._file.close()
            if self._temporary is not None and self._target is not None:
                os.replace(self._temporary, self._target)
                self._temporary = None
        except OSError as error:
            raise self._failure(error) from error

    def abort(self) -> None:
        """Remove an unfinished file; after `commit` this does nothing."""
        self._buffer.clear()
        if self._closes:
            with contextlib.suppress(OSError):  # what a full disk refuses is thrown away here anyhow
                self._file.close()
        if self._temporary is not None:
            os.unlink(self._temporary)
            self._temporary = None

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.abort()

    def _flush(self) -> None:
        rest = memoryview(self._buffer)
        self._buffer = bytearray()
        try:
            while rest:  # a raw stream (stdout of python -u) may take only part
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            if not self._closes:
                raise
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write {self._target}: {error.strerror or error}")


def _choose_format(path: str | None, format: str | None) -> str:
    if format is not None:
        if format not in _ENCODERS:
            raise OutputError(f"unknown format {format!r}; there are {', '.join(_ENCODERS)}")
        return format
    suffix = os.path.splitext(path or "")[1].lower()
    if not suffix:
        return "tsv"
    if suffix not in _FORMAT_OF_SUFFIX:
        raise OutputError(
            f"the suffix of {path} does not say which format it is; "
            f"end it with one of {', '.join(_FORMAT_OF_SUFFIX)}, or pass --format {'|'.join(_ENCODERS)}"
        )
    return _FORMAT_OF_SUFFIX[suffix]


def _open_file(path: str, encode: Callable[[Any, Any], bytes]) -> Sink:
    target = os.path.realpath(path)  # a link stays one; what it points to is written
    folder = os.path.dirname(target)
    if os.path.isdir(target) or path.endswith(os.sep):
        raise OutputError(f"cannot write {path}: it is a folder; name a file in it")
    if not os.path.isdir(folder):
        raise OutputError(f"cannot write {path}: the folder {folder} does not exist; make it first")
    try:
        if os.path.exists(target) and not stat.S_ISREG(os.stat(target).st_mode):
            device = open(target, "wb")  # noqa: SIM115 - or a pipe; the sink closes it
            return Sink(encode, device, target=path, closes=True)
        if os.path.exists(target) and not os.access(target, os.W_OK):
            raise OutputError(f"cannot write {path}: the file that is there is read-only")
        temporary = os.path.join(folder, f".mmg-{os.urandom(8).hex()}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    return Sink(encode, os.fdopen(descriptor, "wb"), temporary, target, closes=True)


def _encode_tsv(key: Any, value: Any) -> bytes:
    try:
        line = f"{_tsv_field(key)}\t{_tsv_field(value)}\n"
    except Exception as error:
        raise OutputError(f"cannot write the record of {_short(key)}: {error!r}") from error
    return line.encode("utf-8", "backslashreplace")


def _tsv_field(value: Any) -> str:
    if type(value) is str:
        return value.translate(_ESCAPES)
    if type(value) is int:
        return str(value)
    if isinstance(value, str):
        return str.__str__(value).translate(_ESCAPES)
    try:
        return _to_json(_plain(value))
    except (_NotJson, RecursionError):
        return repr(value).translate(_ESCAPES)


def _encode_jsonl(key: Any, value: Any) -> bytes:
    try:
        line = _to_json([_plain(key), _plain(value)]) + "\n"
    except _NotJson as error:
        raise OutputError(
            f"jsonl cannot say the record of {_short(key)}: {error}; change it in finishfn, "
            f"or write tsv or pickle"
        ) from None
    except (RecursionError, ValueError) as error:
        raise OutputError(f"jsonl cannot say the record of {_short(key)}: {error}") from error
    return line.encode("utf-8", "backslashreplace")


def _encode_pickle(key: Any, value: Any) -> bytes:
    try:
        return pickle.dumps((key, value), protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise OutputError(f"cannot pickle the record of {_short(key)}: {error}") from error


_ENCODERS: dict[str, Callable[[Any, Any], bytes]] = {
    "tsv": _encode_tsv,
    "jsonl": _encode_jsonl,
    "pickle": _encode_pickle,
}


def _plain(value: Any) -> Any:
    """Return `value` made of what JSON says exactly; raise _NotJson otherwise."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _NotJson(f"JSON has no {value!r}")
        return float(value)
    if isinstance(value, (list, tuple)):
        return [_plain(element) for element in value]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise _NotJson(f"JSON has no dict with the key {_short(key)}, only with str keys")
        return {str.__str__(key): _plain(element) for key, element in value.items()}
    if isinstance(value, (set, frozenset)):
        return _sorted_elements(value)
    raise _NotJson(f"JSON has no {type(value).__name__}")


def _sorted_elements(elements: set[Any] | frozenset[Any]) -> list[Any]:
    """Sort a set by its elements, or by their JSON where these have no order (sets only have half of one)."""
    if not any(map(_has_set, elements)):
        try:
            return [_plain(element) for element in sorted(elements)]
        except TypeError:
            pass
    return sorted((_plain(element) for element in elements), key=_to_json)


def _has_set(value: Any) -> bool:
    return isinstance(value, frozenset) or (isinstance(value, tuple) and any(map(_has_set, value)))


def _short(key: Any) -> str:
    try:
        text = repr(key)
    except Exception as error:
        return f"a {type(key).__name__} whose repr() fails ({error!r})"
    return text if len(text) <= 80 else text[:77] + "..."
