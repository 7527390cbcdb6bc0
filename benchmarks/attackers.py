"""Which attacks on a gateway are there? Each runs for some seconds against a running one.

    python -m benchmarks.attackers NAME URL --key SECRET --seconds 8

`benchmarks.attacks` runs each of them, and measures what another caller notices.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks import load
from benchmarks.upstream import DRIBBLE, ENDLESS_BODY, ENDLESS_EVENT, IDLE

PIECE = b"x: " + b"y" * 1021 + b"\r\n"
MAX_BODY = 1_048_576
RECONNECT_SECONDS = 0.05
"""How long an attacker waits after it was disconnected. Without a pause it would measure the machine's cores."""


@dataclass(frozen=True)
class Place:
    """Where the gateway is, and the attacker's key."""

    url: str
    key: str

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 80

    def chat(self, *, stream: bool = True, seed: int | None = None) -> bytes:
        more = {} if seed is None else {"seed": seed}
        (request,) = load.requests(self.url, ["What is 12 + 35 - 8?"], stream=stream, key=self.key, **more)
        return request

    def head(self, length: int) -> bytes:
        head, _, _ = self.chat().partition(b"content-length")
        return head + b"content-length: %d\r\n\r\n" % length


Attack = Callable[[Place], Awaitable[None]]


async def headers(place: Place) -> None:
    """400 MB of header lines on one connection."""
    await _send(place, b"GET /health/live HTTP/1.1\r\n", [PIECE] * 400_000)


async def header(place: Place) -> None:
    """One header of 64 MB."""
    await _send(place, b"GET /health/live HTTP/1.1\r\nx: ", [b"y" * 65_536] * 1_000)


async def idle_connections(place: Place) -> None:
    """2,500 connections that send nothing, or half a head."""
    await asyncio.gather(*(_hold(place, b"GET /health/live HTTP/1.1\r\n" * (number % 2)) for number in range(2_500)))


async def slots(place: Place) -> None:
    """256 connections that send one byte of a body."""
    await asyncio.gather(*(_hold(place, place.head(1_000) + b"{") for _ in range(256)))


async def bodies(place: Place) -> None:
    """500 connections that send all but the last byte of the largest body."""
    body = place.head(MAX_BODY) + b"{" + b" " * (MAX_BODY - 2)
    await asyncio.gather(*(_hold(place, body) for _ in range(500)))


async def streams(place: Place) -> None:
    """600 requests of one key, whose answers never end."""
    await asyncio.gather(*(_hold(place, place.chat(seed=IDLE)) for _ in range(600)))


async def endless_answers(place: Place) -> None:
    """8 non-streaming requests whose answers never end."""
    await asyncio.gather(*(_hold(place, place.chat(stream=False, seed=ENDLESS_BODY)) for _ in range(8)))


async def endless_events(place: Place) -> None:
    """8 streams with an event that never ends."""
    await asyncio.gather(*(_hold(place, place.chat(seed=ENDLESS_EVENT)) for _ in range(8)))


async def dribbled_headers(place: Place) -> None:
    """100 requests whose engine sends a byte of its header every tenth of a second."""
    await asyncio.gather(*(_hold(place, place.chat(seed=DRIBBLE)) for _ in range(100)))


async def wrong_keys(place: Place) -> None:
    """32 connections that guess keys as fast as they are refused."""
    request = Place(place.url, "sk-laconic-guess").chat()

    async def guess() -> None:
        times = load.Times()
        caller = load.Caller(place.url, times, stream=False)
        while True:
            await caller.ask(request)

    await asyncio.gather(*(guess() for _ in range(32)))


ATTACKS: dict[str, Attack] = {
    attack.__name__: attack
    for attack in (
        headers,
        header,
        idle_connections,
        slots,
        bodies,
        streams,
        endless_answers,
        endless_events,
        dribbled_headers,
        wrong_keys,
    )
}


async def _send(place: Place, start: bytes, pieces: list[bytes]) -> None:
    reader, writer = await asyncio.open_connection(*place.address)
    try:
        writer.write(start)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        await reader.read()
    finally:
        writer.close()


async def _hold(place: Place, data: bytes) -> None:
    """Send data, and read whatever comes until the gateway closes the connection."""
    reader, writer = await asyncio.open_connection(*place.address)
    try:
        writer.write(data)
        while await reader.read(65_536):
            pass
    finally:
        writer.close()


async def run(attack: Attack, place: Place, seconds: float) -> int:
    """Repeat an attack for some seconds. Returns how often it was begun."""
    began, turns = time.monotonic(), 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while time.monotonic() - began < seconds:
                turns += 1
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    await attack(place)
                await asyncio.sleep(RECONNECT_SECONDS)
    return turns


def main() -> None:
    """Run one attack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=ATTACKS)
    parser.add_argument("url", help="up to /v1")
    parser.add_argument("--key", default="")
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()
    place = Place(arguments.url, arguments.key)
    print(asyncio.run(run(ATTACKS[arguments.name], place, arguments.seconds)))


if __name__ == "__main__":
    main()
