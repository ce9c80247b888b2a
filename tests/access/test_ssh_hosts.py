"""The hosts of ssh://, which become words of a command line."""

import pytest

from mmgevent.access.ssh_hosts import check_remote_python, parse_ssh_hosts
from mmgevent.errors import UsageError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ssh://h1,h1,user@h2:2222", ["h1", "user@h2:2222"]),
        ("ssh://[::1]:22,u.x@[fe80::1]", ["[::1]:22", "u.x@[fe80::1]"]),
        ("ssh://my_host-1.example.org/", ["my_host-1.example.org"]),
    ],
)
def test_hosts_are_read_as_ssh_writes_them(text, shown):
    assert [str(host) for host in parse_ssh_hosts(text)] == shown


@pytest.mark.parametrize(
    "text",
    [
        "ssh://",
        "ssh://h1,,h2",
        "h1",
        "ssh://-oProxyCommand=x",
        "ssh://-l@h1",
        "ssh://a@-h1",
        "ssh://h1;reboot",
        "ssh://h1 h2",
        "ssh://$(id)",
        "ssh://`id`",
        "ssh://h*",
        "ssh://h1|x",
        "ssh://h1\nh2",
        "ssh://h1:0",
        "ssh://h1:99999",
        "ssh://h1:ssh",
        "ssh://u@v@h1",
        "ssh://u:secret@h1",
        "ssh://@h1",
        "ssh://[::1",
        "ssh://[::1%eth0]",
        "ssh://%h",
        "ssh://h\u00f6st",
        "ssh://" + "h" * 254,
        "ssh://" + "u" * 33 + "@h",
        "ssh://" + ",".join(f"h{n}" for n in range(257)),
        "ssh://~/x",
    ],
)
def test_what_a_shell_or_ssh_could_read_otherwise_is_no_host(text):
    with pytest.raises(UsageError):
        parse_ssh_hosts(text)


def test_an_interpreter_is_a_name_or_a_path():
    for good in ("python3.12", "/opt/py/bin/python3", "~/venv/bin/python", "uv", "./x"):
        assert check_remote_python(good) == good
    for bad in ("", "-c", "~root/x", "py thon", "a;b", "$HOME/x", "a'b", "a\n", "x=y", "~", "a~"):
        with pytest.raises(UsageError):
            check_remote_python(bad)
