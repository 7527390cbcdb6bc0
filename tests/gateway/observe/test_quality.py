"""Do the gauges show the quality of the last week, by source?"""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from gateway.ledger import feedback
from gateway.ledger.ledger import Ledger
from gateway.observe.quality import QualityGauges
from tests.conftest import RedisServer
from tests.gateway.entries import entry
from tests.gateway.fakes import until


async def test_the_gauges_are_of_the_scores_in_redis(redis_server: RedisServer, tmp_path: Path) -> None:
    ledger, registry = Ledger(redis_server.url, tmp_path), CollectorRegistry()
    gauges = QualityGauges(ledger, registry)

    def shown(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"laconic_quality_{name}", {"source": "thumbs", **labels})

    await ledger.start()
    await gauges.measure()
    assert shown("difference") is None
    sample = [entry(time=time.time(), decision=("routed", "holdout")[i % 2], choice="alpha-0.2") for i in range(80)]
    for one in sample:
        ledger.put(one)
    await until(lambda: ledger.pending == 0)
    for i, one in enumerate(sample):
        await feedback.record(ledger.redis, one, "thumbs", float(i % 4 != 0))
    await gauges.measure()
    assert shown("difference") == pytest.approx(-0.5)
    low, high = shown("difference_low"), shown("difference_high")
    assert low is not None
    assert high is not None
    assert -0.7 < low < -0.5 < high < -0.3
    assert (shown("scores", arm="routed"), shown("scores", arm="holdout")) == (40, 40)
    redis_server.client.flushall()
    await gauges.measure()
    assert math.isnan(shown("difference") or 0.0)
    assert shown("scores", arm="routed") == 0
    await ledger.aclose()
