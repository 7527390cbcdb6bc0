"""What do the tables in the docs hold? Each as Markdown, from the committed measurements.

A page marks where a table goes (`benchmarks.figures`); `make generated` fills it in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks import tables_cost, tables_live, tables_profile
from benchmarks.attackers import ATTACKS
from benchmarks.figures import render
from benchmarks.markdown import bold, machine_table, or_dash, percent, table
from benchmarks.sources import EXPERIMENTS, Sources


def routing(sources: Sources) -> str:
    """Accuracy and tokens of every checkpoint and of `auto`, without a budget."""
    rows = [
        (bold(name, name == "auto"), render(figures["accuracy"], "%1"), render(figures["tokens"], ".1"))
        for name, figures in sources.value("routing", "unlimited.checkpoints").items()
    ]
    return table(["", "accuracy", "reasoning tokens"], rows)


def budgets(sources: Sources) -> str:
    """Accuracy of every checkpoint and of `auto` under each budget."""
    by_budget = sources.value("routing", "budgets")
    names = next(iter(by_budget.values()))["accuracy"]
    rows = [
        (bold(name, name == "auto"), *(percent(figures["accuracy"][name]["mean"]) for figures in by_budget.values()))
        for name in names
    ]
    return table(["budget in tokens", *by_budget], rows)


def beyond_the_best(sources: Sources) -> str:
    """`auto` compared with the most accurate checkpoint under each budget."""
    rows = [
        (budget, figures["best"], render(figures["auto beyond the best"], "p1"))
        for budget, figures in sources.value("routing", "budgets").items()
    ]
    return table(["budget in tokens", "most accurate checkpoint", "`auto` compared with it"], rows)


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
    return table(["", "checkpoint kept", "turn by turn", "difference"], rows)


def adopted(sources: Sources, source: str) -> str:
    """Every level of an adopted family on fresh questions, and the routed choice."""
    rows = [
        (bold(name, name == "routed"), render(figures["accuracy"], "%1"), render(figures["tokens"], ".1"))
        for name, figures in sources.value(source, "levels").items()
    ]
    return table(["", "accuracy", "reasoning tokens"], rows)


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
    return table(
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
    return table(["deployments", "requests", "holdout", "measured", "covered", "without the covariate"], rows)


def quality(sources: Sources) -> str:
    """How often the interval of the quality covers the truth."""
    rows = [
        (
            name,
            render(kind["requests"], ",0"),
            render(kind["holdout_fraction"], "%0"),
            f"{render(kind['scored'], '%0')}, {kind['missing']}",
            *(render(kind[one], "%1") for one in ("covered", "plain")),
            *(render(100 * kind[one], ".1") for one in ("width", "plain_width")),
        )
        for name, kind in sources.value("quality", "kinds").items()
    ]
    headers = ["deployments", "requests", "holdout", "scored", "covered", "plain", "points wide", "plain"]
    return table(headers, rows)


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
    return table(["prompts", "distance at the fifths", "distance anywhere", "unfamiliar", "drift seen"], rows)


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
        (case, *(or_dash(ratios.get(f"ms {key.format(name)}"), ".1") for name in ("laconic", "vllm-router")))
        for case, key in cases.items()
    ]
    return table(["milliseconds added", "Laconic", "vllm-router"], rows)


def memory(sources: Sources) -> str:
    """KiB of memory for one idle stream."""
    idle: Mapping[str, float] = sources.value("gateway", "KiB per idle stream")
    names = {"laconic": "Laconic"}
    return table([names.get(name, name) for name in idle], [[f"{render(value, '.0')} KiB" for value in idle.values()]])


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
    return table(head, rows)


def soak(sources: Sources) -> str:
    """What a long time of load does to the gateway."""
    names = ("requests", "failed", "lost", "doubled", "MiB, growth", "open files, growth")
    values = [sources.value("soak", name) for name in names]
    return table(names, [[f"{value:,}" if isinstance(value, int) else f"{value:.2f}" for value in values]])


def surfaces(sources: Sources) -> str:
    """What other APIs cost beside chat completions."""
    apis: dict[str, list[str]] = {}
    for what, ratio in sources.value("surfaces", "ratios").items():
        _, kind, api = what.partition(" / ")[0].split(", ")
        apis.setdefault(api, []).append(render(ratio, ".2"))
        assert kind == ("streamed" if len(apis[api]) == 1 else "whole")
    return table(["API", "streamed", "whole"], [[api, *ratios] for api, ratios in apis.items()])


def attacked_machine(sources: Sources) -> str:
    """What the attacks were measured on."""
    return machine_table(sources.value("attacks", "machine"))


def surfaces_machine(sources: Sources) -> str:
    """What other APIs were measured on."""
    return machine_table(sources.value("surfaces", "machine"))


def soaked_machine(sources: Sources) -> str:
    """What the soak was measured on."""
    return machine_table(sources.value("soak", "machine"))


def decision_machine(sources: Sources) -> str:
    """What decisions were timed on."""
    return machine_table(sources.value("decision", "machine"))


def machine(sources: Sources) -> str:
    """What the gateways were measured on."""
    return machine_table(sources.value("gateway", "machine"))


def rewards(sources: Sources) -> str:
    """Every reward compared with the base: its share of the tokens, and points of accuracy sampled and greedy."""
    rows: list[Sequence[str]] = []
    for source in EXPERIMENTS:
        for arm, trained in sources.arms(source).items():
            if arm != "base":
                share = render(sources.value(source, f"{arm} / base: tokens, overall"), "%0")
                points = (
                    render(sources.value(source, f"{arm} - base: {kind}accuracy, overall"), "P1")
                    for kind in ("", "greedy ")
                )
                rows.append((arm.removesuffix("-long").replace("-long ", " "), trained.steps, share, *points))
    heads = ["reward, alpha", "steps", "share of the base's tokens", "points of accuracy", "points, greedy"]
    return table(heads, rows)


def _ratios(sources: Sources, kind: str) -> str:
    ratios = sources.value("gateway", "ratios")
    clients = [
        key.split(",")[1].split()[-1] for key in ratios if f", {kind} " in key and key.endswith("laconic / direct")
    ]
    rows = []
    for peer, how in (("LiteLLM", ".0"), ("vllm-router", ".2"), ("direct", ".2")):
        cells = [render(ratios[f"requests/s, {kind} {number}, laconic / {peer}"], how) for number in clients]
        rows.append((f"Laconic / {peer}", *cells))
    return table(
        [f"{kind} responses a second", *(f"{number} client{'s'[: number != '1']}" for number in clients)], rows
    )


TABLES = {
    "routing": routing,
    "budgets": budgets,
    "conversations": conversations,
    "beyond-the-best": beyond_the_best,
    "predictors": tables_profile.predictors,
    "fixed": tables_profile.fixed,
    "tolerances": tables_profile.tolerances,
    "gsm8k": tables_profile.gsm8k,
    "readers": tables_profile.readers,
    "answer-tokens": tables_profile.answer_tokens,
    "model-state": tables_profile.model_state,
    "model-state-times": tables_profile.model_state_times,
    "floors": tables_profile.floors,
    "few-prompts": tables_profile.few_prompts,
    "probing": probing,
    "savings": savings,
    "quality": quality,
    "drift": drift,
    "streaming": streaming,
    "non-streaming": non_streaming,
    "latency": latency,
    "memory": memory,
    "decision-machine": decision_machine,
    "machine": machine,
    "attacks": attacks,
    "attacked-machine": attacked_machine,
    "soak": soak,
    "soaked-machine": soaked_machine,
    "surfaces": surfaces,
    "surfaces-machine": surfaces_machine,
    "rewards": rewards,
    "growth": tables_cost.growth,
    "growth-machine": tables_cost.growth_machine,
    "instructions": tables_cost.instructions,
    "live-holdout": tables_live.holdout,
    "live-spoiled": tables_live.spoiled,
    "live-drift": tables_live.drift,
    "live-refits": tables_live.refits,
    "live-overhead": tables_live.overhead,
    "live-machines": tables_live.machines,
    **{name: partial(adopted, source=name) for name in ("adopted-qwen", "adopted-abacus", "adopted-transformers")},
}
"""By the name in a page's marker."""
