"""How is the gateway? What `GET /health/ready` and the dashboard say of its engines and its ledger."""

from __future__ import annotations

from typing import Any

from gateway.engines.pool import Engines
from gateway.engines.replica import EngineState
from gateway.ledger.ledger import Ledger
from gateway.observe.metrics import Metrics


def health(engines: Engines, ledger: Ledger, metrics: Metrics, *, is_admin: bool) -> dict[str, Any]:
    """The health as JSON. Only an admin sees engines' URLs, and the log's lines about them."""
    missing = engines.missing
    return {
        # The ledger does not count: the gateway serves without Redis, and taking it out of service would help nobody.
        "status": "waiting" if missing else "ready",
        "missing_checkpoints": missing,
        **({"report": engines.report} if is_admin else {}),
        "engines": [
            {**({"url": one.url} if is_admin else {}), **_state(one), "over_cap": metrics.over_cap.get(one.url, 0)}
            for one in engines.states
        ],
        "ledger": ledger.healthy,
        "books": {
            "safe": ledger.safe,
            "pending": ledger.pending,
            "in_memory": ledger.in_memory,
            "lost": ledger.lost,
        },
    }


def _state(engine: EngineState) -> dict[str, Any]:
    return {
        "up": engine.problem is None,
        "serves": engine.serves,
        "problem": engine.problem,
        "action": engine.action,
        "assumed": engine.assumed,
        "caps_hold": engine.caps_hold,
    }
