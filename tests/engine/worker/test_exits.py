"""forker: every way in which a process can end has words."""

from mmgevent.engine.worker.exits import Exit, describe_return_code, describe_status


def test_every_wait_status_and_return_code_is_described():
    for status in range(65536):
        text = describe_status(status)
        assert text.isprintable()
        assert str(Exit(status, 0)) == text
    for code in range(-65535, 65536):
        assert describe_return_code(code).isprintable()
    assert describe_status(40).startswith("signal 40 (")
    assert describe_return_code(-9) == describe_status(9) == "signal 9 (SIGKILL)"
    assert describe_return_code(None) == "it has not ended"
