"""Write results as lines of text or as a stream of pickles.

- tsv: `key TAB value` a line.  A str stands as it is, with `\\\\ \\t \\n \\r` escaped;
  everything else as JSON, and what JSON cannot say as `repr()`.
- jsonl: `[key, value]` a line; what JSON cannot say is an OutputError.
- pickle: one `(key, value)` after another, for `load`.

In JSON a tuple is an array and a set a sorted array.  Text is UTF-8 whatever the
locale; a surrogate, which UTF-8 cannot say, is written `\\udc80`, which JSON reads
back and which no escaped str looks like.

Scalars of numpy are written as what they stand for: numbers, true and false, text; times and spans
of time as numpy's own text for them (`2020-01-31T00:00:00`, `3 seconds`, `NaT`); arrays as arrays.

Where results go, and when a file appears under its name, is in `destinations`.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, BinaryIO, TextIO

from mmgevent.errors import DatasourceError, OutputError
from mmgevent.job.outputs.destinations import Destination, Stream, open_destination

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
    stream: TextIO | BinaryIO | io.RawIOBase | None = None,
    *,
    warn: Callable[[str], None] | None = None,
) -> Sink:
    """Check where and how results are to be written, and return the sink for them.

    Results go to `stream` if one is given, else to `path`, else to stdout.  `format` None lets the
    suffix of `path` decide; without a suffix it is tsv.  `warn` is called for what a file could not
    take over from the one it replaced; None logs it.  Raise OutputError for an unknown format or suffix, a missing
    folder, a path that is a folder or cannot be written, and pickles on a terminal.
    """
    name = None if path is None else os.fspath(path)
    chosen = _choose_format(name, format)
    if name is not None and stream is None:
        destination = open_destination(name, warn or _log_warning)
    else:
        out: Any = sys.stdout if stream is None else stream
        out.flush()
        # A raw stream is ours to close: that is when some file systems say that the disk is full.
        destination = Stream(getattr(out, "buffer", out), name, closes=isinstance(out, io.RawIOBase))
    if chosen == "pickle" and destination.is_terminal:
        destination.abort()
        raise OutputError("format pickle is not for terminals; write it to a file with -o PATH")
    return Sink(_ENCODERS[chosen], destination)


def _log_warning(text: str) -> None:
    import logging  # rarely needed, and `from mmgevent import load` comes past here

    logging.getLogger(__name__).warning("%s", text)


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

    def __init__(self, encode: Callable[[Any, Any], bytes], destination: Destination) -> None:
        self._encode = encode
        self._destination = destination
        self._buffer = bytearray()

    @property
    def is_terminal(self) -> bool:
        """Whether somebody looks at the results as they come."""
        return self._destination.is_terminal

    def write(self, key: Any, value: Any) -> None:
        """Write one record; raise OutputError naming the key for what the format cannot say.

        An OSError becomes an OutputError that names the path; one of stdout passes unchanged, and so
        does BrokenPipeError anywhere: whoever read the results went away.
        """
        self._buffer += self._encode(key, value)
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()

    def commit(self) -> None:
        """Write what is left, and put a file under its own name."""
        self._flush()
        try:
            self._destination.commit()
        except OSError as error:
            if self._passes(error):
                raise
            raise self._failure(error) from error

    def abort(self) -> None:
        """Remove an unfinished file; after `commit` this does nothing."""
        self._buffer.clear()
        self._destination.abort()

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
        if not self._buffer:
            return
        rest = memoryview(self._buffer)
        self._buffer = bytearray()
        try:
            self._destination.write(rest)
        except OSError as error:
            if self._passes(error):
                raise
            raise self._failure(error) from error

    def _passes(self, error: OSError) -> bool:
        return self._destination.name is None or isinstance(error, BrokenPipeError)

    def _failure(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write {self._destination.name}: {error.strerror or error}")


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
    while _is_numpy(value):
        value = _python_of(value)
    if isinstance(value, str):
        return str.__str__(value).translate(_ESCAPES)
    try:
        return _to_json(_plain(value))
    except (_NotJson, RecursionError):
        return repr(_without_numpy(value)).translate(_ESCAPES)


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
            raise _NotJson(f"JSON has no {float(value)!r}")
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
    if _is_numpy(value):
        return _plain(_python_of(value))
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


def _is_numpy(value: Any) -> bool:
    """Return whether `value` is a scalar or an array of numpy, which only matters where numpy is loaded."""
    numpy: Any = sys.modules.get("numpy")
    is_real = hasattr(numpy, "ndarray")  # or it is a module of the user's
    return is_real and isinstance(value, (numpy.generic, numpy.ndarray))


def _python_of(value: Any) -> Any:
    """Return what a scalar or array of numpy stands for: Python's own, or one step nearer to it.

    It is exact but for a longdouble, which becomes the nearest float.  What is masked becomes None.
    """
    numpy = sys.modules["numpy"]
    if isinstance(value, numpy.ma.MaskedArray):
        return value.tolist()
    if isinstance(value, numpy.ndarray):
        if value.dtype.kind in "biuf" and value.dtype != numpy.longdouble:
            return value.tolist()
        return value[()] if value.ndim == 0 else list(value)
    if isinstance(value, (numpy.datetime64, numpy.timedelta64)):
        return str(value)
    if isinstance(value, numpy.longdouble):
        return float(value)
    if isinstance(value, numpy.clongdouble):
        return complex(value)
    return value.item()


def _without_numpy(value: Any) -> Any:
    """Return `value` with what it holds of numpy as Python's own, so that its repr() says nothing of numpy.

    Looks into the builtin containers only.  What holds itself is returned as it is.
    """
    if "numpy" not in sys.modules:
        return value
    try:
        return _replace_numpy(value)
    except RecursionError:
        return value


def _replace_numpy(value: Any) -> Any:
    if _is_numpy(value):
        return _replace_numpy(_python_of(value))
    if type(value) is dict:
        return {_replace_numpy(key): _replace_numpy(element) for key, element in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(_replace_numpy, value))
    return value


def _short(key: Any) -> str:
    try:
        text = repr(key)
    except Exception as error:
        return f"a {type(key).__name__} whose repr() fails ({error!r})"
    return text if len(text) <= 80 else text[:77] + "..."
