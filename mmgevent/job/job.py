"""Describe what the user wants computed: datasource, functions, options.

A job never changes once it is made, except that it remembers whether its one-shot datasource was
used up. `check` finds all that can be found wrong before the job runs. It calls nothing of the
user's. Whoever submits a job calls it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Unpack, overload

from mmgevent import reducers
from mmgevent.errors import FunctionError, OptionError, UsageError
from mmgevent.job.arguments import calls_showing, items_showing, list_to_show
from mmgevent.job.functions import Form, Functions, check_py_file, form_of
from mmgevent.job.inputs import sources
from mmgevent.job.names import name_after, name_of_stage
from mmgevent.job.option_keywords import OptionKeywords
from mmgevent.job.options import JobOptions
from mmgevent.job.value_sorting import SortValues, check_sort_values

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from mmgevent.job.file import JobFile

    #: Types of the keys and values of a job's results. A plain `Job` is a `Job[Any, Any]`.
    K = TypeVar("K", default=Any)
    V = TypeVar("V", default=Any)
else:  # before Python 3.13 a TypeVar takes no default
    from typing import TypeVar

    K = TypeVar("K")
    V = TypeVar("V")
#: Type of the values that a mapfn gives.
W = TypeVar("W")

#: A function of a job, the name of one that workers offer, or None.
_Function = Callable[..., Any] | str | None
_MapFunction = Callable[[Any, Any], Any] | str | None


class Job(Generic[K, V]):
    """A MapReduce job: `Job(datasource, mapfn, reducefn, retries=2)`.

    `datasource` gives `(key, value)` items: a mapping, an iterable of pairs, Files, Lines, or a
    function without arguments that returns one of these.

    - `mapfn(key, value)` runs on a worker for each item. It yields or returns records: pairs.
    - `collectfn(key, values)` runs on the worker that mapped, and returns a value.
    - `reducefn(key, values)` runs on a worker for each key, and returns a value.
    - `finishfn(key, values)` runs here, at the end, and returns a value.
    - `setupfn()` runs once in each executor, before the others. Globals that it binds are theirs.

    A collectfn, reducefn or finishfn with one required positional parameter has the other form:
    `f(iterator of (key, values)) -> iterable of (key, value)`. Without mapfn, items go straight to
    reduce. Without reducefn, results map each key to the list of its values. A str names a function
    that workers offer.

    `sort_values`: True to give reducefn the values of each key in order, or a function of a value
    that returns what to compare it by. Values that memory does not hold are a sequence on disk
    instead of a list. Without it they are in datasource order.

    `then` adds a stage, whose items are the results of this job.

    Options are those of `JobOptions`. Raise OptionError for an unknown one or a value out of range.
    Everything else is checked when the job is submitted. `Job[K, V]` has results `{K: V}`.
    """

    __slots__ = (
        "_is_used",
        "argv",
        "by_value",
        "collectfn",
        "datasource",
        "finishfn",
        "is_named",
        "mapfn",
        "options",
        "previous",
        "reducefn",
        "setupfn",
        "sort_values",
    )

    datasource: Any
    mapfn: _Function
    collectfn: _Function
    reducefn: _Function
    finishfn: Callable[..., Any] | None
    setupfn: Callable[[], Any] | None
    sort_values: SortValues
    options: JobOptions
    #: the job whose results are the items of this one's functions, or None; see `then`
    previous: Job[Any, Any] | None
    #: names of modules besides `__main__` that travel by value, such as that of the job file
    by_value: frozenset[str]
    #: `sys.argv` as the job's functions see it, or None for that of this process
    argv: tuple[str, ...] | None
    #: whether the user gave the name; otherwise it is that of a function
    is_named: bool
    #: one element: whether a submit used up the one-shot datasource. Copies by `with_options` share
    #: it.
    _is_used: list[bool]

    @overload
    def __init__(
        self: Job[K, V],
        datasource: Any,
        mapfn: _MapFunction,
        reducefn: Callable[[Iterator[Any]], Iterable[tuple[K, V]]],
        *,
        collectfn: _Function = None,
        finishfn: None = None,
        setupfn: Callable[[], Any] | None = None,
        sort_values: SortValues = None,
        **options: Unpack[OptionKeywords],
    ) -> None: ...

    @overload
    def __init__(
        self: Job[K, V],
        datasource: Any,
        mapfn: _MapFunction,
        reducefn: Callable[[K, Any], V],
        *,
        collectfn: _Function = None,
        finishfn: None = None,
        setupfn: Callable[[], Any] | None = None,
        sort_values: SortValues = None,
        **options: Unpack[OptionKeywords],
    ) -> None: ...

    @overload
    def __init__(
        self: Job[K, list[W]],
        datasource: Any,
        mapfn: Callable[[Any, Any], Iterable[tuple[K, W]]],
        reducefn: None = None,
        *,
        collectfn: None = None,
        finishfn: None = None,
        setupfn: Callable[[], Any] | None = None,
        sort_values: SortValues = None,
        **options: Unpack[OptionKeywords],
    ) -> None: ...

    @overload
    def __init__(
        self: Job[Any, Any],
        datasource: Any,
        mapfn: _MapFunction = None,
        reducefn: _Function = None,
        *,
        collectfn: _Function = None,
        finishfn: Callable[..., Any] | None = None,
        setupfn: Callable[[], Any] | None = None,
        sort_values: SortValues = None,
        **options: Unpack[OptionKeywords],
    ) -> None: ...

    def __init__(
        self,
        datasource: Any,
        mapfn: _MapFunction = None,
        reducefn: _Function = None,
        *,
        collectfn: _Function = None,
        finishfn: Callable[..., Any] | None = None,
        setupfn: Callable[[], Any] | None = None,
        sort_values: SortValues = None,
        **options: Any,
    ) -> None:
        checked = JobOptions.of(options)
        is_named = bool(checked.name)
        if not is_named:
            checked = checked.with_options(name=name_after(mapfn, reducefn))
        self._bind(
            datasource=datasource,
            mapfn=mapfn,
            collectfn=collectfn,
            reducefn=reducefn,
            finishfn=finishfn,
            setupfn=setupfn,
            sort_values=sort_values,
            options=checked,
            previous=None,
            by_value=frozenset(),
            argv=None,
            is_named=is_named,
            _is_used=[False],
        )

    def _bind(self, **attributes: Any) -> None:
        for name in self.__slots__:
            object.__setattr__(self, name, attributes[name])

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Job cannot be changed; make another, or use job.with_options({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Job cannot be changed; make another")

    def __repr__(self) -> str:
        from mmgevent.job.shown_job import describe_job

        return f"<Job {describe_job(self.name, self.stages[0].datasource, len(self.stages))}>"

    def _repr_html_(self) -> str:
        from mmgevent.job.shown_job import job_html

        return job_html(self.name, self.stages[0].datasource, len(self.stages))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], args: Sequence[str] = ()) -> Job[Any, Any]:
        """Load a job file: a Python module that binds the functions, or `job`.

        `sys.argv` is `[path, *args]` while the file is loaded and wherever a function of the job
        runs. When this returns it is what it was before. The file's folder goes first on `sys.path`
        and stays there, since functions may import when they run. Loading a file again runs it
        again. Raise JobFileError for whatever is wrong with the file.
        """
        from mmgevent.job.file import load_file

        return _make_job(load_file(os.fspath(path), list(args)))

    @classmethod
    def from_module(cls, name: str, args: Sequence[str] = ()) -> Job[Any, Any]:
        """Load a module in a package as a job file, by its dotted name, as `python -m` does.

        It is looked for in the working directory first. Its package is imported, so relative
        imports work. `sys.argv[0]` is the path of the module's file. Otherwise as `from_file`.
        """
        from mmgevent.job.file import load_module

        return _make_job(load_module(name, list(args)))

    @property
    def name(self) -> str:
        """Return what logs call this job."""
        return self.options.name

    def then(
        self,
        mapfn: _MapFunction = None,
        reducefn: _Function = None,
        *,
        collectfn: _Function = None,
        finishfn: Callable[..., Any] | None = None,
        setupfn: Callable[[], Any] | None = None,
        sort_values: SortValues = None,
        **options: Unpack[OptionKeywords],
    ) -> Job[Any, Any]:
        """Return a job with one more stage: it maps the results of this one.

        Each result is one item `(key, value)` of the new stage. Their order is unspecified.
        Functions and options are those of the new stage alone, as if it were a job of its own.
        `name`, `results`, `plain_classes` and `py_files` are of the whole job, see `Job`.

        Raise OptionError for an option of the whole job, and UsageError if this job has a finishfn,
        which only the last stage may have.
        """
        from mmgevent.job import chain

        chain.check_no_finish(self.finishfn)
        chain.check_stage_count(len(self.stages) + 1)
        checked = JobOptions.of(chain.options_after(self.options, options))
        return self._replaced(
            mapfn=mapfn,
            collectfn=collectfn,
            reducefn=reducefn,
            finishfn=finishfn,
            setupfn=setupfn,
            sort_values=sort_values,
            options=checked,
            previous=self,
        )

    @property
    def stages(self) -> tuple[Job[Any, Any], ...]:
        """Return the jobs that end with each stage in turn, this one last."""
        return (*(self.previous.stages if self.previous is not None else ()), self)

    def as_stage(self, number: int, count: int, datasource: Any) -> Job[Any, Any]:
        """Return the last stage as a job of its own: number `number` of `count`.

        The first one has the datasource of the chain, the others have this one. It has no finishfn.
        """
        changes: dict[str, Any] = {"previous": None, "finishfn": None}
        if self.previous is not None:
            changes |= {"datasource": datasource, "_is_used": [False]}
        name = name_of_stage(self.name, number, count)
        return self._replaced(options=self.options.with_options(name=name), **changes)

    def with_options(self, **changes: Unpack[OptionKeywords]) -> Job[K, V]:
        """Return the same job with some options changed; raise OptionError as making one does.

        Both share a one-shot datasource, which still serves one submit. In a chain the options of
        every stage change.
        """
        if self.previous is not None:
            previous = self.previous.with_options(**changes)
            return self._with_own_options(**changes)._replaced(previous=previous)
        return self._with_own_options(**changes)

    def _with_own_options(self, **changes: Unpack[OptionKeywords]) -> Job[K, V]:
        options = self.options.with_options(**changes)
        return self._replaced(options=options, is_named=self.is_named or "name" in changes)

    def with_module(self, module_name: str) -> Job[K, V]:
        """Return the same job; what that module defines then travels by value."""
        previous = self.previous and self.previous.with_module(module_name)
        return self._replaced(by_value=self.by_value | {module_name}, previous=previous)

    def with_argv(self, argv: Sequence[str]) -> Job[K, V]:
        """Return the same job, whose functions see this `sys.argv` wherever they run."""
        previous = self.previous and self.previous.with_argv(argv)
        return self._replaced(argv=tuple(map(str, argv)), previous=previous)

    def for_trial(
        self, items: list[tuple[Any, Any]], mapfn: _MapFunction, setupfn: Callable[[], Any] | None
    ) -> Job[K, V]:
        """Return the same job, on some items, with functions in place of its own."""
        options = self.options.with_options(bundles=None)
        return self._replaced(
            datasource=items, mapfn=mapfn, setupfn=setupfn, options=options, _is_used=[False]
        )

    def with_functions(self, **functions: Any) -> Job[K, V]:
        """Return the same job with other functions in place of its own, for `mmgevent.testing`."""
        return self._replaced(**functions)

    def _replaced(self, **changes: Any) -> Job[K, V]:
        job: Job[K, V] = object.__new__(Job)
        job._bind(**{name: getattr(self, name) for name in self.__slots__} | changes)
        return job

    def functions(self) -> Functions:
        """Return what executors run, with forms decided.

        A known reducer that is both collectfn and reducefn is kept as reducefn only: the engine
        combines by itself. Raise FunctionError for a function that cannot be called, and if there
        is neither mapfn nor reducefn.
        """
        if self.mapfn is None and self.reducefn is None:
            raise FunctionError("the job has neither mapfn nor reducefn; pass one of them at least")
        check_sort_values(self.sort_values, (self.mapfn, self.collectfn, self.reducefn))
        reducers.check_collectfn(self.collectfn, self.reducefn)
        collectfn = reducers.without_redundant(self.collectfn, self.reducefn)
        functions = Functions.of(self.mapfn, collectfn, self.reducefn, self.setupfn, self.sort_values)
        if self.options.arrays:
            functions = replace(functions, arrays=True)
        connectors = () if self.previous is not None else sources.connectors_of(self.datasource)
        if not connectors:
            return functions
        if functions.offered_names:
            raise FunctionError(
                f"the function {min(functions.offered_names)!r} is offered by nodes, which cannot get the connect of a "
                f"Query; pass the function itself"
            )
        return replace(functions, connect=connectors)

    @property
    def finish_form(self) -> Form | None:
        """Return how finishfn is called: "pair" or "iterator", or None without one.

        Raise FunctionError if it cannot be called.
        """
        if self.finishfn is None:
            return None
        if isinstance(self.finishfn, str):
            raise FunctionError(
                f"finishfn runs in this process and cannot be the name {self.finishfn!r}; pass the function"
            )
        return form_of(self.finishfn, "finishfn")

    def check(self) -> None:
        """Raise the UsageError for whatever can be found wrong before the job runs.

        Looks at the disk (files of Files and Lines, py_files). Calls nothing but the connect of a
        Query, and takes nothing from iterators.
        """
        stages = self.stages
        for number, stage in enumerate(stages, 1):
            try:
                stage._check_functions()
            except UsageError as error:
                error.name_stage(number, len(stages))
                raise
        _ = self.finish_form
        for path in self.options.py_files:
            check_py_file(path)
        for name in self.options.pass_env:
            if name not in os.environ:
                raise OptionError(
                    f"option pass_env: the environment variable {name} is not set here; set it, or do not pass it"
                )
        if self._is_used[0]:
            raise sources.used_up(self.datasource)
        sources.check_datasource(self.datasource)

    def _check_functions(self) -> None:
        if self.previous is not None:
            from mmgevent.job.chain import check_follows

            check_follows(self.options.allocation)
        functions = self.functions()
        if functions.offered_names:
            self.options.check_for_offered(min(functions.offered_names))
        if self.mapfn is None and self.options.items_per_call is not None:
            raise OptionError(
                "items_per_call is about the calls of mapfn, and the job has none; leave it out"
            )

        if self.options.arrays and (self.reducefn is None or reducers.is_recognised(self.reducefn)):
            what = "the job has none" if self.reducefn is None else "a known reducer needs no array"
            raise OptionError(f"arrays is about what reducefn gets, and {what}; leave it out")

    def claim_datasource(self) -> None:
        """Note that a submit walks through the datasource now.

        Raise DatasourceError if it is one-shot and an earlier submit used it up. Called once a
        submit; a driver that resubmits by itself does not call it again.
        """
        if self._is_used[0]:
            raise sources.used_up(self.datasource)
        sources.claim(self.datasource)
        self._is_used[0] = sources.is_one_shot(self.datasource)

    def open_datasource(self) -> Any:
        """Claim the datasource, and return what `sources.open_datasource` makes of it."""
        self.claim_datasource()
        return self.reopen_datasource()

    def reopen_datasource(self) -> Any:
        """Return what `open_datasource` does, without a claim: the driver resubmits by itself."""
        return calls_showing(list_to_show(self.argv), sources.open_datasource)(self.datasource)

    def walk(self, opened: Any) -> Iterator[tuple[Any, Any, int]]:
        """Walk through what was opened: yield `(key, value, weight)`, as `sources.walk` does."""
        items = sources.walk(opened)
        if sources.is_in_memory(opened):  # none of the user's code runs
            return items
        return items_showing(list_to_show(self.argv), items)


def _make_job(loaded: JobFile) -> Job[Any, Any]:
    """Return the job that a file binds, or make one of the parts that it binds."""
    if isinstance(loaded.job, Job):
        loaded.check_job_alone()
        job = loaded.job if loaded.job.is_named else loaded.job.with_options(name=loaded.job_name)
    else:
        first, *others = loaded.read_stages()
        job = Job(**first)
        if others:
            from mmgevent.job.chain import add_stages

            job = add_stages(job, others, loaded.path)
    return job.with_module(loaded.module_name).with_argv(loaded.argv)
