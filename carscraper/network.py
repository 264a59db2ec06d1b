"""The address filter: which machines a crawl may connect to (protection against SSRF).

A page can name any address as a photo, also one inside the network where the crawl runs. The filter sits where names
become addresses, so that spellings (decimal, octal, hex), redirects and names that resolve to the inside are all
caught at the moment of connecting.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, ClassVar

from scrapy.resolver import CachingHostnameResolver
from twisted.internet.interfaces import IResolutionReceiver
from zope.interface import implementer

if TYPE_CHECKING:
    from collections.abc import Iterable

_PUBLIC_V6 = ipaddress.ip_network("2000::/3")  # the rest of IPv6 is not given out, or is for use inside
_THREADS = 4  # which resolve names: a crawl has few hosts
_V4_IN_V6 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))


def is_public(address: str) -> bool:
    """Return whether *address* belongs to the public internet, whatever it is wrapped in.

    >>> [is_public(a) for a in ("8.8.8.8", "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::7f00:1")]
    [True, False, False, False, False]
    >>> [is_public(a) for a in ("2002:7f00:0001::", "::1", "fd00::1", "ff02::1", "2a00:1450::1", "0.0.0.0")]
    [False, False, False, False, True, False]
    """
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and any(ip in network for network in _V4_IN_V6):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
        elif ip not in _PUBLIC_V6:
            return False
    return ip.is_global and not ip.is_multicast


class AddressFilter:
    """Which hosts may be inside a private network; everything else must be public."""

    def __init__(self) -> None:
        self._allowed: set[tuple[str, int | None]] = set()
        self._refused: set[tuple[str, int]] = set()

    def allow(self, host: str, port: int | None = None) -> None:
        """Let *host* be anywhere; on *port* only, if one is given."""
        self._allowed.add((host.lower(), port))

    def allow_all(self, hosts: Iterable[str]) -> None:
        """Allow each of ``host`` or ``host:port``."""
        for entry in hosts:
            host, _, port = entry.strip().rpartition(":")
            # In "::1" the last colon is part of the address, in "[::1]:80" it is not.
            if host and port.isdecimal() and (":" not in host or host.endswith("]")):
                self.allow(host.strip("[]"), int(port))
            elif entry.strip():
                self.allow(entry.strip().strip("[]"))

    def permits(self, host: str, port: int, address: str) -> bool:
        """Decide for *host*, asked on *port*, which resolved to *address*; a refusal is remembered."""
        host = host.lower()
        if is_public(address) or (host, None) in self._allowed or (host, port) in self._allowed:
            return True
        self._refused.add((host, port))
        return False

    def refused(self, host: str, port: int) -> bool:
        """Return whether a connection to *host* on *port* was ever refused."""
        return (host.lower(), port) in self._refused


@implementer(IResolutionReceiver)
class _Screen:
    """Passes on the addresses that *addresses* permits."""

    def __init__(self, receiver: Any, addresses: AddressFilter, host: str, port: int) -> None:
        self._receiver = receiver
        self._addresses = addresses
        self._host = host
        self._port = port

    def resolutionBegan(self, resolution: Any) -> None:  # noqa: N802 - Twisted's name
        self._receiver.resolutionBegan(resolution)

    def addressResolved(self, address: Any) -> None:  # noqa: N802 - Twisted's name
        if self._addresses.permits(self._host, self._port, address.host):
            self._receiver.addressResolved(address)

    def resolutionComplete(self) -> None:  # noqa: N802 - Twisted's name
        self._receiver.resolutionComplete()


class GuardedResolver(CachingHostnameResolver):
    """Scrapy's caching resolver (IPv4 and IPv6) behind the crawl's filter. Set as ``TWISTED_DNS_RESOLVER``."""

    addresses: ClassVar[AddressFilter] = AddressFilter()
    """Of the crawl under way; the add-on sets it. The reactor has one resolver, and its timers keep no context that
    could tell for whom it resolves."""

    @staticmethod
    def start_threads() -> None:
        """Start the threads that resolve names, while a machine that gives none can still end the crawl.

        Later a name would only never be resolved, and its photos fail of a time-out.
        """
        from twisted.internet import reactor  # noqa: PLC0415 - installs a reactor when imported

        pool = reactor.getThreadPool()
        try:
            pool.adjustPoolsize(_THREADS, _THREADS)
        except RuntimeError:
            pool.threads[:] = [thread for thread in pool.threads if thread.ident]  # it would wait for the others' end
            raise

    def resolveHostName(  # noqa: N802 - Twisted's name and arguments
        self,
        resolutionReceiver: Any,  # noqa: N803
        hostName: str,  # noqa: N803
        portNumber: int = 0,  # noqa: N803
        addressTypes: Any = None,  # noqa: N803
        transportSemantics: str = "TCP",  # noqa: N803
    ) -> Any:
        """Resolve, dropping addresses that the filter refuses; with none left the connection fails."""
        screen: Any = _Screen(resolutionReceiver, self.addresses, hostName, portNumber)
        return super().resolveHostName(screen, hostName, portNumber, addressTypes, transportSemantics)
