"""What does `laconic refit` need of the gateway? The ledger's entries with their scores, in a file for the fit.

The fit itself is a program of its own, because the gateway and the training job never import each other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from redis.asyncio import Redis

from gateway.commands import export, terminal
from gateway.config import ConfigError
from gateway.ledger import feedback, ledger

EXAMPLES = """examples:
  laconic refit ./my-family                       compare only; nothing is written
  laconic refit ./my-family --since 14d --source verifier
  laconic refit ./my-family --replace             write the new profile, if it is better
  kill -HUP $(cat ~/.local/state/laconic/lock)    let the running gateway read it

The earlier 70 % of the scored entries are fitted on, and the rest compares the new profile with the one of now. It is
better if its Brier score, the mean squared error of predicted success, is lower with 95 % confidence."""


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = terminal.command_parser(
        "refit",
        "Fit a family's difficulty profile anew on the ledger's outcomes, and say whether it is better.",
        EXAMPLES,
    )
    parser.add_argument("family", type=Path, help="the family's directory")
    terminal.add_redis(parser)
    terminal.add_since(parser)
    parser.add_argument("--source", metavar="NAME", help="whose scores; default: the source with the most")
    parser.add_argument("--quality-tolerance", metavar="X", help="tolerance to compare the cost at")
    parser.add_argument("--seed", type=int, default=0, help="for folds and trees; default: 0")
    parser.add_argument("--replace", action="store_true", help="replace the profile, if the new one is better")
    parsed = parser.parse_args(arguments)
    if missing := [name for name in ("matplotlib", "sklearn") if find_spec(name) is None]:
        raise ConfigError(f"{missing[0]} is not installed; install it with: pip install 'laconic-gateway[adopt]'")
    settings = terminal.load_settings(parsed, "redis", "state_dir", "config", "quality_tolerance")

    with tempfile.TemporaryDirectory(prefix="laconic-refit-") as directory:  # only its owner may read it
        entries = Path(directory) / "entries.jsonl"
        write = export.writer(entries)

        async def export_entries(redis: Redis) -> int:
            since = terminal.window_start(parsed)
            scores = {one.id: one.scores async for one in feedback.read_requests(redis, since)}
            return await write(ledger.read_entries(redis, since), scores)

        terminal.with_redis("refit", settings, export_entries)
        # Not as `__main__`, in whose place the annotations of its classes would be looked up in vain.
        import_module("training.refit").main([
            str(parsed.family), f"--entries={entries}", f"--quality-tolerance={settings.quality_tolerance}",
            f"--seed={parsed.seed}", *([f"--source={parsed.source}"] if parsed.source else []),
            *(["--replace"] if parsed.replace else []),
        ])  # fmt: skip
