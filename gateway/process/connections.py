"""Which connections may stay open? So many in all and from one address; at the limit, one that waits makes room.

A connection waits while it has no complete request in progress: it has said nothing, or half a request, or it is idle
between two requests. Those that never completed a request go first, then those that have waited longest, then those
whose caller does not read its answer. A connection that is being answered is never closed for another one.
"""

from __future__ import annotations

import ipaddress
import resource
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

MARGIN = 64
"""Descriptors for files, Redis and probes, and for connections that are refused."""
MAX_LINGERING = 32
"""Refused connections that are held open until the caller has read why."""


class Connection(Protocol):
    """A connection that can be closed to make room."""

    def evict(self) -> None: ...


@dataclass(eq=False)
class _Group:
    """The open connections of one address, or of all. Those that wait are in order, the longest first."""

    number: int = 0
    silent: OrderedDict[Connection, None] = field(default_factory=OrderedDict[Connection, None])
    """Those that have not completed a request yet."""
    idle: OrderedDict[Connection, None] = field(default_factory=OrderedDict[Connection, None])
    stalled: OrderedDict[Connection, None] = field(default_factory=OrderedDict[Connection, None])
    """Those whose caller does not read what it was sent."""

    def to_close(self) -> Connection | None:
        return next((one for waiting in self._waiting() for one in waiting), None)

    def forget(self, connection: Connection) -> None:
        for waiting in self._waiting():
            waiting.pop(connection, None)

    def _waiting(self) -> tuple[OrderedDict[Connection, None], ...]:
        return (self.silent, self.idle, self.stalled)


class Connections:
    """The open connections of one process."""

    def __init__(self, most: int, most_per_address: int) -> None:
        self._most, self._most_per_address = most, most_per_address
        self._all = _Group()
        self._by_address: dict[str, _Group] = {}
        self._open: dict[Connection, str] = {}
        self._lingering: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def open(self, connection: Connection, address: str) -> bool:
        """Whether a new connection may stay. If there are too many, one that waits is closed for it."""
        group = self._by_address.setdefault(address, _Group())
        for limited, most in ((group, self._most_per_address), (self._all, self._most)):
            if limited.number >= most and not self._make_room(limited):
                if not group.number:
                    self._by_address.pop(address, None)
                return False
        group = self._by_address.setdefault(address, group)  # closing another one may have removed it
        self._open[connection] = address
        for place in (group, self._all):
            place.number += 1
            place.silent[connection] = None
        return True

    def linger(self, connection: Connection) -> bool:
        """Whether a connection that may not stay can be held open for a moment."""
        if len(self._lingering) >= MAX_LINGERING:
            return False
        self._lingering.add(connection)
        return True

    def works(self, connection: Connection) -> None:
        """A complete request of this connection is in progress."""
        for group in self._groups(connection):
            group.silent.pop(connection, None)
            group.idle.pop(connection, None)

    def stalls(self, connection: Connection) -> None:
        """The caller does not read what this connection sends."""
        for group in self._groups(connection):
            group.stalled[connection] = None

    def flows(self, connection: Connection) -> None:
        """The caller reads again."""
        for group in self._groups(connection):
            group.stalled.pop(connection, None)

    def waits(self, connection: Connection) -> None:
        """This connection has no complete request in progress any more."""
        for group in self._groups(connection):
            group.idle[connection] = None
            group.idle.move_to_end(connection)

    def closed(self, connection: Connection) -> None:
        """This connection is closed. A second call does nothing."""
        self._lingering.discard(connection)
        for group in self._groups(connection):
            group.number -= 1
            group.forget(connection)
        address = self._open.pop(connection, None)
        if address is not None and not self._by_address[address].number:
            del self._by_address[address]

    def _make_room(self, group: _Group) -> bool:
        connection = group.to_close()
        if connection is None:
            return False
        self.closed(connection)
        connection.evict()
        return True

    def _groups(self, connection: Connection) -> tuple[_Group, ...]:
        address = self._open.get(connection)
        return () if address is None else (self._by_address[address], self._all)


def address_of(peer: tuple[str, int] | None) -> str:
    """Whose connection it is: the IPv4 address, or the first half of an IPv6 address, which one host has as a whole."""
    if peer is None:
        return ""
    try:
        address = ipaddress.ip_address(peer[0].partition("%")[0])
    except ValueError:
        return peer[0]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else str(ipaddress.IPv6Address(int(address) >> 64 << 64))


def raise_descriptor_limit(max_connections: int, max_concurrency: int) -> None:
    """Let this process open as many descriptors as it needs, as far as the system's hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_connections + _engine_descriptors(max_concurrency)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections_allowed(max_connections: int, max_concurrency: int) -> int:
    """How many connections this process can hold and still reach engines and Redis."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return max_connections
    return max(1, min(max_connections, max(soft - _engine_descriptors(max_concurrency), soft // 4)))


def _engine_descriptors(max_concurrency: int) -> int:
    return 2 * max_concurrency + MARGIN  # an escalation may open a second connection
