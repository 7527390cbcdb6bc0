"""What does `laconic refit` do? Fits the profile anew on exported entries, compares, and replaces it if that is better.

The earlier part of the scored entries is fitted on, the later part compares. What was compared is what is written: the
new profile as a new file, then the manifest that names it, each atomically, so that a kill leaves the old profile or
the new one.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from models import family as families
from models import profile as profiles
from models.family import Family, FamilyError
from models.features import FEATURES
from models.field import first_error
from models.files import write_text
from models.prediction import Forecast
from models.rule import cheapest_good_enough
from models.stored import ProfileError, StoredProfile, check
from training.errors import StageError
from training.numbers import seed, share
from training.profile import refit
from training.profile.refit import Comparison, Interval, Reading, Row

TRAINING_SHARE = 0.7
MIN_SCORED = 200
"""Fewest scored entries to fit and compare with; 60 of them are compared on."""
MIN_FITTED = 50
"""Fewest of the earlier ones whose thinking no budget ended: only they say what a prompt takes."""
GIVEN_UP = frozenset({"error", "abort"})
"""Finish reasons with which an engine says that it gave up, which is no outcome of the model's. Nor is no reason."""
MOST_ROWS = 20_000
"""So many entries with a score are used, and so many without: the latest."""
EXAMPLES = """examples:
  laconic refit ./my-family                       compare only; nothing is written
  laconic refit ./my-family --replace             write the new profile, if it is better
  laconic refit ./my-family --since 14d --source verifier

The profile is fitted on the earlier 70 % of the entries that have scores, and compared with the one of now on the rest.
It is better if its Brier score is lower with 95 % confidence. A gateway reads it again on SIGHUP."""


class _Entry(BaseModel):
    """What is read of an exported entry."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)
    time: float
    checkpoint: str
    decision: str
    choice: str
    budget: int | None
    choices: int
    reasoning_tokens: int
    status: int
    assumed: bool
    finish_reason: str
    answered: bool = True
    forecasts: dict[str, Forecast]
    counts: tuple[int, ...] = ()
    easiness: float = 0.0
    scores: dict[str, float] = {}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exit with 2 if something cannot be used, with 1 if a profile is not replaced that was to be."""
    parsed = _parser().parse_args(arguments)
    try:
        replaced = _refit(parsed)
    except (StageError, FamilyError, ProfileError) as error:
        sys.stderr.write(f"laconic refit: {error}\n")
        sys.exit(2)
    if parsed.replace and not replaced:
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="laconic refit",
        description="Fit a family's difficulty profile anew on the ledger's outcomes, and say whether it is better.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("family", type=Path, help="the family's directory")
    parser.add_argument("--entries", type=Path, required=True, help="what `laconic export` wrote, as JSONL")
    parser.add_argument("--source", metavar="NAME", help="whose scores; default: the source with the most")
    parser.add_argument("--quality-tolerance", type=share, default=0.005, metavar="X", help="as in `laconic serve`")
    parser.add_argument("--seed", type=seed, metavar="N", default=0, help="for folds and trees; default: 0")
    parser.add_argument("--replace", action="store_true", help="replace the profile, if the new one is better")
    return parser


def _refit(parsed: argparse.Namespace) -> bool:
    """Fit, compare and print. Returns whether the profile was replaced."""
    directory: Path = parsed.family
    family = families.load(directory, verify=False)
    path = directory / family.profile
    stored = profiles.read(path)
    check(stored)
    source, entries = _read(parsed.entries, parsed.source)
    before = Reading(stored)
    rows, others = usable(entries, source, family, before)
    scored = sum(row.score is not None for row in rows)
    print(f"{len(rows):,} entries can be used, {scored:,} with a score from {source or 'nobody'}; {others:,} cannot.")
    if scored < MIN_SCORED:
        raise StageError(f"{scored} scored entries are too few; {MIN_SCORED} are needed")
    cut = refit.earlier(rows, TRAINING_SHARE)
    fitted = refit.fitted_on(rows[: refit.earlier(rows[:cut], refit.CHOOSING_SHARE)])
    if fitted < MIN_FITTED:
        raise StageError(
            f"{fitted} of the earlier scored entries thought without being ended by a budget, too few to fit on;"
            f" {MIN_FITTED} are needed"
        )
    briers = refit.cross_validated(stored, rows[:cut], parsed.seed)
    name = min(briers, key=briers.__getitem__)
    after = refit.candidates(stored, rows[:cut], parsed.seed)[name]
    tolerance: float = parsed.quality_tolerance
    compared = refit.compare(before, after, rows[cut:], lambda one: cheapest_good_enough(one, tolerance))
    print("\n".join(_lines(name, compared)))
    if not parsed.replace:
        return False
    if compared.verdict != "better":
        print("The profile stays as it is.")
        return False
    if any(floor.is_certified for floor in stored.floors or ()):
        print("The profile stays as it is: its quality floors are certified for itself only. Adopt the model again.")
        return False
    new = replace(directory, family, after.stored)
    print(f"{directory} uses {new} now; {family.profile} is left there. Send the gateway SIGHUP to read it.")
    return True


def _read(path: Path, source: str | None) -> tuple[str | None, list[_Entry]]:
    """The latest exported entries in the order of arrival, and the source with the most scores unless one is named.

    A ledger may have a million entries, of which few have scores. So those are kept first, and the file is never in
    memory as a whole.

    Raises:
        StageError: the file cannot be read.
    """
    if source is None and (counts := Counter(name for entry in _entries(path) for name in entry.scores)):
        source = counts.most_common(1)[0][0]
    latest: dict[bool, list[tuple[float, int, _Entry]]] = {True: [], False: []}
    for number, entry in enumerate(_entries(path)):
        kept = latest[source in entry.scores]
        push = heapq.heappush if len(kept) < MOST_ROWS else heapq.heappushpop
        push(kept, (entry.time, number, entry))
    return source, [entry for *_, entry in sorted(latest[True] + latest[False])]


def _entries(path: Path) -> Iterator[_Entry]:
    try:
        with path.open() as file:
            for number, line in enumerate(file, 1):
                try:
                    yield _Entry.model_validate_json(line)
                except ValidationError as error:
                    raise StageError(f"{path}: line {number}: {': '.join(first_error(error))}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{path}: cannot be read ({error})") from None


def usable(entries: Sequence[_Entry], source: str | None, family: Family, before: Reading) -> tuple[list[Row], int]:
    """The entries as rows, and how many cannot be used.

    One can be used if it was asked for one answer and counted, also where its length ended before the answer came, and
    if the profile of now predicts of it what was recorded: otherwise another profile read its prompt, or another limit
    applied.
    """
    names = {checkpoint.name for checkpoint in family.checkpoints}
    rows = [row for entry in entries if (row := _row(entry, source, names, before)) is not None]
    return rows, len(entries) - len(rows)


def _row(entry: _Entry, source: str | None, names: set[str], before: Reading) -> Row | None:
    served = entry.choice if entry.decision == "routed" else entry.checkpoint
    gave_up = entry.finish_reason in GIVEN_UP or not (entry.finish_reason or entry.answered)
    ended = entry.status == 200 and not entry.assumed and not gave_up
    whole = ended and entry.choices == 1 and entry.checkpoint in names
    if not whole or len(entry.counts) != len(FEATURES) or served not in entry.forecasts:
        return None
    row = Row(
        time=entry.time,
        checkpoint=entry.checkpoint,
        served=served,
        counts=entry.counts,
        easiness=entry.easiness,
        limit=entry.budget,
        tokens=entry.reasoning_tokens,
        score=None if source is None else entry.scores.get(source),
        forecast=entry.forecasts[served],
    )
    expected = before.choices(row).get(served)
    if expected is None or abs(expected.p_correct_within(row.limit) - row.forecast.success) > 0.002:
        return None
    unlimited = expected.expected_tokens()
    return row if abs(unlimited - row.forecast.unlimited_tokens) <= 0.01 * unlimited + 0.01 else None


def _lines(name: str, compared: Comparison) -> list[str]:
    """The comparison in words."""

    def interval(one: Interval, digits: int) -> str:
        return f"{one.mean:+.{digits}f} ({one.low:+.{digits}f} to {one.high:+.{digits}f})"

    verdict = {
        "better": "The new profile is better",
        "worse": "The new profile is worse",
        "not shown": "The new profile is not shown to be better",
    }[compared.verdict]
    return [
        f"{verdict} ({name}, on {compared.scored:,} later scored entries):",
        f"  Brier score {compared.brier:.4f} instead of {compared.brier_before:.4f}",
        f"  improvement {interval(compared.improvement, 4)}, with its 95 % interval",
        f"  tokens of what it would choose {compared.tokens:,.1f}, {interval(compared.tokens_change, 1)} against now",
        f"  expected success of that {interval(compared.success_change, 4)} against now",
    ]


def replace(directory: Path, family: Family, stored: StoredProfile) -> str:
    """Write the profile and then the manifest that names it. Returns the profile's name in the directory."""
    text = json.dumps(stored.model_dump(mode="json")) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    name = str(Path(family.profile).with_name(f"profile-{digest[:12]}.json"))
    check(stored)
    write_text(directory / name, text)
    files: dict[str, Any] = {path: sha for path, sha in family.files.items() if path != family.profile}
    families.save(family.model_copy(update={"profile": name, "files": files | {name: digest}}), directory)
    return name


if __name__ == "__main__":
    main()
