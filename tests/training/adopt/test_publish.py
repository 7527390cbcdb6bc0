"""Does the card say plainly whether the profile knows anything?"""

from __future__ import annotations

import pytest

from training.adopt.publish import verdict

BETTER = {"log_loss": 0.30, "log_loss_constant": 0.32, "auc": 0.6}
WORSE = {"log_loss": 0.33, "log_loss_constant": 0.32, "auc": 0.4}


@pytest.mark.parametrize(
    ("report", "knows"),
    [
        ({"max": BETTER, "off": WORSE}, True),
        ({"max": WORSE, "off": WORSE}, False),
        ({"max": WORSE | {"log_loss": 0.32}}, False),
        ({"max": {}}, False),  # every answer was right: there is nothing to tell apart
    ],
)
def test_a_profile_that_is_no_better_than_a_constant_is_said_to_know_nothing(
    report: dict[str, dict[str, float]], knows: bool
) -> None:
    assert ("knows nothing" in verdict(report)) is not knows
