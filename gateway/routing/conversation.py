"""When does a conversation change its checkpoint? The routing rule with the price of a lost prefix cache; pure.

An engine keeps the keys and values of a prompt for each checkpoint apart. A turn that goes to another checkpoint than
the last one computes the whole prompt again:

    cost(c) = expected reasoning tokens of c + PROMPT_PRICE * cached prompt tokens, if c does not share the cache

The rule is that of `models.rule`, with this cost: of the choices whose success is within the tolerance of the best,
the one with the least cost. So a conversation moves when the checkpoint that it has is not good enough for this turn,
or when that saves more than the cache is worth. It also moves up after a turn that needed more than was expected. Up is
to a choice that is expected to think longer without a limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from models.family import Family
from models.prediction import Forecast, Prediction
from models.profile import Profile
from models.rule import cheapest_good_enough, good_enough

PROMPT_PRICE = 0.1
"""What computing a cached prompt token again costs, in generated tokens. By the list prices of OpenAI, Anthropic and
DeepSeek (November 2026) it is 0.1 to 0.2."""

Move = Literal["none", "begun", "kept", "moved_up", "moved_down"]
"""What became of the conversation's checkpoint. `none`: the request belongs to no conversation, or was not routed."""


@dataclass(frozen=True)
class LastTurn:
    """What is remembered of a conversation."""

    checkpoint: str
    """The checkpoint whose answer the caller got."""
    cached_tokens: int
    """The prompt tokens that its engine has in its cache, as far as is known."""
    strained: bool = False
    """The turn needed more than was expected: the budget ended its thinking."""


@dataclass(frozen=True)
class Continuation:
    """What the rule chooses for a conversation."""

    choice: str
    move: Move
    reason: str


def shares_cache(family: Family, one: str, other: str) -> bool:
    """Whether a prompt that one checkpoint has seen is in the engine's cache for the other.

    Levels of one served model share it, unless the manifest puts another system prompt before the caller's messages.
    """
    first, second = family.checkpoint(one), family.checkpoint(other)
    return one == other or (
        family.engine_name(one) == family.engine_name(other) and first.overrides.system == second.overrides.system
    )


def choose(
    family: Family,
    forecasts: Mapping[str, Forecast],
    starts: Mapping[str, str],
    tolerance: float,
    last: LastTurn,
) -> Continuation:
    """What answers the next turn.

    Args:
        forecasts: by choice, at least one.
        starts: by choice, the checkpoint that gets the request first.
        tolerance: how much predicted success a cheaper choice may give up, in [0, 1].
        last: the turn before; its checkpoint is one of the family's.
    """
    warm = {name for name, start in starts.items() if shares_cache(family, start, last.checkpoint)}
    lost = PROMPT_PRICE * last.cached_tokens
    good = good_enough(forecasts, tolerance)
    raised = _more_careful(forecasts, good, last) if last.strained else {}

    def cost(name: str) -> tuple[float, float]:
        forecast = forecasts[name]
        return forecast.cost + (0.0 if name in warm else lost), forecast.unlimited_tokens

    choice = min(raised or good, key=cost)
    if raised:
        return Continuation(
            choice, "moved_up", f"moved up, because the budget ended the last turn's thinking: {choice}"
        )
    stays = [name for name in good if name in warm]
    cache = f"{last.cached_tokens} cached prompt tokens, worth {lost:.0f}"
    if choice not in warm:
        if not stays:
            move, where = _direction(forecasts, choice, last, "moved_up")
            return Continuation(choice, move, f"{where}: {last.checkpoint} is not good enough for this turn")
        saved = min(forecasts[name].cost for name in stays) - forecasts[choice].cost
        move, where = _direction(forecasts, choice, last, "moved_down")
        return Continuation(choice, move, f"{where}: that saves {saved:.0f} tokens and loses {cache}")
    cheapest = cheapest_good_enough(forecasts, tolerance)
    if cheapest in warm:
        return Continuation(choice, "kept", f"kept: {last.checkpoint} answered the last turn")
    saved = forecasts[choice].cost - forecasts[cheapest].cost
    return Continuation(choice, "kept", f"kept: {cheapest} would save {saved:.0f} tokens and lose {cache}")


def _direction(forecasts: Mapping[str, Forecast], choice: str, last: LastTurn, otherwise: Move) -> tuple[Move, str]:
    """Whether the choice thinks longer or less than the last turn's checkpoint, also in words.

    `otherwise` is for a choice that thinks as long, and for a checkpoint that has no forecast.
    """
    held, chosen = forecasts.get(last.checkpoint), forecasts[choice].unlimited_tokens
    move: Move = otherwise
    if held is not None and chosen != held.unlimited_tokens:
        move = "moved_up" if chosen > held.unlimited_tokens else "moved_down"
    return move, move.replace("_", " ")


def _more_careful(
    forecasts: Mapping[str, Forecast], good: Mapping[str, Forecast], last: LastTurn
) -> dict[str, Forecast]:
    """Of the good choices, those that think longer than the last turn's checkpoint and are expected to do no worse."""
    kept = forecasts.get(last.checkpoint)
    if kept is None:
        return {}
    return {
        name: forecast
        for name, forecast in good.items()
        if forecast.unlimited_tokens > kept.unlimited_tokens and forecast.success >= kept.success
    }


def predict(profile: Profile, prompt: str | None, context: Sequence[str]) -> Prediction | None:
    """What the profile predicts for a turn; None if the turn is not plain text.

    Args:
        prompt: the last user turn.
        context: earlier user turns that it may refer to, the latest last.
    """
    if prompt is None:
        return None
    alone = profile.predict(prompt)
    return harder(alone, profile.predict("\n".join((*context, prompt)))) if context else alone


def harder(alone: Prediction, in_context: Prediction) -> Prediction:
    """Of the predictions for a turn alone and in its context, the one that expects less success; the familiar one if
    the profile knows only one of them."""
    if alone.familiar != in_context.familiar:
        return alone if alone.familiar else in_context
    return in_context if in_context.failure > alone.failure else alone
