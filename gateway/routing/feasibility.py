"""Is a budget large enough for this prompt, and if not, which one would be? Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping

from gateway.errors import BadRequestError
from gateway.request.budget import Budget, least_max_tokens
from gateway.routing.rule import RoutingRequest
from models.prediction import ChoicePrediction

FEASIBLE_SHARE = 0.5
"""A feasible budget leaves at least this share of the best success that is possible without a budget."""


def require_feasible(request: RoutingRequest, budget: Budget, max_tokens_field: str) -> None:
    """Enforce the policy `reject`.

    Args:
        max_tokens_field: the field by which the caller limits the completion.

    Raises:
        BadRequestError: the policy is `reject`, and the budget or what `max_tokens` leaves of it is too small; names
            the smallest that is feasible.
    """
    if budget.policy != "reject" or (smallest := smallest_for(request, budget)) is None:
        return
    who = "No checkpoint is" if request.pinned is None else f"{request.pinned} is not"
    own = None if budget.is_open else budget.tokens
    asked = own if budget.asked is None else budget.asked
    if asked is not None and asked < smallest:
        raise BadRequestError(
            f"{who} predicted to answer within {asked} reasoning tokens; the smallest feasible budget is {smallest}.",
            budget.param,
            "budget_infeasible",
        )
    least = least_max_tokens(smallest, budget.answer_tokens)
    raise BadRequestError(
        f"{who} predicted to answer within the {budget.left_by_max_tokens} reasoning tokens that {max_tokens_field}"
        f" leaves beside an answer; the smallest feasible {max_tokens_field} is {least}.",
        max_tokens_field,
        "budget_infeasible",
    )


def smallest_for(request: RoutingRequest, budget: Budget) -> int | None:
    """The smallest feasible budget if this one is too small; None if it is feasible, unlimited, or not predicted.

    Without a budget, what `max_tokens` leaves is one.
    """
    prediction = request.usable_prediction
    limit = budget.left_by_max_tokens if budget.tokens is None else budget.tokens
    if prediction is None or limit is None:
        return None
    predictions = {
        name: p for name, p in prediction.choices.items() if name in request.allowed and request.pinned in (None, name)
    }
    return smallest_feasible(predictions, limit) if predictions else None


def smallest_feasible(predictions: Mapping[str, ChoicePrediction], budget: int) -> int | None:
    """The smallest budget that keeps `FEASIBLE_SHARE` of the best unlimited success; None if `budget` does."""
    needed = FEASIBLE_SHARE * max(p.p_correct for p in predictions.values())

    def feasible(tokens: int) -> bool:
        return any(p.p_correct_within(tokens) >= needed for p in predictions.values())

    if feasible(budget):
        return None
    enough = min(math.ceil(p.tokens[-1]) for p in predictions.values() if p.p_correct >= needed)
    # Success never falls as the budget grows.
    return budget + bisect_left(range(budget, enough), True, key=feasible)
