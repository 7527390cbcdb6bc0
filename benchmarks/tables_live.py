"""What do the tables about live runs hold? Each as Markdown, from what was measured on a running stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.figures import render
from benchmarks.markdown import machine_table, or_dash, table
from benchmarks.sources import Sources


def holdout(sources: Sources) -> str:
    """Each source's estimate, and the measured saving, beside the truth."""
    truth, saved = (sources.value("live-holdout", name) for name in ("truth", "savings"))
    rows = [
        (
            f"quality, `{name}`",
            f"{one['scores']['routed']} and {one['scores']['holdout']}",
            or_dash(one["estimate"], "p1"),
            render(truth["difference"], "p1"),
            _yes(one["contains the truth"]),
            render(sources.value("live-holdout", f"redrawn.sources.{name}.contains the truth"), "%1"),
        )
        for name, one in sources.value("live-holdout", "sources").items()
    ]
    spent = f"{saved['requests']} and {saved['holdout']}"
    measured, true = (render(one, ".1") for one in (saved["measured"], truth["tokens saved per request"]))
    rows.append(("tokens saved of a request", spent, measured, true, _yes(saved["contains the truth"]), "-"))
    heads = ["", "routed and holdout", "measured", "true", "contained", "of other draws"]
    return table(heads, rows)


def spoiled(sources: Sources) -> str:
    """When the alert fires, by deployment."""
    rows = [
        (
            f"{name}",
            "1",
            _after(one["fired after"]),
            _after(one["fired after, as scraped"]),
            _yes(one["fires at the end, as scraped"]),
            _interval(one["looks"][-1]),
        )
        for name, one in sources.value("live-spoiled", "copies").items()
    ]
    for kind, one in sources.value("live-spoiled", "shipped").items():
        number = one["deployments"]
        ever, last = (f"in {one[what]} of {number}" for what in ("fired at any look", "fired at the end"))
        rows.append((f"shipped family, {kind} answers", str(number), ever, "-", last, "-"))
    heads = [
        "deployments",
        "number",
        "fires after",
        "on `/metrics`, after",
        "fires at the end",
        "difference at the end",
    ]
    return table(heads, rows)


def drift(sources: Sources) -> str:
    """Both profiles on the questions that were asked twice, by how traffic changed."""
    figures = (("Brier", ".3"), ("reasoning tokens", ".1"), ("correct", "%1"))
    rows = [
        (f"{way}, {profile} profile", *(render(one["next"][figure][profile], how) for figure, how in figures))
        for way, one in sources.table("live-drift").items()
        if "next" in one
        for profile in ("old", "new")
    ]
    return table(["traffic", "Brier score", "reasoning tokens", "correct"], rows)


def refits(sources: Sources) -> str:
    """What `laconic refit --replace` did, by what it was fitted on."""
    kinds = ("refit", "again", "few that have not changed", "what has not changed")
    names = {"refit": "what has changed", "again": "what the new profile chose"}
    rows = [
        (f"{way}: {names.get(kind, kind)}", str(one[kind]["status"]), _said(one[kind]))
        for way, one in sources.table("live-drift").items()
        for kind in kinds
        if kind in one
    ]
    return table(["fitted on", "status", "what it says"], rows)


def overhead(sources: Sources) -> str:
    """Latencies of callers, by what is behind the gateway."""
    rows = [
        (
            f"{behind}, {arm}",
            str(one["requests of each"]),
            *(render(milliseconds[name], ".1") for name in ("p50", "p99")),
            *(render(one["ratios"][arm][name], ".2") if arm in one["ratios"] else "1" for name in ("p50", "p99")),
        )
        for behind, one in sources.value("live-overhead", "behind").items()
        for arm, milliseconds in one["milliseconds"].items()
    ]
    return table(["behind the gateway, and with what", "requests", "p50 ms", "p99 ms", "p50 ratio", "p99 ratio"], rows)


def machines(sources: Sources) -> str:
    """What each part was measured on."""
    found = [sources.value(name, "machine") for name in ("live-holdout", "live-spoiled", "live-overhead")]
    found[2:2] = [one["machine"] for one in sources.table("live-drift").values()]
    tables = [machine_table(one).splitlines() for one in found]
    return "\n".join([*tables[0][:2], *dict.fromkeys(rows[2] for rows in tables)])


def _said(refit: Mapping[str, Any]) -> str:
    verdict = next((line for line in refit["printed"] if line.startswith("The new profile")), refit["refused"])
    improved = next((line.strip() for line in refit["printed"] if "improvement" in line), "")
    return f"{verdict.rstrip(':')}; {improved.split(', with')[0]}" if improved else verdict


def _interval(look: Mapping[str, Any]) -> str:
    if look["low"] is None:
        return "-"
    return render({"mean": look["difference"], "low": look["low"], "high": look["high"]}, "p1")


def _after(requests: int | None) -> str:
    return "never" if requests is None else f"{requests} requests"


def _yes(it_is: bool) -> str:
    return "yes" if it_is else "no"
