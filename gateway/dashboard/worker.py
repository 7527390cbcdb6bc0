"""Which process computes the dashboard's figures? This one: orders come by standard input, overviews leave by output.

    python -m gateway.dashboard.worker      one order a line, one overview a line, both JSON; it ends with its input

It is a process of its own because a large ledger takes seconds to parse and to sum, most of them in calls that hold the
interpreter's lock. In a thread of the gateway, every stream would wait for those (decision 67).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass

from pydantic import TypeAdapter
from redis.exceptions import RedisError

from gateway.dashboard import reader
from gateway.dashboard.figures import MAX_KEYS, Setting, Window, overview

UNREACHABLE = b"unreachable: "
"""What a line begins with that says why Redis does not answer, instead of an overview."""
NICE = 10


@dataclass(frozen=True)
class Order:
    """What is to be computed. It has Redis' password, so it is not an argument, which others could read."""

    redis_url: str
    window: Window
    since: float
    """Unix seconds, like `now`."""
    now: float
    setting: Setting


ORDER = TypeAdapter(Order)


def answer(line: bytes) -> bytes:
    """The overview that a line orders, or why there is none: one line."""
    order = ORDER.validate_json(line)
    limited = [key.name for key in order.setting.keys if key.has_limits or key.money][:MAX_KEYS]
    try:
        priced = order.setting.prices is not None
        reading = asyncio.run(reader.read(order.redis_url, order.since, limited, priced=priced))
    except (RedisError, OSError) as error:
        return UNREACHABLE + " ".join(f"{type(error).__name__}: {error}".split()).encode()
    figures = overview(reading, order.setting, order.window, order.now)
    return json.dumps(figures, ensure_ascii=False, allow_nan=False).encode()


def main() -> None:
    """Answer orders until the gateway closes the input, which it also does when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the gateway
    os.nice(NICE)
    logging.getLogger("gateway.ledger").setLevel(
        logging.ERROR
    )  # or each unreadable entry would be logged again and again
    gc.disable()  # of millions of cells, none is garbage before the overview is done
    with contextlib.suppress(BrokenPipeError):
        for line in sys.stdin.buffer:
            sys.stdout.buffer.write(answer(line) + b"\n")
            sys.stdout.buffer.flush()
            gc.collect()


if __name__ == "__main__":
    main()
