"""Who is to blame when a template ended under its executors.

User code may kill its parent, or stop it, and nobody sees who did. All jobs whose executors the
template had forked are suspects. From then on each suspect has a template of its own on this worker. If a
template ends that only one job used, this job is to blame: the worker reports one of its attempts,
and the server counts. All other attempts are returned: they are tried again and nothing is counted.

A job that ended a template rests before it gets another. The rest doubles each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from mmgevent.engine.worker.forker import Forker
    from mmgevent.engine.worker.slot import Post
    from mmgevent.engine.worker.supervisor import Supervisor

#: First rest of a job that ended its template, seconds: a template starts in 0.15 s.
REST_S = 0.2

#: Longest rest, seconds. Attempts of other jobs in the same slots wait that long, too.
MAX_REST_S = 6.4


class Verdict(NamedTuple):
    """What is done about a template that ended."""

    #: executor whose attempt is reported; None if several jobs are suspects, or nothing ran
    reported: Supervisor | None


class TemplateDeaths:
    """The verdicts of one worker about its templates."""

    def __init__(self) -> None:
        self._verdicts: WeakKeyDictionary[Forker, Verdict] = WeakKeyDictionary()

    def judge(self, executor: Supervisor, posts: Mapping[Supervisor, Post]) -> bool:
        """Return whether the attempt of this executor, whose template ended, is to be reported.

        `posts`: all executors of the worker that have not ended, and this one.
        """
        forker = executor.forker
        if forker not in self._verdicts:
            self._verdicts[forker] = _find_verdict(
                [(other, post) for other, post in posts.items() if other.forker is forker]
            )
        return self._verdicts[forker].reported is executor


def rest_s(deaths: int) -> float:
    """Return how long a job rests that has ended so many templates, seconds."""
    return min(MAX_REST_S, REST_S * 2.0 ** max(0, deaths - 1))


def _find_verdict(executors: Iterable[tuple[Supervisor, Post]]) -> Verdict:
    there = [(executor, post) for executor, post in executors if executor.child.pid is not None]
    jobs = {post.job for _, post in there}
    for job in jobs:
        job.template_deaths += 1
    if len(jobs) > 1:
        return Verdict(None)
    given = [(executor, post.slot.attempts_of(executor)) for executor, post in there]
    begun = [e for e, attempts in given if any(a.number == e.position().attempt for a in attempts)]
    return Verdict(next(iter([*begun, *(e for e, attempts in given if attempts)]), None))
