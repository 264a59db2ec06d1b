"""The address filter: what counts as public, in whatever spelling, and who may be inside all the same."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address

from carscraper import network
from carscraper.network import AddressFilter, is_public

PUBLIC = [
    *("8.8.8.8", "1.1.1.1", "185.112.144.1", "172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.1"),
    *("169.253.255.255", "192.167.255.255", "223.255.255.255", "11.0.0.0", "126.255.255.255", "128.0.0.1"),
    *("2a00:1450:4009::200e", "2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450::1%eth0"),
    *("::ffff:8.8.8.8", "::ffff:808:808", "2002:808:808::1", "64:ff9b::808:808", "64:ff9b:1::808:808"),
]
INSIDE_V4 = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "127.0.0.1", "127.255.255.254", "127.1.2.3"),
    *("100.64.0.1", "100.127.255.255", "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255"),
    *("192.168.0.1", "192.168.255.255", "192.0.0.1", "192.0.2.1", "198.51.100.7", "203.0.113.9"),
    *("198.18.0.1", "198.19.255.255", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
]
INSIDE_V6 = [
    *("::", "::1", "::127.0.0.1", "::8.8.8.8", "::2", "100::1", "fe80::1", "fe80::1%eth0", "fe80::1%25eth0"),
    *("febf::1", "fec0::1", "fc00::1", "fd00:ec2::254", "fdff::1", "ff00::", "ff02::1", "ff0e::1", "ffff::1"),
    *("2001:db8::1", "2001:db8:ffff::1", "2001:10::1", "2001:2::1", "400::1", "4000::1", "8000::1"),
    "0:0:0:0:0:0:0:1",
]
WRAPPINGS = ["::ffff:{v4}", "2002:{hex}::", "2002:{hex}::1", "64:ff9b::{hex}", "64:ff9b:1::{hex}", "::{v4}"]


def wrapped(wrapping: str, v4: str) -> str:
    number = int(ipaddress.IPv4Address(v4))
    return wrapping.format(v4=v4, hex=f"{number >> 16:x}:{number & 0xFFFF:x}")


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", INSIDE_V4 + INSIDE_V6)
def test_inside(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("address", INSIDE_V4)
def test_wrapped(wrapping: str, address: str) -> None:
    assert not is_public(wrapped(wrapping, address))


@pytest.mark.parametrize("client", ["127.0.0.1", "10.0.0.1", "169.254.169.254"])
def test_wrapped_in_teredo(client: str) -> None:
    inverted = 0xFFFFFFFF ^ int(ipaddress.IPv4Address(client))
    assert not is_public(f"2001:0:808:808:8000:63bf:{inverted >> 16:x}:{inverted & 0xFFFF:x}")


@given(st.ip_addresses(v=4))
def test_a_wrapped_address_is_never_more_public_than_the_bare_one(address: ipaddress.IPv4Address) -> None:
    bare = is_public(str(address))
    assert not bare or (address.is_global and not address.is_multicast)
    for wrapping in WRAPPINGS:
        assert is_public(wrapped(wrapping, str(address))) <= bare


@given(st.ip_addresses(v=6))
def test_no_v6_address_is_an_error(address: ipaddress.IPv6Address) -> None:
    if is_public(str(address)) and not address.sixtofour:
        assert address in ipaddress.ip_network("2000::/3") or str(address).startswith(("64:ff9b", "::ffff"))


@pytest.mark.parametrize("spelling", ["2130706433", "0177.0.0.1", "0x7f.1", "0x7f000001", "127.1", "017700000001"])
def test_other_spellings_are_addresses_by_the_time_the_guard_sees_them(spelling: str) -> None:
    # The guard stands behind the resolver, which knows these spellings as every browser does.
    for *_, address in socket.getaddrinfo(spelling, 80, socket.AF_INET, socket.SOCK_STREAM):
        assert not is_public(str(address[0]))


class TestGuard:
    def test_public_addresses_need_no_permission(self) -> None:
        assert AddressFilter().permits("bilasolur.is", 443, "185.112.144.1")

    @pytest.mark.parametrize("host", ["bilasolur.is", "127.0.0.1", "localhost", "metadata.google.internal"])
    def test_a_name_does_not_help(self, host: str) -> None:
        assert not AddressFilter().permits(host, 80, "127.0.0.1")

    def test_an_allowed_port_is_that_port_only(self) -> None:
        guard = AddressFilter()
        guard.allow("127.0.0.1", 8000)
        assert guard.permits("127.0.0.1", 8000, "127.0.0.1")
        assert not guard.permits("127.0.0.1", 5432, "127.0.0.1")
        assert not guard.permits("localhost", 8000, "127.0.0.1")

    def test_an_allowed_host_is_every_port(self) -> None:
        guard = AddressFilter()
        guard.allow("NAS.local")
        assert guard.permits("nas.LOCAL", 1, "10.0.0.1")
        assert guard.permits("nas.local", 9000, "10.0.0.1")
        assert not guard.permits("x.nas.local", 9000, "10.0.0.1")

    @pytest.mark.parametrize(
        ("entry", "permitted", "refused"),
        [
            ("nas.local", [("nas.local", 80), ("nas.local", 81)], [("local", 80)]),
            (" nas.local:8080 ", [("nas.local", 8080)], [("nas.local", 80)]),
            ("127.0.0.1:8000", [("127.0.0.1", 8000)], [("127.0.0.1", 80)]),
            ("[::1]:8000", [("::1", 8000)], [("::1", 80)]),
            ("[::1]", [("::1", 80)], []),
            ("::1", [("::1", 80), ("::1", 8000)], [(":", 1)]),
            ("fd00::1:8000", [("fd00::1:8000", 80)], [("fd00::1", 8000)]),
            ("", [], [("", 80)]),
        ],
    )
    def test_entries_as_people_write_them(
        self, entry: str, permitted: list[tuple[str, int]], refused: list[tuple[str, int]]
    ) -> None:
        guard = AddressFilter()
        guard.allow_all([entry])
        assert [each for each in permitted if not guard.permits(*each, "127.0.0.1")] == []
        assert [each for each in refused if guard.permits(*each, "127.0.0.1")] == []

    def test_a_refusal_is_remembered_for_that_host_and_port(self) -> None:
        guard = AddressFilter()
        assert not guard.refused("inside.is", 80)
        guard.permits("Inside.is", 80, "10.0.0.1")
        assert guard.refused("inside.IS", 80)
        assert not guard.refused("inside.is", 443)
        assert not guard.refused("outside.is", 80)


class Receiver:
    """Notes what a resolution brings."""

    def __init__(self) -> None:
        self.got: list[str] = []

    def resolutionBegan(self, resolution: object) -> None:  # noqa: N802
        self.got.append("began")

    def addressResolved(self, address: IPv4Address | IPv6Address) -> None:  # noqa: N802
        self.got.append(address.host)

    def resolutionComplete(self) -> None:  # noqa: N802
        self.got.append("complete")


def test_inner_addresses_of_a_mixed_answer_are_dropped() -> None:
    receiver = Receiver()
    screen = network._Screen(receiver, AddressFilter(), "mixed.is", 80)
    screen.resolutionBegan(None)
    for host in ("10.0.0.1", "185.112.144.1", "127.0.0.1"):
        screen.addressResolved(IPv4Address("TCP", host, 80))
    screen.addressResolved(IPv6Address("TCP", "::1", 80))
    screen.resolutionComplete()
    assert receiver.got == ["began", "185.112.144.1", "complete"]
