"""What does the model card say? Written from the measured figures, in Hugging Face's form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.family import Checkpoint, Estimate, Family, Slice
from training.config import BaseStage, FamilyStage, Recipe
from training.job.planning import architecture, parameters
from training.tasks.problems import DIFFICULTIES, KINDS


def write(
    family: Family,
    recipe: Recipe,
    recipe_path: Path,
    *,
    gate: dict[str, Any] | None,
    profile: dict[str, Any],
    minutes: dict[str, float],
) -> str:
    """The card as Markdown with YAML front matter.

    `gate` is None for a base that was not trained here; `minutes` is how long the training of each checkpoint took.
    """
    stage = recipe.evaluate
    by_difficulty = "\n\n".join(f"**{d}**\n\n{_table(family, d)}" for d in family.checkpoints[0].frontier.by_difficulty)
    if isinstance(recipe.base, BaseStage):
        head, about, caution = _HEAD_OF_ABACUS, _about_abacus(recipe.base, family), _CAUTION
    else:
        head = f"base_model: {recipe.base.model}\nlibrary_name: transformers\ntags: [reasoning, efficient-reasoning, laconic]"
        about, caution = f"{len(family.checkpoints) - 1} checkpoints made from `{recipe.base.model}`.", ""
    return f"""\
---
{head}
---

# {family.name}

{family.description} {about}

{_how(recipe.family)}
{_order(family)}
{_USES if gate else ""}
## Figures

pass@1 over {stage.samples} samples on {family.checkpoints[0].frontier.overall.prompts} held-out prompts, temperature {stage.temperature:g}, seed {recipe.seed};
95 % bootstrap intervals over prompts. {caution}

{_table(family, "overall")}

{_recommended(family)}

{by_difficulty}

![accuracy against reasoning tokens](report/frontier.png)

![reasoning tokens by difficulty](report/tokens-by-difficulty.png)

![rollouts during training](report/training.png)

{_at_the_gate(gate) if gate else ""}## The difficulty profile

Cross-validated over prompts; *constant* is the best guess that does not look at the prompt. *Its own AUC* is how well a
checkpoint's thinking tells by its own probability, once it is there, whether the answer will be right.

{_profile_table(profile["report"])}
{_escalations(profile)}
## Reproduce

    laconic-train run {recipe_path}

The trainings took {_time(minutes)}, by their logs. Measure a checkpoint again on fresh prompts with the command that stands beside its figures in `family.json`, e.g.

    {family.checkpoints[-1].frontier.command}
"""


_HEAD_OF_ABACUS = """\
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [reasoning, efficient-reasoning, arithmetic, lora, laconic]"""
_CAUTION = """\
No held-out problem is a training problem in other words; but there are few easy
ones, and a sum of two small numbers that no training problem asks may well stand as a step in the trace of a longer one.
So accuracy on easy questions may be memory."""
_USES = f"""
## What it is for

Arithmetic with whole numbers in plain language: {", ".join(KINDS)} problems as `laconic-train prompts` prints them
(sums and differences of up to 6 terms, products up to two digits by two, small stories). It is the default that makes
`make serve` real, and a bench for efficient reasoning that trains on two CPU cores.

## What it is not for

Anything else. It has read nothing but such questions and program-written solutions: it knows no facts, no other
language, no fractions, division or brackets, and holds no conversation. Ask it something else and it will answer with
a number that means nothing. The gateway's difficulty profile marks such prompts as unfamiliar and lets the base answer.
"""
_LENGTH = "The checkpoints were trained with the length reward of *Training Language Models to Reason Efficiently* (arXiv 2502.04463)"
_HOW = {
    "outcome": "The checkpoints were trained with the outcome as their reward.",
    "alpha": f"{_LENGTH}.",
    "progress": f"{_LENGTH} and paid for what each episode of thinking gains.",
    "l2t": f"{_LENGTH} and the dense reward of *Learning to Think* (arXiv 2505.10425).",
}


def _how(stage: FamilyStage) -> str:
    if stage.dense_reward and stage.dense_reward.charge == "tokens":
        return (
            "The checkpoints were trained with a dense reward in the manner of *Learning to Think* (arXiv 2505.10425): an"
            " episode of thinking is paid for what it gains and charged for its tokens, at the price alpha."
        )
    return _HOW[stage.reward]


def _about_abacus(base: BaseStage, family: Family) -> str:
    return (
        f"One Qwen3-architecture base of {parameters(architecture(base)) / 1e6:.1f} million parameters and {len(family.checkpoints) - 1} LoRA adapters, "
        "served by one engine. The base overthinks: it checks its work about equally often whether a question needs it "
        "or not."
    )


def _at_the_gate(gate: dict[str, Any]) -> str:
    return f"""\
## The base at the gate

{gate["prompts_per_difficulty"]} test prompts a difficulty, seed {gate["seed"]}. *Cut* is the accuracy when thinking stops after its first episode.

{_gate_table(gate)}

{_gate_verdict(gate)}

"""


def _table(family: Family, part: str) -> str:
    rows = [
        "| checkpoint | alpha | accuracy | reasoning tokens | median | 95th percentile |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for checkpoint in family.checkpoints:
        measured = _slice(checkpoint, part)
        alpha = "" if checkpoint.alpha is None else f"{checkpoint.alpha:g}"
        rows.append(
            f"| {checkpoint.name} | {alpha} | {_percent(measured.accuracy)} | {_tokens(measured.reasoning_tokens)} "
            f"| {measured.quantiles['p50']:.0f} | {measured.quantiles['p95']:.0f} |"
        )
    return "\n".join(rows)


def _recommended(family: Family) -> str:
    """The shortest that is right at least as often as the base."""
    base, *trained = family.checkpoints
    good = [c for c in trained if c.frontier.overall.accuracy.mean >= base.frontier.overall.accuracy.mean]
    if not good:
        return "No checkpoint is right as often as the base."
    best = min(good, key=lambda checkpoint: checkpoint.frontier.overall.reasoning_tokens.mean)
    share = best.frontier.overall.reasoning_tokens.mean / base.frontier.overall.reasoning_tokens.mean
    return (
        f"Recommended where one checkpoint is to serve everything: **{best.name}**, the shortest that is right at least as"
        f" often as the base; it thinks {share:.0%} as long."
    )


def _time(minutes: dict[str, float]) -> str:
    parts = [f"{spent:.0f} minutes for {name}" for name, spent in minutes.items()]
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


def _slice(checkpoint: Checkpoint, part: str) -> Slice:
    return checkpoint.frontier.overall if part == "overall" else checkpoint.frontier.by_difficulty[part]


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.mean:.1f} % ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _tokens(estimate: Estimate) -> str:
    return f"{estimate.mean:.1f} ({estimate.low:.1f} to {estimate.high:.1f})"


def _gate_table(gate: dict[str, Any]) -> str:
    rows = [
        "| difficulty | temperature | accuracy | cut | episodes | reasoning tokens |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for difficulty in DIFFICULTIES:
        for temperature in ("1", "0"):
            f = gate[f"temperature_{temperature}"][difficulty]
            rows.append(
                f"| {difficulty} | {temperature} | {f['accuracy']:.3f} | {f['cut_accuracy']:.3f} "
                f"| {f['episodes']:.2f} | {f['reasoning_tokens']:.0f} |"
            )
    return "\n".join(rows)


def _gate_verdict(gate: dict[str, Any]) -> str:
    if not gate["failures"]:
        return "The base passes the gate."
    return "**The base does not pass the gate**, and was made into a family all the same:\n\n" + "\n".join(
        f"- {failure}" for failure in gate["failures"]
    )


def _profile_table(report: dict[str, dict[str, float]]) -> str:
    rows = [
        "| checkpoint | Brier | constant | AUC | calibration error | mean error in tokens | constant | its own AUC |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, r in report.items():
        rows.append(
            f"| {name} | {r['brier']:.4f} | {r['brier_constant']:.4f} | {r['auc']:.3f} | {r['calibration_error']:.3f} "
            f"| {r['tokens_mean_error']:.1f} | {r['tokens_mean_error_constant']:.1f} "
            f"| {_auc(r.get('surprisal_auc'))} |"
        )
    return "\n".join(rows)


def _auc(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _escalations(profile: dict[str, Any]) -> str:
    """What they come to on the profile's prompts; nothing where there are none."""
    if not (kept := profile["escalations"]):
        return ""
    rows = [
        f"| {one['first']} | {one['second']} | {one['surprisal']:.2f} | {one['measured']['accuracy']:.2%}"
        f" | {one['measured']['tokens']:.1f} |"
        for one in kept.values()
    ]
    return "\n".join(
        [
            "",
            "Second thoughts: where the first one's thinking, with its end, had a smaller probability than e to the minus",
            "so many nats, the second one's outcome counts, and the tokens of both. On the profile's own prompts:",
            "",
            "| first | second | nats | accuracy | reasoning tokens |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def _order(family: Family) -> str:
    trained = sorted((c for c in family.checkpoints if c.alpha is not None), key=lambda c: c.alpha or 0.0)
    tokens = [checkpoint.frontier.overall.reasoning_tokens.mean for checkpoint in trained]
    return "The larger alpha, the shorter the thinking." if tokens == sorted(tokens, reverse=True) else ""
