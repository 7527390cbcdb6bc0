"""Does a served checkpoint do what its manifest claims? Fresh held-out questions, by the command a reader would use."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from models.family import Estimate
from tests.end_to_end.conftest import FAMILY_DIR, Stack
from training.cli import app


@pytest.mark.parametrize("alpha", [0.2, 0.4])
def test_a_served_checkpoint_is_as_right_and_as_brief_as_the_manifest_claims(stack: Stack, alpha: float) -> None:
    """Both means are uncertain; four standard errors of their difference are far, and another checkpoint is farther."""
    name = f"alpha-{alpha:g}"
    arguments = ["measure", str(FAMILY_DIR), "--checkpoint", name, "--served", f"{stack.url}/v1"]
    result = CliRunner().invoke(app, [*arguments, "--seed", "5", "--prompts", "150", "--samples", "1"])
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)["overall"]
    claimed = stack.family.checkpoint(name).frontier.overall
    for figure in ("accuracy", "reasoning_tokens"):
        own, theirs = Estimate.model_validate(measured[figure]), getattr(claimed, figure)
        error = (standard_error(own) ** 2 + standard_error(theirs) ** 2) ** 0.5
        assert abs(own.mean - theirs.mean) < 4 * error, figure


def standard_error(estimate: Estimate) -> float:
    return (estimate.high - estimate.low) / (2 * 1.96)
