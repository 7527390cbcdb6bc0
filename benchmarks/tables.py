"""What do the tables in the docs hold? Each as Markdown, from the committed measurements.

A page marks where a table goes (`benchmarks.figures`); `make generated` fills it in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.attackers import ATTACKS
from benchmarks.figures import render
from benchmarks.sources import Sources

DEFAULT_TOLERANCE = "0.005"
DEFAULT_PREDICTOR = "counts, boosted"


def routing(sources: Sources) -> str:
    """Accuracy and tokens of every checkpoint and of `auto`, without a budget."""
    rows = [
        (_bold(name, name == "auto"), render(figures["accuracy"], "%1"), render(figures["tokens"], ".1"))
        for name, figures in sources.value("routing", "unlimited.checkpoints").items()
    ]
    return _table(["", "accuracy", "reasoning tokens"], rows)


def budgets(sources: Sources) -> str:
    """Accuracy of every checkpoint and of `auto` under each budget."""
    by_budget = sources.value("routing", "budgets")
    names = next(iter(by_budget.values()))["accuracy"]
    rows = [
        (_bold(name, name == "auto"), *(_percent(figures["accuracy"][name]["mean"]) for figures in by_budget.values()))
        for name in names
    ]
    return _table(["budget in tokens", *by_budget], rows)


def beyond_the_best(sources: Sources) -> str:
    """`auto` compared with the most accurate checkpoint under each budget."""
    rows = [
        (budget, figures["best"], render(figures["auto beyond the best"], "p1"))
        for budget, figures in sources.value("routing", "budgets").items()
    ]
    return _table(["budget in tokens", "most accurate checkpoint", "`auto` compared with it"], rows)


def conversations(sources: Sources) -> str:
    """Conversations that keep their checkpoint beside those whose turns are routed one by one."""
    formats = {
        "prompt tokens a turn": ".1",
        "cached tokens a turn": ".1",
        "computed prompt tokens a turn": ".1",
        "reasoning tokens a turn": ".1",
        "cost a turn": ".1",
        "changes of checkpoint a conversation": ".2",
        "accuracy": "%1",
        "accuracy, one problem": "%1",
    }
    kept, by_turn = (sources.value("conversations", f"arms.{arm}") for arm in ("kept", "by turn"))
    difference = sources.value("conversations", "difference")
    rows = [
        (
            name,
            render(kept[name], how),
            render(by_turn[name], how),
            render(difference[name], "p1" if how.startswith("%") else f"+{how[1:]}"),
        )
        for name, how in formats.items()
    ]
    return _table(["", "checkpoint kept", "turn by turn", "difference"], rows)


def adopted(sources: Sources, source: str) -> str:
    """Every level of an adopted family on fresh questions, and the routed choice."""
    rows = [
        (_bold(name, name == "routed"), render(figures["accuracy"], "%1"), render(figures["tokens"], ".1"))
        for name, figures in sources.value(source, "levels").items()
    ]
    return _table(["", "accuracy", "reasoning tokens"], rows)


def predictors(sources: Sources) -> str:
    """Figures of every way to predict difficulty."""
    candidates: Mapping[str, Mapping[str, float]] = sources.value("difficulty", "candidates")
    digits = {"AUC": 3, "pinball": 2, "closed": 2, "microseconds": 0}
    columns = list(next(iter(candidates.values())))
    rows = [
        (
            _bold(name, name == DEFAULT_PREDICTOR) + (" (the default)" if name == DEFAULT_PREDICTOR else ""),
            *(render(figures[column], f".{digits.get(column, 4)}") for column in columns),
        )
        for name, figures in candidates.items()
    ]
    return _table(["", *columns], rows)


def fixed(sources: Sources) -> str:
    """Every checkpoint and escalation that is chosen without a look at the prompt, the cheapest first."""
    choices: Mapping[str, Mapping[str, float]] = sources.value("tolerance", "fixed")
    ordered = sorted(choices.items(), key=lambda item: item[1]["tokens"])
    rows = [
        (f"`{name}`", render(figures["accuracy"], "%1"), render(figures["tokens"], ".1")) for name, figures in ordered
    ]
    return _table(["", "accuracy", "reasoning tokens"], rows)


def tolerances(sources: Sources) -> str:
    """The routing rule at several tolerances."""
    rows = [
        (
            _bold(tolerance, tolerance == DEFAULT_TOLERANCE)
            + (" (the default)" if tolerance == DEFAULT_TOLERANCE else ""),
            render(figures["accuracy"], "%1"),
            render(figures["tokens"], ".1"),
            render(figures["above the frontier"], "P1"),
        )
        for tolerance, figures in sources.value("tolerance", "tolerances").items()
    ]
    return _table(["tolerance", "accuracy", "reasoning tokens", "above the frontier, points"], rows)


def gsm8k(sources: Sources) -> str:
    """Figures of every way to predict difficulty on GSM8K."""
    candidates: Mapping[str, Mapping[str, Any]] = sources.value("gsm8k", "candidates")
    rows = [(name, *(render(figure, ".3") for figure in figures.values())) for name, figures in candidates.items()]
    return _table(["", "AUC of P(175B with verifier is right)", "APGR, 6B to 175B with verifier", "closed"], rows)


def readers(sources: Sources) -> str:
    """Figures of every reader of prompts between four real models, and of the one that fitting chooses."""
    rows: list[tuple[str, ...]] = []
    for name, figures in [*sources.value("readers", "readers").items(), ("auto minus length", _gained(sources))]:
        rows.append((_bold(name, name == "auto"), *(render(figure, ".3") for figure in figures.values())))
    return _table(["", "log loss", "APGR, least to most accurate model"], rows)


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
    return _table(
        ["", "floor", "prompts", "fits", "fits below the floor", "kept on average", "of the reference's tokens"], rows
    )


def few_prompts(sources: Sources) -> str:
    """How often a fit of few prompts is close to the best mixture of single checkpoints."""
    rows = [
        (
            family if tolerance == "0" else "",
            _bold(tolerance, tolerance == DEFAULT_TOLERANCE),
            render(fits["fits"], ",0"),
            render(figures["within"], "%1"),
            render(figures["95 % below"], "P2"),
        )
        for family, fits in sources.value("few", "families").items()
        for tolerance, figures in fits["tolerances"].items()
    ]
    return _table(["", "tolerance", "fits", "fits within 0.5 points", "95 % of fits lose at most, points"], rows)


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
    return _table(["", *heads], rows)


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
    return _table(["", "ms to first token", "ms of reading", "ms added", "of the prompt found in the cache"], rows)


def _ms(spread: Mapping[str, float] | None) -> str:
    return "-" if spread is None else f"{spread['median']:.0f}, {spread['p95']:.0f}"


def probing(sources: Sources) -> str:
    """How many times as fast packed probes are, at the benchmark's 16 episodes."""
    rows = [
        (
            f"{row['thinking_tokens']} tokens",
            *(render(row[name]["ratio"], ".1") for name in ("packed", "after sampling")),
            render(row["tokens"], ".1"),
        )
        for row in sources.value("dense", "probing")
        if row["episodes"] == 16
    ]
    return _table(
        ["thinking", "packed, one pass over everything", "as training runs it, on the rollout's KV cache", "tokens"],
        rows,
    )


def savings(sources: Sources) -> str:
    """How often the savings interval covers the truth."""
    rows = [
        (
            name,
            render(kind["requests"], ",0"),
            render(kind["holdout_fraction"], "%0"),
            render(kind["measured"], "%0"),
            render(kind["covered"], "%1") if kind["measured"] else "-",
            f"{kind['narrowed']:.2f} times as wide" if kind["measured"] else "-",
        )
        for name, kind in sources.value("savings", "kinds").items()
    ]
    return _table(["deployments", "requests", "holdout", "measured", "covered", "without the covariate"], rows)


def drift(sources: Sources) -> str:
    """How far from uniform difficulties are, by traffic."""
    rows = [
        (
            name,
            *(
                f"{render(kind[figure]['mean'], how)}, at most {render(kind[figure]['largest'], how)}"
                for figure, how in (("distance", ".3"), ("anywhere", ".3"), ("unfamiliar", "%1"))
            ),
            ", ".join(f"{sign} in {count} of {kind['draws']}" for sign, count in kind["signs"].items()) or "none",
        )
        for name, kind in sources.value("drift", "traffic").items()
    ]
    return _table(["prompts", "distance at the fifths", "distance anywhere", "unfamiliar", "drift seen"], rows)


def streaming(sources: Sources) -> str:
    """Streamed responses a second, as ratios to each peer."""
    return _ratios(sources, "streamed")


def non_streaming(sources: Sources) -> str:
    """Non-streaming responses a second, as ratios to each peer."""
    return _ratios(sources, "non-streaming")


def latency(sources: Sources) -> str:
    """Milliseconds that each gateway adds."""
    cases = {
        "before the first event, one client, p50": "to first event, streamed 1, {} - direct, p50",
        "before the first event, steady 200 requests/s, p99": "to first event, steady, {} - direct, p99",
        "between events, steady 200 requests/s, p99": "between events, steady, {} - direct, p99",
    }
    ratios = sources.value("gateway", "ratios")
    rows = [
        (case, *(_or_dash(ratios.get(f"ms {key.format(name)}"), ".1") for name in ("laconic", "vllm-router")))
        for case, key in cases.items()
    ]
    return _table(["milliseconds added", "Laconic", "vllm-router"], rows)


def memory(sources: Sources) -> str:
    """KiB of memory for one idle stream."""
    idle: Mapping[str, float] = sources.value("gateway", "KiB per idle stream")
    names = {"laconic": "Laconic"}
    return _table([names.get(name, name) for name in idle], [[f"{render(value, '.0')} KiB" for value in idle.values()]])


def attacks(sources: Sources) -> str:
    """What a bystander notices of each attack, and the gateway's memory."""
    rows: list[Sequence[str]] = []
    for name, figures in sources.value("attacks", "attacks").items():
        failed = figures["failed"]
        rows.append(
            (
                str(ATTACKS[name].__doc__).rstrip("."),
                render(figures["first p99 ratio"], ".1"),
                render(figures["first p99 ms"], ".0"),
                f"{failed['most']:.0f}",
                render(figures["memory ratio"], ".2"),
                str(figures["commit"]),
            )
        )
    head = ["attack", "p99 to the first event, ratio", "milliseconds", "failed", "memory afterwards, ratio", "commit"]
    return _table(head, rows)


def soak(sources: Sources) -> str:
    """What a long time of load does to the gateway."""
    names = ("requests", "failed", "lost", "doubled", "MiB, growth", "open files, growth")
    values = [sources.value("soak", name) for name in names]
    return _table(names, [[f"{value:,}" if isinstance(value, int) else f"{value:.2f}" for value in values]])


def surfaces(sources: Sources) -> str:
    """What other APIs cost beside chat completions."""
    apis: dict[str, list[str]] = {}
    for what, ratio in sources.value("surfaces", "ratios").items():
        _, kind, api = what.partition(" / ")[0].split(", ")
        apis.setdefault(api, []).append(render(ratio, ".2"))
        assert kind == ("streamed" if len(apis[api]) == 1 else "whole")
    return _table(["API", "streamed", "whole"], [[api, *ratios] for api, ratios in apis.items()])


def attacked_machine(sources: Sources) -> str:
    """What the attacks were measured on."""
    return _machine(sources.value("attacks", "machine"))


def surfaces_machine(sources: Sources) -> str:
    """What other APIs were measured on."""
    return _machine(sources.value("surfaces", "machine"))


def soaked_machine(sources: Sources) -> str:
    """What the soak was measured on."""
    return _machine(sources.value("soak", "machine"))


def machine(sources: Sources) -> str:
    """What the gateways were measured on."""
    return _machine(sources.value("gateway", "machine"))


def _machine(table: Mapping[str, Any]) -> str:
    shown = {**table, "instruction sets": ", ".join(table["instruction sets"] or ())}
    return _table(list(shown), [[str(value) if value else "not recorded" for value in shown.values()]])


def rewards(sources: Sources) -> str:
    """Every reward compared with the base: its share of the tokens, and points of accuracy sampled and greedy."""
    rows: list[Sequence[str]] = []
    for source, steps in (("experiments", "128"), ("experiments-long", "320")):
        for arm in sources.arms(source):
            if arm != "base":
                share = render(sources.value(source, f"{arm} / base: tokens, overall"), "%0")
                points = (
                    render(sources.value(source, f"{arm} - base: {kind}accuracy, overall"), "P1")
                    for kind in ("", "greedy ")
                )
                rows.append((arm.removesuffix("-long").replace("-long ", " "), steps, share, *points))
    heads = ["reward, alpha", "steps", "share of the base's tokens", "points of accuracy", "points, greedy"]
    return _table(heads, rows)


def _ratios(sources: Sources, kind: str) -> str:
    ratios = sources.value("gateway", "ratios")
    clients = [
        key.split(",")[1].split()[-1] for key in ratios if f", {kind} " in key and key.endswith("laconic / direct")
    ]
    rows = []
    for peer, how in (("LiteLLM", ".0"), ("vllm-router", ".2"), ("direct", ".2")):
        cells = [render(ratios[f"requests/s, {kind} {number}, laconic / {peer}"], how) for number in clients]
        rows.append((f"Laconic / {peer}", *cells))
    return _table(
        [f"{kind} responses a second", *(f"{number} client{'s'[: number != '1']}" for number in clients)], rows
    )


def _or_dash(value: Any, how: str) -> str:
    return "-" if value is None else render(value, how)


def _percent(value: float) -> str:
    return render(value, "%1")


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(
        [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *(f"| {' | '.join(row)} |" for row in rows)]
    )


TABLES = {
    "routing": routing,
    "budgets": budgets,
    "conversations": conversations,
    "beyond-the-best": beyond_the_best,
    "predictors": predictors,
    "fixed": fixed,
    "tolerances": tolerances,
    "gsm8k": gsm8k,
    "readers": readers,
    "model-state": model_state,
    "model-state-times": model_state_times,
    "floors": floors,
    "few-prompts": few_prompts,
    "probing": probing,
    "savings": savings,
    "drift": drift,
    "streaming": streaming,
    "non-streaming": non_streaming,
    "latency": latency,
    "memory": memory,
    "machine": machine,
    "attacks": attacks,
    "attacked machine": attacked_machine,
    "soak": soak,
    "soaked machine": soaked_machine,
    "surfaces": surfaces,
    "surfaces machine": surfaces_machine,
    "rewards": rewards,
    **{name: partial(adopted, source=name) for name in ("adopted-qwen", "adopted-abacus", "adopted-transformers")},
}
"""By the name in a page's marker."""
