"""Addresses are read as people write them, and refused with what was expected."""

import pytest

from mmgevent.access.addresses import (
    ALL_INTERFACES,
    DEFAULT_PORT,
    format_address,
    is_loopback,
    parse_address,
    parse_addresses,
    parse_listen,
    parse_port,
)
from mmgevent.errors import UsageError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("bighost", ("bighost", DEFAULT_PORT)),
        ("bighost:5000", ("bighost", 5000)),
        (" bighost:5000 ", ("bighost", 5000)),
        ("10.0.0.7", ("10.0.0.7", DEFAULT_PORT)),
        ("10.0.0.7:65535", ("10.0.0.7", 65535)),
        ("[::1]", ("::1", DEFAULT_PORT)),
        ("[::1]:5000", ("::1", 5000)),
        ("[fe80::1%eth0]:5000", ("fe80::1%eth0", 5000)),
        ("5000", ("localhost", 5000)),
        (":5000", ("localhost", 5000)),
        ("my_host-1.example.org:1", ("my_host-1.example.org", 1)),
        ("größer.example:1", ("größer.example", 1)),
    ],
)
def test_address_to_connect_to_is_read(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "host:",
        "host:port",
        "host:0",
        "host:65536",
        "host:-1",
        "host:1.5",
        "host:١٢",
        "0",
        "99999",
        "host:99999999999999999999",
        "::1",
        "::1:5000",
        "[::1",
        "[::1]5000",
        "[host]:5000",
        "http://host",
        "user@host",
        "two words",
        "host/path",
        "x" * 300,
    ],
)
def test_anything_else_is_refused_in_one_line(text):
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert "\n" not in str(caught.value)


def test_bare_ipv6_is_refused_with_how_to_write_it():
    with pytest.raises(UsageError, match=r"write \[fe80::1\]:PORT"):
        parse_address("fe80::1")


def test_default_port_stands_where_none_is_written():
    assert parse_address("host", 7) == ("host", 7)
    assert parse_address("host:8", 7) == ("host", 8)
    assert parse_addresses("a,b:8,[::1]", 7) == [("a", 7), ("b", 8), ("::1", 7)]


def test_list_keeps_its_order_and_names_each_address_once():
    assert parse_addresses("b, a,b:11235") == [("b", DEFAULT_PORT), ("a", DEFAULT_PORT)]


@pytest.mark.parametrize("text", ["", ",", "a,", ",a", "a,,b"])
def test_list_with_a_gap_is_refused(text):
    with pytest.raises(UsageError):
        parse_addresses(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("5000", (ALL_INTERFACES, 5000)),
        (":5000", (ALL_INTERFACES, 5000)),
        ("0", (ALL_INTERFACES, 0)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:5000", ("localhost", 5000)),
        ("[::]:5000", ("::", 5000)),
        ("0.0.0.0", ("0.0.0.0", DEFAULT_PORT)),
    ],
)
def test_address_to_listen_on_is_read(text, address):
    assert parse_listen(text) == address


@pytest.mark.parametrize("text", ["", "host:", "host:99999", "::", "-1"])
def test_bad_address_to_listen_on_is_refused(text):
    with pytest.raises(UsageError, match=r"expected|write"):
        parse_listen(text)


def test_port_alone_is_a_number_in_range():
    assert parse_port("11235") == 11235
    for text in ("0", "x", "", "65536"):
        with pytest.raises(UsageError):
            parse_port(text)


@pytest.mark.parametrize("address", [("host", 1), ("::1", 11235), ("10.0.0.1", 65535)])
def test_formatted_address_reads_back(address):
    assert parse_address(format_address(address)) == address


def test_only_this_machine_is_loopback():
    assert all(map(is_loopback, ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "bighost", "10.0.0.1"]))
