"""What a driver believes of the receipts that workers send in the place of results."""

import json

import pytest
from xxhash import xxh3_64_digest

from mmgevent.driver.runners.decoding import find_receipt
from mmgevent.errors import JobError
from mmgevent.job.outputs import parts_plan
from mmgevent.job.outputs.parts_plan import PartsPlan
from mmgevent.job.outputs.receipts import MAGIC, Receipt, RowShape, WrittenFile
from mmgevent.tasks.records import encode_segment

PLAN = PartsPlan("/out", "out/", 16 * "a", "csv.gz", ["a"], 1000)
NAME = f"{PLAN.temporary_prefix}{16 * 'b'}.tmp"
RECEIPT = Receipt((WrittenFile(NAME, 3, 40), WrittenFile(NAME, 0, 2)), RowShape(2, "'first'"))


def packed(value):
    body = json.dumps(value).encode()
    return MAGIC + xxh3_64_digest(body) + body


def test_a_receipt_comes_as_it_was_sent_with_the_partitions_that_the_driver_knows():
    assert find_receipt(RECEIPT.encode(), PLAN, (1, 2), 8) == RECEIPT._replace(partitions=(1, 2), of=8)
    assert RECEIPT.records == 3
    assert find_receipt(encode_segment([1], [2]), PLAN, (1,), 8) is None
    assert find_receipt(b"", PLAN, (1,), 8) is None


@pytest.mark.parametrize(
    "name",
    [
        "part-00000.csv",
        "_SUCCESS",
        "../x",
        NAME + "/x",
        "/etc/passwd",
        NAME.replace("a", "c"),
        NAME[:-4],
        NAME + "\n",
    ],
)
def test_a_receipt_names_files_of_its_run_only(name):
    with pytest.raises(JobError, match="is no part of this run"):
        find_receipt(Receipt((WrittenFile(name, 1, 1),)).encode(), PLAN, (1,), 8)


@pytest.mark.parametrize(
    "value",
    [
        None, 5, [], [[], None], [[[NAME, 1]], None], [[[NAME, -1, 1]], None], [[[NAME, 1, True]], None],
        [[[5, 1, 1]], None], [[[NAME, 1, 1]], [2]], [[[NAME, 1, 1]], ["2", "x"]], [[[NAME, 1, 1]], [2, 3]],
        [[NAME], None], [{}, None], [[[NAME, 1, 1]], None, 3], [[[NAME, 1, 1.0]], None],
    ],
)  # fmt: skip
def test_what_no_executor_sends_ends_the_job_in_one_sentence(value):
    with pytest.raises(JobError, match="the receipt of a worker for parts in out/ is damaged"):
        find_receipt(packed(value), PLAN, (1,), 8)


def test_damage_is_found():
    whole = RECEIPT.encode()
    for at in range(len(MAGIC), len(whole)):
        spoiled = bytearray(whole)
        spoiled[at] ^= 1
        with pytest.raises(JobError, match="is damaged"):
            find_receipt(spoiled, PLAN, (1,), 8)
        with pytest.raises(JobError, match="is damaged"):
            find_receipt(whole[:at], PLAN, (1,), 8)


def test_a_plan_of_a_peer_is_checked():
    whole = PLAN._asdict()
    assert parts_plan.find_fault(json.loads(json.dumps(whole))) is None
    for wrong in (
        5, {}, {**whole, "more": 1}, {**whole, "token": "../x"}, {**whole, "folder": None}, {**whole, "columns": "a"},
        {**whole, "columns": [""]}, {**whole, "part_bytes": 0}, {**whole, "part_bytes": True}, {**whole, "name": ""},
    ):  # fmt: skip
        assert parts_plan.find_fault(wrong), wrong
