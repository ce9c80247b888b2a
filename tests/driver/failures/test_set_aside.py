"""set_aside: what a driver keeps of items that were set aside."""

from mmgevent.driver.failures.set_aside import NotKept, SetAside
from mmgevent.tasks.records import encode_segment, encode_value


def rows(first, count, *, kept=True):
    values = [encode_value(n, 1000) if kept else None for n in range(first, first + count)]
    return encode_segment(
        list(range(first, first + count)),
        [(first + i, value, "ValueError", "no", {"error": "no"}) for i, value in enumerate(values)],
    )


def test_who_reads_goes_on_when_the_job_is_submitted_again():
    set_aside = SetAside()
    set_aside.add_rows(1, "worker", rows(0, 3))
    set_aside.add_rows(1, "worker", rows(3, 3, kept=False))
    reading = set_aside.items(lambda places: [(place, (place[1], "read again")) for place in places])
    read = [next(reading)]
    set_aside.clear()
    assert set_aside.count == 0
    assert list(set_aside.items(lambda places: [])) == []
    set_aside.add_rows(1, "worker", rows(100, 2))
    read += reading
    assert read[:3] == [(0, 0), (1, 1), (2, 2)]
    assert [key for key, _ in read[3:]] == [3, 4, 5]
    assert all(isinstance(value, NotKept) for _, value in read[3:]), "their batches are numbered anew"
    assert list(set_aside.items(lambda places: [])) == [(100, 100), (101, 101)]
