"""Which replica has a conversation in its prefix cache? Rendezvous hashing with bounded load; pure.

Every replica gets a score for the conversation, and the highest is asked first (Thaler and Ravishankar, 1998). If a
replica comes or goes, only the conversations that it gets or had move. All gateways agree without asking each other.

One that already has more than its share of the requests in flight is passed over (Mirrokni et al., arXiv 1608.01350):

    most = ceil(LOAD_FACTOR * mean) + SLACK,   mean = (requests in flight + 1) / replicas
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

LOAD_FACTOR, SLACK = 1.25, 1


class Loaded(Protocol):
    """What can be asked."""

    @property
    def url(self) -> str:
        """Tells it from others, for all gateways alike."""
        ...

    @property
    def in_flight(self) -> int:
        """Requests of this process that it is answering."""
        ...


Replica = TypeVar("Replica", bound=Loaded)


def in_order(replicas: Sequence[Replica], conversation: str) -> list[Replica]:
    """The replicas in the order in which to try them; at least one. Those that are too busy come last, as they were."""
    mean = (sum(replica.in_flight for replica in replicas) + 1) / len(replicas)
    most = math.ceil(LOAD_FACTOR * mean) + SLACK
    free = [replica for replica in replicas if replica.in_flight < most]
    busy = [replica for replica in replicas if replica.in_flight >= most]
    return [*sorted(free, key=lambda replica: score(replica.url, conversation), reverse=True), *busy]


def score(url: str, conversation: str) -> bytes:
    """How well a replica suits a conversation: a hash of both."""
    return hashlib.blake2b(f"{conversation} {url}".encode(), digest_size=8).digest()
