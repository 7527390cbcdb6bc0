"""Does the health say what is wrong, and to admins alone where?"""

from __future__ import annotations

from gateway.observe.health import health
from tests.gateway.fakes import FakeEngine, Gateway


async def test_only_an_admin_sees_urls_and_reports(gateway: Gateway, engine: FakeEngine) -> None:
    engine.serves.remove("abacus/alpha-0.1")
    await gateway.probe()
    services = gateway.services
    services.metrics.over_cap[engine.url] = 3
    admins = health(services.engines, services.ledger, services.metrics, is_admin=True)
    everybodys = health(services.engines, services.ledger, services.metrics, is_admin=False)
    assert (admins["status"], admins["missing_checkpoints"]) == ("waiting", ["alpha-0.1"])
    assert admins["engines"][0] == {"url": engine.url, **everybodys["engines"][0]}
    assert everybodys["engines"][0]["over_cap"] == 3
    assert any("alpha-0.1" in line for line in admins["report"])
    assert "report" not in everybodys
    assert engine.url not in str(everybodys)


async def test_it_says_how_the_ledger_is(gateway: Gateway) -> None:
    services = gateway.services
    said = health(services.engines, services.ledger, services.metrics, is_admin=False)
    assert said["status"] == "ready"
    assert said["ledger"] is True
    assert said["books"] == {"safe": True, "pending": 0, "in_memory": 0, "lost": 0}
