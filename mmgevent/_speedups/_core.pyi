from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mmgevent._speedups._block import Block
from mmgevent._speedups._block_fold import ColumnFold as ColumnFold
from mmgevent._speedups._items import Items as Items
from mmgevent._speedups._units import CsvRows as CsvRows

def xxh64(data: Any, seed: int = 0) -> int: ...
def hash_key(key: Any, seed: int = 0) -> int: ...
def is_hashed(key: Any) -> bool: ...
def unify_nan(key: Any) -> Any: ...
def estimate_bytes(thing: Any) -> int: ...
def partition(key: Any, count: int, seed: int = 0) -> int: ...
def group(
    pairs: Iterable[Any], groups: dict[Any, list[Any]], budget: int
) -> tuple[bool | Block, int, int]: ...
def fold(
    pairs: Iterable[Any], table: dict[Any, Any], op: int, budget: int
) -> tuple[bool | Block, int, int]: ...
def take(records: Iterable[Any], limit: int, /) -> list[Any]: ...
def map_items(
    items: Iterable[tuple[int, Any, Any]],
    mark: Callable[[int, Any], object],
    mapfn: Callable[[Any, Any], Any],
    pairs_of: Callable[[Any], Iterator[Any]],
    failed: Callable[[int, Any, Any, BaseException], list[Any] | None],
    large: Callable[[int, Any, Any, list[Any], Iterator[Any]], object],
    limit: int,
    /,
) -> Iterator[Any]: ...
def stream_items(
    items: Iterable[tuple[int, Any, Any]],
    mark: Callable[[int, Any], object],
    mapfn: Callable[[Any, Any], Any] | None,
    pairs_of: Callable[[Any], Iterator[Any]],
    /,
) -> Iterator[Any]: ...
def make_mark(
    page: Any, show: Callable[[int, Any, float], object], end_of: Callable[[str], bytes], /
) -> Callable[[int, Any], None]: ...
def lines_of(
    path: str,
    offset: int,
    data: bytes,
    ignored: int,
    encoding: str,
    errors: str,
    is_like_ascii: bool,
    broken: Callable[[bytes, int], Any],
    /,
) -> Iterator[tuple[tuple[str, int], Any]]: ...
def pieces_of(
    path: str, offset: int, data: bytes, n_bytes: int, /
) -> Iterator[tuple[tuple[str, int], Any]]: ...
def placed(
    path: str, offset: int, records: Iterable[Any], between: int, /
) -> Iterator[tuple[tuple[str, int], Any]]: ...
def values_of(
    lines: Iterable[tuple[tuple[str, int], Any]],
    scan: Callable[[str, int], tuple[Any, int]],
    parse: Callable[[Any, Any], Any],
    /,
) -> Iterator[tuple[tuple[str, int], Any]]: ...
def scatter(
    groups: dict[Any, Any], count: int, seed: int = 0
) -> tuple[list[tuple[list[Any], list[Any]] | None], bool]: ...
def merge_grouped(groups: dict[Any, list[Any]], keys: list[Any], values: list[list[Any]]) -> int: ...
def merge_flat(groups: dict[Any, list[Any]], keys: list[Any], values: list[Any]) -> int: ...
def merge_fold(table: dict[Any, Any], keys: list[Any], values: list[Any], op: int) -> int: ...
def check_pickle(data: Any, max_depth: int, max_weight: int, /) -> int: ...
