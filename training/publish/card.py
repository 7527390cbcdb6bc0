"""What does the model card say? Markdown in Hugging Face's form, written from the measured figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from models.family import Checkpoint, Estimate, Family, Slice
from training.profile import compared, enough
from training.publish.provenance import Provenance
from training.tasks.problems import DIFFICULTIES, KINDS


def write(family: Family, provenance: Provenance, *, gate: Mapping[str, Any] | None, profile: Mapping[str, Any]) -> str:
    """The card as Markdown with YAML front matter; `gate` is None for a base that was not trained here."""
    trained_here = provenance.pretrained is None
    sections = [
        f"---\n{_HEAD_TRAINED_HERE if trained_here else _head(provenance)}\n---",
        f"# {family.name}",
        f"{family.description} {_about(family, provenance)}",
        f"{_how(provenance, family)}\n{_order(family)}".strip(),
        _USES if gate else "",
        _figures(family, caution=trained_here),
        _at_the_gate(gate) if gate else "",
        _profile_section(profile["report"]),
        compared.answers(profile["report"]),
        compared.section(profile.get("reader")),
        compared.calibration(profile.get("reliability")),
        _escalations(profile["escalations"]),
        _reproduce(family, provenance),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


_HEAD_TRAINED_HERE = """\
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
tags: [reasoning, efficient-reasoning, arithmetic, lora, laconic]"""


def _head(provenance: Provenance) -> str:
    return f"base_model: {provenance.pretrained}\nlibrary_name: transformers\ntags: [reasoning, efficient-reasoning, laconic]"


def _about(family: Family, provenance: Provenance) -> str:
    trained = len(family.checkpoints) - 1
    if provenance.pretrained is not None or provenance.parameters is None:
        made = f"{trained} checkpoint{'' if trained == 1 else 's'} made from `{provenance.pretrained}`."
        return f"{made} {provenance.quantized}" if provenance.quantized else made
    return (
        f"One Qwen3-architecture base of {provenance.parameters / 1e6:.1f} million parameters and {trained} LoRA adapters, "
        "served by one engine. The base overthinks: it checks its work about equally often whether a question needs it "
        "or not."
    )


_LENGTH = "The checkpoints were trained with the length penalty of *Training Language Models to Reason Efficiently* (arXiv 2502.04463)"
_OTHER = {
    "truncation": "The checkpoints were trained with the truncation reward of *DLER* (arXiv 2510.15110): an answer counts as wrong beyond (1 - alpha) of the longest length",
    "solve_rate": "The checkpoints were trained with the adaptive length penalty of *Just Enough Thinking* (arXiv 2506.05256), which charges more where a prompt is solved more often",
}
_CORRECTNESS = "The checkpoints were trained with the correctness of the answer as their reward"
_DENSE = {
    "outcome": "",
    "alpha": "",
    "progress": ", and a reward for the gain of each episode of thinking",
    "l2t": ", and the dense reward of *Learning to Think* (arXiv 2505.10425)",
}


def _how(provenance: Provenance, family: Family) -> str:
    """How the checkpoints were trained."""
    if provenance.deciding is None:
        return _reinforced(provenance, family)
    first = provenance.deciding.get("when") == "before"
    passes = f"on {provenance.deciding['questions']:,} first passes of {'the base' if first else 'its own'}"
    return (
        f"{_reinforced(provenance, family)} {'Before that' if first else 'Then'} each but the one at alpha 0 was"
        f" fine-tuned on where another episode of thinking pays: {passes}, from which the base thought on."
    )


def _reinforced(provenance: Provenance, family: Family) -> str:
    """How reinforcement learning trained them. At alpha 0 the length penalty is zero, so it is not named."""
    if provenance.dense and provenance.dense["charge"] == "tokens":
        return (
            "The checkpoints were trained with a dense reward in the manner of *Learning to Think* (arXiv 2505.10425): each"
            " episode of thinking is rewarded for how much it raises the probability of the right answer, minus alpha times its"
            " length as a share of the mean length of the prompt's rollouts."
        )
    if provenance.reward in _OTHER:
        return f"{_OTHER[provenance.reward]}."
    penalised = any(checkpoint.alpha for checkpoint in family.checkpoints)
    return f"{_LENGTH if penalised else _CORRECTNESS}{_DENSE[provenance.reward]}."


def _order(family: Family) -> str:
    trained = sorted((c for c in family.checkpoints if c.alpha is not None), key=lambda c: c.alpha or 0.0)
    tokens = [checkpoint.frontier.overall.reasoning_tokens.mean for checkpoint in trained]
    return "A larger alpha means shorter thinking." if tokens == sorted(tokens, reverse=True) else ""


_USES = f"""\
## What it is for

Arithmetic with whole numbers in plain language, in {len(KINDS)} kinds of problem: {", ".join(KINDS)}. There are sums and
differences of up to 6 terms, products up to two digits by two, and small stories; `laconic-train prompts` lists samples.
`make serve` serves this family by default. It is a test bench for efficient reasoning that trains on two CPU cores.

## What it is not for

Everything else. The model was trained only on such questions and on solutions written by a program. It knows no facts, no
other language, no fractions, division or brackets, and it holds no conversation. Asked anything else, it answers with a
meaningless number. The gateway's difficulty profile marks such prompts as unfamiliar and lets the base answer them."""

_CAUTION = """\
No held-out problem is a reworded training problem. But there are few easy problems, and a sum of two small numbers that
no training problem asks for may be a step in the training trace of a longer one. Accuracy on easy questions may therefore
partly reflect memorisation."""


def _figures(family: Family, *, caution: bool) -> str:
    measured = family.checkpoints[0].frontier
    method = (
        f"pass@1 over {measured.samples_per_prompt} samples on {measured.overall.prompts} held-out prompts, temperature "
        f"{measured.temperature:g}, seed {measured.seed},\nwith 95 % bootstrap intervals over prompts."
    )
    paragraphs = [
        "## Figures",
        method,
        enough.warning(measured.overall.prompts) or "",
        _CAUTION if caution else "",
        _figures_table(family, "overall"),
        _recommended(family),
        *(f"**{difficulty}**\n\n{_figures_table(family, difficulty)}" for difficulty in measured.by_difficulty),
        "![accuracy against reasoning tokens](report/frontier.png)",
        "![reasoning tokens by difficulty](report/tokens-by-difficulty.png)",
        "![rollouts during training](report/training.png)",
    ]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _figures_table(family: Family, part: str) -> str:
    rows = []
    for checkpoint in family.checkpoints:
        measured = _slice(checkpoint, part)
        rows.append(
            (
                checkpoint.name,
                "" if checkpoint.alpha is None else f"{checkpoint.alpha:g}",
                _percent(measured.accuracy),
                _tokens(measured.reasoning_tokens),
                f"{measured.quantiles['p50']:.0f}",
                f"{measured.quantiles['p95']:.0f}",
            )
        )
    return _table("checkpoint | alpha | accuracy | reasoning tokens | median | 95th percentile", rows)


def _slice(checkpoint: Checkpoint, part: str) -> Slice:
    return checkpoint.frontier.overall if part == "overall" else checkpoint.frontier.by_difficulty[part]


def _recommended(family: Family) -> str:
    """The checkpoint with the shortest reasoning that is at least as accurate as the base."""
    base, *trained = family.checkpoints
    good = [c for c in trained if c.frontier.overall.accuracy.mean >= base.frontier.overall.accuracy.mean]
    if not good:
        return "No checkpoint is as accurate as the base."
    good = [c for c in good if c.frontier.overall.reasoning_tokens.mean < base.frontier.overall.reasoning_tokens.mean]
    if not good:
        return "No checkpoint is as accurate as the base with shorter reasoning."
    best = min(good, key=lambda checkpoint: checkpoint.frontier.overall.reasoning_tokens.mean)
    share = best.frontier.overall.reasoning_tokens.mean / base.frontier.overall.reasoning_tokens.mean
    return (
        f"If one checkpoint is to serve everything, use **{best.name}**: it is the one with the shortest"
        f" reasoning that is at least as accurate as the base. It uses {100 * share:.0f} % of the base's tokens."
    )


_BANDS = """\
A base becomes a family if its checks are wasted on easy questions and useful on hard ones. At temperature 1 it must have

- an accuracy of at least 0.97 on easy and 0.90 on medium questions, and of 0.75 to 0.90 on hard ones;
- if only the first episode is kept, an accuracy that is at most 0.02 lower on easy questions, and on hard ones 0.50 to
  0.65 and at least 0.20 lower;
- 2.5 to 4.5 episodes on average at each difficulty.

At temperature 0 only the lower limits of accuracy hold, and ending after the first episode must cost at least 0.10 on hard
questions."""


def _at_the_gate(gate: Mapping[str, Any]) -> str:
    rows = []
    for difficulty in DIFFICULTIES:
        for temperature in ("1", "0"):
            f = gate[f"temperature_{temperature}"][difficulty]
            shares = (f"{f['accuracy']:.3f}", f"{f['cut_accuracy']:.3f}")
            rows.append((difficulty, temperature, *shares, f"{f['episodes']:.2f}", f"{f['reasoning_tokens']:.0f}"))
    table = _table("difficulty | temperature | accuracy | first episode only | episodes | reasoning tokens", rows)
    return f"""\
## Acceptance check of the base

{_BANDS}

{gate["prompts_per_difficulty"]} validation prompts per difficulty, seed {gate["seed"]}. *First episode only* is the accuracy if the thinking is ended after its first episode.

{table}

{_gate_verdict(gate)}"""


def _gate_verdict(gate: Mapping[str, Any]) -> str:
    if not gate["failures"]:
        return "The base passes."
    return "**The base does not pass**. A family was made from it nevertheless:\n\n" + "\n".join(
        f"- {failure}" for failure in gate["failures"]
    )


_PROFILE = """\
## The difficulty profile

Forest predictions are cross-validated over prompts; each checkpoint's scales are not. A *constant* is the best prediction that ignores the prompt. *Confidence AUC* says
how well a checkpoint's own confidence, the probability that it assigned to its own reasoning tokens, separates right answers from wrong ones."""


def _profile_section(report: Mapping[str, Mapping[str, float]]) -> str:
    rows = [
        (
            name,
            f"{r['brier']:.4f}",
            f"{r['brier_constant']:.4f}",
            f"{r['auc']:.3f}",
            f"{r['calibration_error']:.3f}",
            f"{r['tokens_mean_error']:.1f}",
            f"{r['tokens_mean_error_constant']:.1f}",
            f"{r['surprisal_auc']:.3f}" if "surprisal_auc" in r else "-",
        )
        for name, r in report.items()
    ]
    heads = (
        "checkpoint | Brier | Brier of a constant | AUC | calibration error | mean error in tokens |"
        " mean error of a constant | confidence AUC"
    )
    return f"{_PROFILE}\n\n{_table(heads, rows)}"


_ESCALATIONS = """\
**Escalation.** When the first checkpoint's confidence is below the threshold, the second one thinks again and answers; the
tokens of both count. The threshold is a surprisal in nats, the negative log probability of the reasoning tokens. `A>B@10%`
escalates the 10 % least confident answers of A to B. Figures are those on the profile's own prompts:"""


def _escalations(escalations: Mapping[str, Mapping[str, Any]]) -> str:
    """Measured accuracy and tokens of every escalation; empty if the profile has none."""
    rows = [
        (
            f"`{name}`",
            one["first"],
            one["second"],
            f"{one['surprisal']:.2f}",
            f"{100 * one['measured']['accuracy']:.1f} %",
            f"{one['measured']['tokens']:.1f}",
        )
        for name, one in escalations.items()
    ]
    return (
        f"{_ESCALATIONS}\n\n{_table('escalation | first | second | nats | accuracy | reasoning tokens', rows)}"
        if rows
        else ""
    )


def _reproduce(family: Family, provenance: Provenance) -> str:
    parts = [f"{spent} minutes for {name}" for name, spent in provenance.minutes.items()]
    total = sum(provenance.minutes.values())
    return f"""\
## Reproduce

    laconic-train run {provenance.recipe}

By their logs, the training runs took {_listed(parts)}: {total} minutes in all, without evaluation and profiling.
`family.json` has the command that measures each checkpoint's figures again; with another seed it draws fresh prompts:

    {family.checkpoints[-1].frontier.command}"""


def _listed(parts: list[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


def _table(heads: str, rows: Iterable[tuple[str, ...]]) -> str:
    columns = heads.count("|") + 1
    return "\n".join([f"| {heads} |", f"|{' --- |' * columns}", *(f"| {' | '.join(row)} |" for row in rows)])


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.mean:.1f} % ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _tokens(estimate: Estimate) -> str:
    return f"{estimate.mean:.1f} ({estimate.low:.1f} to {estimate.high:.1f})"
