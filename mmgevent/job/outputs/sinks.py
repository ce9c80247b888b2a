"""Write records to where results go, in one of the formats of `formats`.

`destinations` says where that can be, and when a file appears under its name.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from mmgevent.errors import OutputError
from mmgevent.job.outputs.compression import Compressed, open_compressor
from mmgevent.job.outputs.destinations import Destination, Stream, open_destination
from mmgevent.job.outputs.formats import BINARY_FORMATS, ENCODERS, ROW_FORMATS, OutputFormat, choose_format
from mmgevent.shown_text import harmless

if TYPE_CHECKING:
    from mmgevent.job.outputs.parquet import ParquetTable, Row
    from mmgevent.job.outputs.parts_plan import PartsPlan
    from mmgevent.job.outputs.record import Made

#: What makes bytes of a record, or a row whose `len` is its size. All files of an output share one.
Encoder = Callable[[Any, Any], "bytes | Row"]

#: Bytes collected before a write. Calls are few, and the reader of a pipe notices no delay.
_BUFFER_BYTES = 256 * 1024


def open_sink(
    path: str | os.PathLike[str] | None = None,
    format: str | None = None,
    stream: TextIO | BinaryIO | io.RawIOBase | None = None,
    *,
    columns: str | Iterable[str] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Sink:
    """Check where and how results are to be written, and return the sink for them.

    Results go to `stream` if one is given, else to `path`, else to stdout. Without a `format` the
    suffix of `path` decides, and without a suffix the format is tsv. `columns`: their names.
    `warn` gets a sentence about what a file could not take over from the one it replaced; None logs
    it.

    Raise OutputError for an unknown format or suffix, wrong columns, a missing folder, a path that
    is a folder or cannot be written, and for results on a terminal that are no text.
    """
    name = None if path is None else os.fspath(path)
    chosen = choose_format(name, format)
    check_libraries(chosen)
    encode, header = make_encoder(chosen, columns)
    if name is not None and stream is None:
        destination = open_destination(name, warn or log_warning)
    else:
        out: Any = sys.stdout if stream is None else stream
        out.flush()
        # Closing a raw stream is up to us: some file systems report a full disk only then.
        destination = Stream(getattr(out, "buffer", out), name, closes=isinstance(out, io.RawIOBase))
    if destination.is_terminal:
        is_text = chosen.name not in BINARY_FORMATS and not chosen.compression
        if not is_text:
            destination.abort()
            what = "compressed results are" if chosen.compression else f"format {chosen.name} is"
            raise OutputError(f"{what} not for terminals; write to a file with -o PATH")
        encode, header = _for_terminals(encode), harmless(header.decode()).encode()
    return make_sink(chosen, encode, destination, header)


def make_sink(chosen: OutputFormat, encode: Encoder, destination: Destination, header: bytes) -> Sink:
    """Return the sink for one file, with what `make_encoder` returned."""
    if chosen.compression:
        destination = Compressed(destination, chosen.compression)
    table = None
    if chosen.name == "parquet":
        from mmgevent.job.outputs.parquet import ParquetRows, ParquetTable

        assert isinstance(encode, ParquetRows)
        table = ParquetTable(encode)
    return Sink(encode, destination, header, table)


def make_encoder(chosen: OutputFormat, columns: str | Iterable[str] | None) -> tuple[Encoder, bytes]:
    """Return the function that encodes one record, and what a file begins with.

    Raise OutputError for wrong names of columns, or if the format has no columns.
    """
    if columns is not None and chosen.name not in ROW_FORMATS:
        raise OutputError(
            f"the format {chosen.name} has no columns to name; write {' or '.join(ROW_FORMATS)}, or leave the "
            f"names away"
        )
    if chosen.name not in ROW_FORMATS:
        return ENCODERS[chosen.name], b""
    from mmgevent.job.outputs.rows import CsvEncoder, Rows, check_columns  # rarely needed

    names = None if columns is None else check_columns(columns)
    if chosen.name == "parquet":
        from mmgevent.job.outputs.parquet import ParquetRows

        return ParquetRows(names), b""
    encoder = CsvEncoder(Rows(names))
    return encoder, encoder.header


def check_libraries(chosen: OutputFormat) -> None:
    """Raise OutputError if this Python cannot compress so, or cannot write Parquet."""
    if chosen.compression:
        open_compressor(chosen.compression)
    if chosen.name == "parquet":
        from mmgevent.job.outputs.parquet import check_parquet  # rarely needed

        check_parquet()


def _for_terminals(encode: Encoder) -> Encoder:
    """Return the encoder of text whose results drive no terminal: keys may be file names, say."""

    def encode_harmless(key: Any, value: Any) -> bytes:
        data = encode(key, value)
        assert isinstance(data, bytes), "rows are not for terminals"
        return harmless(data.decode()).encode()

    return encode_harmless


def log_warning(text: str) -> None:
    """Log a warning of an output."""
    from mmgevent.machine.logs import get_log  # rarely needed

    get_log(__name__).warning("%s", text)


class Sink:
    """Takes records one by one; a context manager.

    Leaving it normally makes the output final. Leaving it by an exception removes an unfinished
    file. What a stream has got stays there.
    """

    #: the partitions that are there already, None if this is no resumed output
    made: Made | None = None
    #: records that were there already
    made_records = 0
    #: whether all results were there already
    is_complete = False

    def __init__(
        self,
        encode: Encoder,
        destination: Destination,
        header: bytes = b"",
        table: ParquetTable | None = None,
    ) -> None:
        """`header`: what the output begins with. `table`: what makes bytes of rows."""
        self._table = table
        self._encode = encode
        self._destination = destination
        self._buffer = bytearray(header)

    @property
    def is_terminal(self) -> bool:
        """Return whether results go to a terminal."""
        return self._destination.is_terminal

    def write(self, key: Any, value: Any) -> None:
        """Write one record; raise OutputError, with the key, if the format has no such value.

        An OSError becomes an OutputError that names the path. Two kinds pass unchanged: those of
        stdout, and BrokenPipeError, which means that the reader of the results closed its end.
        """
        self.write_encoded(self._encode(key, value))

    def write_encoded(self, data: Any) -> None:
        """Write what the encoder made of a record."""
        self._buffer += data if self._table is None else self._table.add(data)
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()

    def write_many(self, records: Sequence[Any]) -> None:
        """Write what the encoder made of some records."""
        if self._table is None:
            self.write_encoded(b"".join(records))
            return
        for record in records:
            self.write_encoded(record)

    def plan_parts(self) -> PartsPlan | None:
        """Return what `submit` needs so that executors write parts; None if they cannot."""
        return None

    @property
    def plan(self) -> PartsPlan | None:
        """Return what `plan_parts` has returned; None if executors write nothing."""
        return None

    def note_partitions(self, partitions: tuple[int, ...], of: int) -> None:
        """Learn that every record of these partitions, `of` all, was written. Folders use that."""

    def note_pause(self) -> None:
        """Learn that there are no records at the moment."""

    def commit(self) -> None:
        """Write what is left, and give a file its name. Raise OutputError as `write` does."""
        if self._table is not None:
            self._buffer += self._table.end()
        self._flush()
        try:
            self._destination.commit()
        except OSError as error:
            if self._passes(error):
                raise
            raise self._failure(error) from error

    def abort(self) -> None:
        """Remove an unfinished file. After `commit` this does nothing."""
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
