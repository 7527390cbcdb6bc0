"""How much money do `laconic savings` and its sentences show? Read from the ledger, at the prices of now."""

from __future__ import annotations

from redis.asyncio import Redis

from gateway.commands import terminal
from gateway.config import Settings
from gateway.ledger import shadows
from gateway.ledger.ledger import LedgerSnapshot, read_usage
from gateway.ledger.money import SavedMoney, compute_money
from gateway.ledger.savings import By
from models import family as families


async def saved_money(redis: Redis, settings: Settings, snapshot: LedgerSnapshot, by: By) -> SavedMoney | None:
    """What was spent and saved; None without prices.

    Raises:
        PricesError, FamilyError: the prices cannot be used.
        RedisError, OSError: Redis is down.
    """
    prices = terminal.load_prices(settings)
    if prices is None:
        return None
    since = snapshot.since_hour * 3600.0
    spent = [one.spent for one in await shadows.read(redis, since)]
    reference = families.load(settings.family, verify=False).reference
    lines = await read_usage(redis, since)
    return compute_money(lines, snapshot.holdouts, prices, reference, by=by, shadows=spent)


def money_sentences(money: SavedMoney | None) -> list[str]:
    """The money in words: by group, in total, measured, and what comparing cost."""
    if money is None:
        return []
    total, currency = money.total, money.currency
    expected = f"{total.saved:,.4f} saved of {total.reference:,.4f} that the reference was expected to cost"
    lines = [
        f"In {currency}: {expected}; all requests cost {total.total:,.4f}.",
        *(f"  {name}: {one.saved:,.4f} saved of {one.reference:,.4f}" for name, one in money.groups.items()),
    ]
    if (measured := total.measured) is not None:
        lines.append(
            f"Measured against the holdout, over {measured.requests:,} requests: {measured.saved:,.4f} {currency} saved"
            f" (95 % interval {measured.low:,.4f} to {measured.high:,.4f})."
        )
    if money.shadows or money.judge:
        judge = "; the judge has no price" if money.judge is None else f", and the judge {money.judge:,.4f}"
        lines.append(f"Comparing with the reference in the background cost {money.shadows:,.4f} {currency}{judge}.")
    return lines
