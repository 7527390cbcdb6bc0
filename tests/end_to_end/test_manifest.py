"""Does a served checkpoint match its manifest? Measured on fresh held-out questions with `laconic-train measure`."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from models.family import Estimate
from tests.end_to_end.conftest import FAMILY_DIR, Stack
from training.cli import app


@pytest.mark.parametrize("alpha", [0.2, 0.4])
def test_a_served_checkpoint_is_as_accurate_and_as_brief_as_its_manifest_claims(stack: Stack, alpha: float) -> None:
    """Four standard errors of the difference are wide, but still narrower than the gap to another checkpoint."""
    name = f"alpha-{alpha:g}"
    arguments = ["measure", str(FAMILY_DIR), "--checkpoint", name, "--served", f"{stack.url}/v1"]
    result = CliRunner().invoke(app, [*arguments, "--seed", "5", "--prompts", "150", "--samples", "1"])
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)["overall"]
    claimed = stack.family.checkpoint(name).frontier.overall
    for figure in ("accuracy", "reasoning_tokens"):
        actual, expected = Estimate.model_validate(measured[figure]), getattr(claimed, figure)
        error = (standard_error(actual) ** 2 + standard_error(expected) ** 2) ** 0.5
        assert abs(actual.mean - expected.mean) < 4 * error, figure


def standard_error(estimate: Estimate) -> float:
    return (estimate.high - estimate.low) / (2 * 1.96)
