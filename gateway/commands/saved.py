"""How much money do `laconic savings` and its sentences show? Read from the ledger, at the prices of now."""

from __future__ import annotations

from redis.asyncio import Redis

from gateway.commands import terminal
from gateway.config import Settings
from gateway.ledger import shadows
from gateway.ledger.ledger import LedgerSnapshot, read_books
from gateway.ledger.money import MAX_UNPRICED, SavedMoney, compute_money
from gateway.ledger.savings import By
from models import family as families


async def read_saved(
    redis: Redis, settings: Settings, since: float, by: By
) -> tuple[LedgerSnapshot, SavedMoney | None]:
    """The ledger from the hour of `since` (Unix seconds) on, and what was spent and saved; None without prices.

    Raises:
        PricesError, FamilyError: the prices cannot be used.
        RedisError, OSError: Redis is down.
    """
    prices = terminal.load_prices(settings)
    snapshot, lines = await read_books(redis, since, priced=prices is not None)
    if prices is None:
        return snapshot, None
    spent = [one.spent for one in await shadows.read(redis, snapshot.since_hour * 3600.0)]
    reference = families.load(settings.family, verify=False).reference
    return snapshot, compute_money(lines, snapshot.holdouts, prices, reference, by=by, shadows=spent)


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
    if total.unpriced_tokens:
        lines.append(
            f"{total.unpriced_tokens:,} tokens are of checkpoints without a price, and in no amount. With more than"
            f" {MAX_UNPRICED:.0%} of them, money is not measured."
        )
    if money.shadows or money.judge:
        judge = "; the judge has no price" if money.judge is None else f", and the judge {money.judge:,.4f}"
        lines.append(f"Comparing with the reference in the background cost {money.shadows:,.4f} {currency}{judge}.")
    return lines
