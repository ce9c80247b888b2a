"""Choose the format of results, and encode records as lines of text or as a stream of pickles.

- tsv: `key TAB value` in a line. A str stands as it is, with `\\\\ \\t \\n \\r` escaped. Everything
  else is JSON, or `repr()` if JSON has no such value.
- jsonl: `[key, value]` in a line. A value that JSON does not have is an OutputError.
- csv: see `rows`.
- pickle: one `(key, value)` after another, for `load`.
- parquet: see `parquet`.

The files of every format but parquet may be compressed, see `compression`.

In JSON a tuple is an array and a set is a sorted array. Text is UTF-8 whatever the locale. UTF-8
has no surrogates, so one is written as `\\udc80`: JSON reads it back, and no escaped str looks like
it.

Values of numpy become Python's own: scalars become numbers, true, false or text, and arrays become
arrays. A time or a span of time is numpy's text for it (`2020-01-31T00:00:00`, `3 seconds`, `NaT`).
"""

from __future__ import annotations

import json
import math
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mmgevent.errors import DatasourceError, OutputError
from mmgevent.job.outputs.compression import SUFFIXES, open_to_read, split_suffix

#: Names of the formats.
FORMATS = ("tsv", "jsonl", "csv", "pickle", "parquet")

#: Formats whose files may be compressed. Parquet compresses its columns itself.
COMPRESSIBLE = FORMATS[:-1]

#: Formats that are no text, so that they are not for terminals.
BINARY_FORMATS = ("pickle", "parquet")

#: Formats whose records are rows, so that their columns can have names.
ROW_FORMATS = ("csv", "parquet")

_FORMAT_OF_SUFFIX = {
    ".tsv": "tsv",
    ".txt": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".parquet": "parquet",
    ".pq": "parquet",
}

#: Longest text of a key in an error, characters.
_MAX_SHOWN_CHARS = 80

#: All that changes in a str on its way into tsv.
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})

_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(", ", ": ")).encode


class _NotJson(Exception):
    """JSON has no such value; the text says which part of it."""


class OutputFormat(NamedTuple):
    """How records become bytes."""

    #: one of FORMATS
    name: str
    #: one of SUFFIXES, or None
    compression: str | None = None

    @property
    def text(self) -> str:
        """Return the format as `choose_format` takes it: "pickle.gz"."""
        return f"{self.name}.{self.compression}" if self.compression else self.name

    @property
    def suffix(self) -> str:
        """Return the suffix of files in this format: `.tsv.gz`."""
        name = "pkl" if self.name == "pickle" else self.name
        return f".{name}.{self.compression}" if self.compression else f".{name}"


def load(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
    """Read the `(key, value)` records of a file in format pickle, compressed or not.

    Load only files you trust: pickles can run code. Raise OSError if the file cannot be opened.
    Raise DatasourceError if it ends inside a record or has another format.
    """
    file, damages = open_to_read(path)
    damages = (EOFError, pickle.UnpicklingError, *damages)
    with file:
        while True:
            try:
                if not file.peek(1):
                    return
                record = pickle.load(file)
            except damages as error:
                raise DatasourceError(f"{os.fspath(path)} is damaged or no pickle stream: {error}") from error
            if not isinstance(record, tuple) or len(record) != 2:
                raise DatasourceError(f"{os.fspath(path)} holds a {type(record).__name__}, not (key, value)")
            yield record


def choose_format(path: str | None, format: str | None) -> OutputFormat:
    """Return the format; the suffixes of the path say what is not given, and the default is tsv.

    `format` is a name, or a name with a compression: "tsv.gz".

    Raise OutputError for an unknown format or suffix, if the two name different compressions, and
    for parquet with one.
    """
    stem, of_path = split_suffix(path or "")
    if format is not None:
        name, of_format = split_suffix(format)
        if name not in FORMATS:
            raise OutputError(
                f"unknown format {format!r}; there are {', '.join(COMPRESSIBLE)}, and each with "
                f"{', '.join(f'.{suffix}' for suffix in SUFFIXES)}; and parquet"
            )
        if of_format and of_path and of_format != of_path:
            raise OutputError(f"the format {format} is not what the suffix of {path} says; make them equal")
        return _checked(OutputFormat(name, of_format or of_path))
    suffix = os.path.splitext(stem)[1].lower()
    if not suffix:
        return OutputFormat("tsv", of_path)
    if suffix not in _FORMAT_OF_SUFFIX:
        raise OutputError(
            f"the suffix of {path} does not say which format it is; "
            f"end it with one of {', '.join(_FORMAT_OF_SUFFIX)}, or pass --format {'|'.join(FORMATS)}"
        )
    return _checked(OutputFormat(_FORMAT_OF_SUFFIX[suffix], of_path))


def _checked(chosen: OutputFormat) -> OutputFormat:
    if chosen.compression and chosen.name not in COMPRESSIBLE:
        raise OutputError(
            f"Parquet is not compressed once more as {chosen.compression}: its columns are already (zstd); "
            f"leave .{chosen.compression} away"
        )
    return chosen


def _encode_tsv(key: Any, value: Any) -> bytes:
    try:
        line = f"{_tsv_field(key)}\t{_tsv_field(value)}\n"
    except Exception as error:
        raise OutputError(f"cannot write the record of {short(key)}: {error!r}") from error
    return line.encode("utf-8", "backslashreplace")


def _tsv_field(value: Any) -> str:
    if type(value) is str:
        return value.translate(_ESCAPES)
    if type(value) is int:
        return str(value)
    return as_text(value, _ESCAPES)


def as_text(value: Any, escapes: dict[int, str] | None = None) -> str:
    """Return a str as it is, and anything else as JSON, or as `repr()` if JSON has no such value.

    `escapes`: what to replace in a str and in a repr; JSON has escapes of its own.
    """
    if type(value) is int:
        return str(value)
    while _is_numpy(value):
        value = _python_of(value)
    if isinstance(value, str):
        return str.__str__(value).translate(escapes or {})
    try:
        return _to_json(_plain(value))
    except (_NotJson, RecursionError):
        return repr(_without_numpy(value)).translate(escapes or {})


def _encode_jsonl(key: Any, value: Any) -> bytes:
    try:
        line = _to_json([_plain(key), _plain(value)]) + "\n"
    except _NotJson as error:
        raise OutputError(
            f"jsonl cannot say the record of {short(key)}: {error}; change it in finishfn, "
            f"or write tsv or pickle"
        ) from None
    except Exception as error:  # elements of a set that cannot be compared, impossible text of numpy
        raise OutputError(f"jsonl cannot say the record of {short(key)}: {error!r}") from error
    return line.encode("utf-8", "backslashreplace")


def _encode_pickle(key: Any, value: Any) -> bytes:
    try:
        return pickle.dumps((key, value), protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise OutputError(f"cannot pickle the record of {short(key)}: {error}") from error


#: {name of a format: function that encodes one record}; csv has `rows.CsvEncoder`, parquet `parquet.ParquetRows`
ENCODERS: dict[str, Callable[[Any, Any], bytes]] = {
    "tsv": _encode_tsv,
    "jsonl": _encode_jsonl,
    "pickle": _encode_pickle,
}


def _plain(value: Any) -> Any:
    """Return `value` made of types that JSON has; raise _NotJson if that loses anything."""
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
                raise _NotJson(f"JSON has no dict with the key {short(key)}, only with str keys")
        return {str.__str__(key): _plain(element) for key, element in value.items()}
    if isinstance(value, (set, frozenset)):
        return _sorted_elements(value)
    if _is_numpy(value):
        return _plain(_python_of(value))
    raise _NotJson(f"JSON has no {type(value).__name__}")


def _sorted_elements(elements: set[Any] | frozenset[Any]) -> list[Any]:
    """Sort a set by its elements, or by their JSON if they have no order.

    Sets have only a partial one.
    """
    if not any(map(_has_set, elements)):
        try:
            return [_plain(element) for element in sorted(elements)]
        except TypeError:
            pass
    return sorted((_plain(element) for element in elements), key=_to_json)


def _has_set(value: Any) -> bool:
    return isinstance(value, frozenset) or (isinstance(value, tuple) and any(map(_has_set, value)))


def _is_numpy(value: Any) -> bool:
    """Return whether `value` is a scalar or an array of numpy.

    None exists unless numpy is loaded.
    """
    numpy: Any = sys.modules.get("numpy")
    is_real = hasattr(numpy, "ndarray")  # otherwise it is a module of the user's
    return is_real and isinstance(value, (numpy.generic, numpy.ndarray))


def _python_of(value: Any) -> Any:
    """Return Python's own value for a scalar or array of numpy, or a value one step nearer to it.

    All are exact except longdouble, which becomes the nearest float. A masked element becomes None.
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
    """Return `value` with Python's own values for those of numpy, whose repr() would name numpy.

    Looks into the builtin containers only. A value that holds itself is returned as it is.
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


def short(key: Any) -> str:
    """Return a key as an error shows it."""
    try:
        text = repr(key)
    except Exception as error:
        return f"a {type(key).__name__} whose repr() fails ({error!r})"
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 3] + "..."
