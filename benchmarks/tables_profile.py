"""What do the tables about the difficulty profile hold? Each as Markdown, from the committed measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.figures import render
from benchmarks.markdown import bold, table
from benchmarks.sources import Sources

DEFAULT_TOLERANCE = "0.005"
DEFAULT_PREDICTOR = "counts, boosted"


def predictors(sources: Sources) -> str:
    """Figures of every way to predict difficulty."""
    candidates: Mapping[str, Mapping[str, float]] = sources.value("difficulty", "candidates")
    digits = {"AUC": 3, "pinball": 2, "closed": 2, "microseconds": 0}
    columns = list(next(iter(candidates.values())))
    rows = [
        (
            bold(name, name == DEFAULT_PREDICTOR) + (" (the default)" if name == DEFAULT_PREDICTOR else ""),
            *(render(figures[column], f".{digits.get(column, 4)}") for column in columns),
        )
        for name, figures in candidates.items()
    ]
    return table(["", *columns], rows)


def fixed(sources: Sources) -> str:
    """Every checkpoint and escalation that is chosen without a look at the prompt, the cheapest first."""
    choices: Mapping[str, Mapping[str, float]] = sources.value("tolerance", "fixed")
    ordered = sorted(choices.items(), key=lambda item: item[1]["tokens"])
    rows = [
        (f"`{name}`", render(figures["accuracy"], "%1"), render(figures["tokens"], ".1")) for name, figures in ordered
    ]
    return table(["", "accuracy", "reasoning tokens"], rows)


def tolerances(sources: Sources) -> str:
    """The routing rule at several tolerances."""
    rows = [
        (
            bold(tolerance, tolerance == DEFAULT_TOLERANCE)
            + (" (the default)" if tolerance == DEFAULT_TOLERANCE else ""),
            render(figures["accuracy"], "%1"),
            render(figures["tokens"], ".1"),
            render(figures["above the frontier"], "P1"),
        )
        for tolerance, figures in sources.value("tolerance", "tolerances").items()
    ]
    return table(["tolerance", "accuracy", "reasoning tokens", "above the frontier, points"], rows)


def gsm8k(sources: Sources) -> str:
    """Figures of every way to predict difficulty on GSM8K."""
    candidates: Mapping[str, Mapping[str, Any]] = sources.value("gsm8k", "candidates")
    rows = [(name, *(render(figure, ".3") for figure in figures.values())) for name, figures in candidates.items()]
    return table(["", "AUC of P(175B with verifier is right)", "APGR, 6B to 175B with verifier", "closed"], rows)


def readers(sources: Sources) -> str:
    """Figures of every reader of prompts between four real models, and of the one that fitting chooses."""
    rows: list[tuple[str, ...]] = []
    for name, figures in [*sources.value("readers", "readers").items(), ("auto minus length", _gained(sources))]:
        rows.append((bold(name, name == "auto"), *(render(figure, ".3") for figure in figures.values())))
    return table(["", "log loss", "APGR, least to most accurate model"], rows)


def answer_tokens(sources: Sources) -> str:
    """Errors of expected solution lengths by what is read of the prompt, and how much lower than from counts."""
    rows = [
        (
            f"{fitted}: {name}",
            render(figures["error"], ".1"),
            "" if name == "counts" else render(figures["minus counts"]["error"], "%1"),
            render(figures["log error"], ".3"),
            "" if name == "counts" else render(figures["minus counts"]["log error"], "%1"),
        )
        for fitted in ("fitted on four fifths", "fitted on 200")
        for name, figures in sources.value("answer-tokens", fitted).items()
    ]
    heads = ["", "error in tokens", "lower than counts", "error of the logarithm, squared", "lower than counts"]
    return table(heads, rows)


def floors(sources: Sources) -> str:
    """How often what was certified kept the floor, for every kind of family."""
    rows = [
        (
            name,
            render(kind["floor"], "%0"),
            render(kind["prompts"], ",0"),
            render(kind["fits"], ",0"),
            render(kind["below the floor"], "%1"),
            render(kind["kept"], "%1"),
            render(kind["tokens"], "%0"),
        )
        for name, kind in sources.value("floor", "kinds").items()
    ]
    return table(
        ["", "floor", "prompts", "fits", "fits below the floor", "kept on average", "of the reference's tokens"], rows
    )


def few_prompts(sources: Sources) -> str:
    """How often a fit of few prompts is close to the best mixture of single checkpoints."""
    rows = [
        (
            family if tolerance == "0" else "",
            bold(tolerance, tolerance == DEFAULT_TOLERANCE),
            render(fits["fits"], ",0"),
            render(figures["within"], "%1"),
            render(figures["95 % below"], "P2"),
        )
        for family, fits in sources.value("few", "families").items()
        for tolerance, figures in fits["tolerances"].items()
    ]
    return table(["", "tolerance", "fits", "fits within 0.5 points", "95 % of fits lose at most, points"], rows)


def _gained(sources: Sources) -> Mapping[str, Any]:
    return sources.value("readers", "auto minus length")


def model_state(sources: Sources) -> str:
    """What reading the model's own state adds to reading the text, for each model that was measured."""
    every: Mapping[str, Any] = sources.value("state", "")
    measured = {name: one for name, one in every.items() if "readers" in one}
    rows = [
        (
            name,
            *(
                cell
                for one in measured.values()
                for cell in (
                    render(one["readers"][name]["log loss"]["mean"], ".3"),
                    render(one["minus text"][name]["log loss"], "+3") if name in one["minus text"] else "",
                    render(one["readers"][name]["AUC"]["mean"], ".3"),
                )
            ),
        )
        for name in next(iter(measured.values()))["readers"]
    ]
    heads = [f"{name}: {column}" for name in measured for column in ("log loss", "minus that of the text", "AUC")]
    return table(["", *heads], rows)


def model_state_times(sources: Sources) -> str:
    """What a request for the model's state costs before the first token."""
    names = {
        "prompt": "log probabilities of the prompt",
        "first": "log probabilities of the first token",
        "shots": "log probabilities of the prompt, behind a cached prefix",
        "last": "last state, another engine",
        "mean": "mean state, another engine",
        "last, shots": "last state, another engine, behind a cached prefix",
        "mean, shots": "mean state, another engine, behind a cached prefix",
    }
    rows = [
        (
            f"{model}: {names[kind]}",
            _ms(times.get("ms to first token")),
            _ms(times["ms of reading"]),
            render(times["ms added"], ".0") if "ms added" in times else _ms(times["ms of reading"]),
            render(times["cached after reading"], "%0") if "cached after reading" in times else "-",
        )
        for model, one in sources.value("state", "").items()
        for kind, times in one["times"].items()
    ]
    return table(["", "ms to first token", "ms of reading", "ms added", "of the prompt found in the cache"], rows)


def _ms(spread: Mapping[str, float] | None) -> str:
    return "-" if spread is None else f"{spread['median']:.0f}, {spread['p95']:.0f}"
