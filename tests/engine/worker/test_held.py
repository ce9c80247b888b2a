"""held: what a worker remembers of recalls that came before their attempts."""

from mmgevent.engine.worker.held import MAX_EARLY_RECALLS, EarlyRecalls


def test_the_oldest_recalls_are_forgotten_once_there_are_too_many():
    recalls = EarlyRecalls(2)
    for number in range(2 * MAX_EARLY_RECALLS + 1):
        recalls.add(number)
    assert 0 not in recalls
    assert all(number in recalls for number in range(1, 2 * MAX_EARLY_RECALLS + 1))
