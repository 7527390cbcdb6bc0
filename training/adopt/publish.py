"""What does an adopted family consist of? Manifest, profile, card and plot: kilobytes, and no weights."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models import family as families
from models.encoder import Encoder
from models.family import Checkpoint, Estimate, Family, Measurements
from models.files import atomic_directory, hash_files, write_text
from models.floor import Floor
from models.profile import Profile
from training.adopt.assess import Replies
from training.adopt.cost import split
from training.adopt.crossval import Comparison
from training.adopt.levels import Level
from training.adopt.measure import Plan
from training.adopt.probe import Facts
from training.measure.figures import summarise
from training.profile import compared, enough, fit, kept
from training.publish import plots
from training.tasks.outcome import BudgetForced, Graded

ANSWER_QUANTILE = 0.95


@dataclass(frozen=True)
class Adopted:
    """A measured model, ready to be published."""

    name: str
    description: str
    plan: Plan
    facts: Facts
    context_tokens: int
    reference: str
    outcomes: Mapping[str, Sequence[Graded]]
    """By level, the one that thinks longest first."""
    replies: Replies
    routed: Comparison
    """The routed choice, beside the reference."""
    tolerance: float | None
    """At which it was routed; None: the floor that was asked for is not certified, and the reference served."""
    floors: Sequence[Floor]
    encoder: Encoder | None
    """Weighed up as a reader of prompts."""
    label: str
    command: str
    """The command that adopts it again."""

    @property
    def levels(self) -> dict[str, Level]:
        return {level.name: level for level in self.plan.levels}


def family_name(model: str) -> str:
    """A family's name from a model's: `qwen3-8b` for `Qwen/Qwen3-8B`."""
    return re.sub(r"[^a-z0-9._-]+", "-", model.rpartition("/")[2].lower()).strip("-._")[:64] or "family"


def longest_first(outcomes: Mapping[str, Sequence[Graded]]) -> dict[str, Sequence[Graded]]:
    """The outcomes in the order of a manifest's checkpoints, by mean reasoning tokens."""
    ordered = sorted(outcomes.items(), key=lambda item: -float(np.mean([row.reasoning_tokens for row in item[1]])))
    return dict(ordered)


def budget_forced(levels: Sequence[Level], outcomes: Mapping[str, Sequence[Graded]]) -> dict[str, list[BudgetForced]]:
    """What is known of answers after thinking that a budget ended: those of the same model's levels with a budget.

    A reply that thought up to its level's budget says how another level of the model would have done under that budget.
    """
    known: dict[str, list[BudgetForced]] = {level.name: [] for level in levels}
    for capped in levels:
        if capped.budget is None:
            continue
        ended = [
            BudgetForced(row.prompt, capped.budget, outcome.correct)
            for row in outcomes[capped.name]
            for outcome in row.outcomes
            if outcome.reasoning_tokens >= capped.budget
        ]
        for other in levels:
            alike = (other.model, other.overrides) == (capped.model, capped.overrides)
            if alike and (other.budget is None or other.budget >= capped.budget):
                known[other.name] += ended
    return known


def publish(adopted: Adopted, target: Path, tokenizer: Path | None) -> Family:
    """Write the family into the directory `target`, which is replaced as a whole."""
    forced = budget_forced(adopted.plan.levels, adopted.outcomes)
    by_name = {name: forced[name] for name in adopted.outcomes}
    profile = fit.fit(adopted.outcomes, by_name, adopted.plan.sampling.seed, adopted.encoder)
    profile["floors"] = [floor.model_dump() for floor in adopted.floors]
    rows = next(iter(adopted.outcomes.values()))
    cost = compared.cost(Profile.of(profile, adopted.encoder), [row.prompt for row in rows])
    with atomic_directory(target) as directory:
        fit.save(profile, directory / "profile.json")
        if tokenizer is not None:
            shutil.copy(tokenizer, directory / "tokenizer.json")
        manifest = Family(
            name=adopted.name,
            description=adopted.description,
            reference=adopted.reference,
            reasoning=adopted.facts.marks,
            context_tokens=adopted.context_tokens,
            tokenizer=None if tokenizer is None else "tokenizer.json",
            profile="profile.json",
            files=hash_files(directory, "."),
            checkpoints=tuple(_checkpoint(adopted, name) for name in adopted.outcomes),
        )
        families.save(manifest, directory)
        plots.frontier(manifest.checkpoints, directory / "frontier.png")
        write_text(directory / "README.md", card(adopted, manifest, profile, cost))
    return families.load(target)


def _checkpoint(adopted: Adopted, name: str) -> Checkpoint:
    level, rows, sampling = adopted.levels[name], adopted.outcomes[name], adopted.plan.sampling
    answers = [
        split(reply, adopted.facts.marks).answer_tokens
        for samples in adopted.replies[name].values()
        for reply in samples
        if reply is not None and reply.finished
    ]
    return Checkpoint(
        name=name,
        kind="served",
        model=level.model,
        overrides=level.overrides,
        budget=level.budget,
        cap=adopted.facts.cap,
        answer_tokens=round(float(np.quantile(answers, ANSWER_QUANTILE))) if answers else None,
        frontier=Measurements(
            overall=summarise(rows, sampling.seed),
            by_difficulty={},
            samples_per_prompt=sampling.samples,
            temperature=sampling.temperature,
            seed=sampling.seed,
            command=adopted.command,
        ),
    )


def doubts(family: Family) -> list[str]:
    """Why the figures of an adopted family are worth little, in sentences; none if nothing speaks against them."""
    reference = family.checkpoint(family.reference).frontier.overall
    said = (enough.warning(reference.prompts), enough.never_right(family.reference, reference.accuracy.mean))
    return [one for one in said if one is not None]


def card(adopted: Adopted, family: Family, profile: Mapping[str, Any], cost: str) -> str:
    """The family's card as Markdown; `profile` is what was fitted, as JSON, and `cost` says what a prediction takes."""
    report: Mapping[str, Mapping[str, float]] = profile["report"]
    measured = family.checkpoints[0].frontier
    models = sorted({checkpoint.model or "" for checkpoint in family.checkpoints})
    rows = [
        f"| `{c.name}` | `{c.model}` | {_asked(adopted.levels[c.name])} | {percent(c.frontier.overall.accuracy)} |"
        f" {tokens(c.frontier.overall.reasoning_tokens)} |"
        for c in family.checkpoints
    ]
    routed = adopted.routed
    doubted = "".join(f" **{said}**" for said in doubts(family))
    return f"""# {family.name}

{family.description} Nothing was trained: these are levels of {", ".join(f"`{model}`" for model in models)}, measured on
{measured.overall.prompts:,} prompts with {measured.samples_per_prompt} samples each.{doubted}

| checkpoint | model | what is asked | {_accuracy(adopted.label)} | reasoning tokens |
| --- | --- | --- | --- | --- |
{chr(10).join(rows)}

Intervals are 95 % bootstrap intervals over prompts.{_REFERENCE if adopted.label == "agreement" else ""}

![Accuracy against reasoning tokens](frontier.png)

## What routing does on these prompts

Cross-validated in five folds, {_at(adopted.tolerance)}. Each prompt was decided by a profile that was
fitted on the others.

| | {_accuracy(adopted.label)} | reasoning tokens |
| --- | --- | --- |
| routed | {percent(routed.accuracy)} | {tokens(routed.tokens)} |
| routed, minus `{adopted.reference}` | {points(routed.accuracy_difference)} | {percent(routed.tokens_share)} of its |

## What routing keeps for certain

{kept.section(adopted.floors, adopted.reference)}

## What the profile predicts

| checkpoint | log loss | of a constant | AUC |
| --- | --- | --- | --- |
{chr(10).join(_scores(name, scores) for name, scores in report.items())}

{verdict(report)}

{compared.answers(report)}

{compared.section(profile.get("reader"))}

{cost}

{compared.calibration(profile.get("reliability"))}

## The engine

{chr(10).join(f"- {line}" for line in adopted.facts.lines())}

## Make it again

    {adopted.command}
"""


_REFERENCE = """ *Agreement* is the share of answers that agree
with what the reference answers most often; the reference is compared with its own other samples."""


def percent(estimate: Estimate) -> str:
    """A share as a percentage with its interval."""
    return f"{estimate.mean:.1%} ({estimate.low:.1%} to {estimate.high:.1%})".replace("%", " %").replace(" % to", " to")


def tokens(estimate: Estimate) -> str:
    """Tokens with their interval."""
    return f"{estimate.mean:,.1f} ({estimate.low:,.1f} to {estimate.high:,.1f})"


def points(estimate: Estimate) -> str:
    """A difference of shares, in points, with its interval."""
    return f"{100 * estimate.mean:+.1f} points ({100 * estimate.low:+.1f} to {100 * estimate.high:+.1f})"


def _at(tolerance: float | None) -> str:
    return "with no tolerance that keeps the floor" if tolerance is None else f"at a tolerance of {tolerance:g}"


def _accuracy(label: str) -> str:
    return {"agreement": "agreement", "judge": "judged right"}.get(label, "accuracy")


def _asked(level: Level) -> str:
    parts = [f"at most {level.budget:,} tokens"] if level.budget is not None else []
    if not level.thinks:
        parts.append("thinking off")
    body = {name: value for name, value in level.overrides.body.items() if name != "chat_template_kwargs"}
    parts += [f"`{name}: {value}`" for name, value in {**body, **level.overrides.defaults}.items()]
    if level.overrides.system is not None:
        parts.append("a system prompt")
    if level.overrides.suffix is not None:
        parts.append(f"`{' '.join(level.overrides.suffix.split())}` behind the question")
    return ", ".join(parts) or "nothing more"


def _scores(name: str, scores: Mapping[str, float]) -> str:
    figures = (scores.get(key) for key in ("log_loss", "log_loss_constant", "auc"))
    return f"| `{name}` | {' | '.join('-' if figure is None else f'{figure:.3f}' for figure in figures)} |"


def verdict(report: Mapping[str, Mapping[str, float]]) -> str:
    """What the scores mean."""
    meaning = (
        "How well it tells right answers from wrong ones, on prompts that it was not fitted on. It knows something if"
        " its log loss\nis below that of a constant, and its AUC above 0.5."
    )
    scored = [s for s in report.values() if s.get("log_loss") is not None and s.get("log_loss_constant") is not None]
    if any(s["log_loss"] < s["log_loss_constant"] for s in scored):
        return meaning
    return f"{meaning} **Here it knows nothing**: routing gives every prompt about the same level."
