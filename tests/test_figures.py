"""Does every measurement in the docs name the committed file that it comes from, and is it that file's figure?"""

from __future__ import annotations

import re

import pytest

from benchmarks import figures, generated
from benchmarks.sources import Sources
from benchmarks.tables import TABLES

ROOT = generated.ROOT
LEVEL = "a confidence level"
SETTING = "a setting"
FLOOR = "a quality floor that is asked for"
LIMIT = "a limit in the code"
ALLOWED = {
    "README.md": {"95 % interval": LEVEL, "Python 3.11 or 3.12": "versions"},
    "benchmarks/README.md": {
        "A 95 % interval should cover the truth 95 % of the time": LEVEL,
        "vllm-router 0.1.17 and LiteLLM 1.106.2": "versions",
        "50 and 100 microseconds": "the limits that are set",
    },
    "docs/README.md": {"the 10 % least confident answers": "a setting of the escalation in the example"},
    "docs/adopt.md": {
        "95 % intervals": LEVEL,
        "with 200 prompts": "an option of the commands",
        "the 200 prompts of the adoption": "an option of the commands",
    },
    "docs/experiments/README.md": {
        "95 % intervals": LEVEL,
        "`alpha` at 0.4": SETTING,
        "`l2t-tokens` at 0.2": SETTING,
        "`alpha` at 0.1": SETTING,
        "At 0.14 and 320 steps": SETTING,
    },
    "docs/gateway.md": {
        "95 % intervals": LEVEL,
        "`quality_tolerance` (0.005)": SETTING,
        "`--quality-floor 0.99`": FLOOR,
        "keeps 99 % of": FLOOR,
        "95 % confidence": LEVEL,
        "HTTP/1.1": "a version",
        "more than 32 KiB": LIMIT,
        "more than 8 MiB": LIMIT,
    },
    "docs/how-to/adopt.md": {
        "95 % intervals": LEVEL,
        "--quality-floor 0.99": FLOOR,
        "at least 99 % of": FLOOR,
        "95 % confidence": LEVEL,
        "at 0.9, 0.95, 0.98, 0.99 and 0.995": "the floors in the code",
        "0.95 takes at least 60 prompts, and 0.99 at least 320": "follows from the test alone, with no outcome lost",
        "80 %, about 80 and 430": "follows from the test alone, with no outcome lost",
    },
    "docs/how-to/budgets.md": {"5 % quantile | 25 % | 50 % | 90 % | 99 %": "levels of quantiles"},
    "docs/how-to/deploy.md": {"vLLM 0.32": "a version"},
    "docs/how-to/keys.md": {"within 250 ms": LIMIT},
    "docs/how-to/money.md": {"more than 1 % of the tokens": LIMIT},
    "docs/how-to/kubernetes.md": {"Kubernetes 1.37": "a version", "Kubernetes 1.34": "a version"},
    "docs/how-to/measure.md": {"95 % intervals": LEVEL},
    "docs/how-to/other-routers.md": {"more than 5 % of the requests": LIMIT, "fires at 5 %": LIMIT},
    "docs/how-to/savings.md": {
        "95 % interval": LEVEL,
        "`holdout_fraction`, 0.02": SETTING,
        "more than 5 % of the requests": LIMIT,
        "below 0.2, 0.4, 0.6 and 0.8": LIMIT,
        "95 % confidence": LEVEL,
        "lies above 5 %": LIMIT,
        "exceeds 0.1": LIMIT,
    },
    "docs/how-to/quality.md": {
        "95 % confidence": LEVEL,
        "saved 66 %": "an example of what is printed",
        "quality -0.7 points (-14.6 to +13.9)": "an example of what is printed",
        "tolerance of 0.005": SETTING,
        "95 % interval": LEVEL,
        "in 96.2 % (95.0 to 97.1)": "an example of what is printed",
        "-0.4 points (-1.5 to +0.7)": "an example of what is printed",
        "--shadow-fraction 0.02": SETTING,
        "earlier 70 % of": "a constant of the command",
    },
    "docs/how-to/monitor.md": {
        "95 % interval": LEVEL,
        "measured every 50 ms": "a setting",
        "8 tokens and 5 %": LIMIT,
        "below a difficulty of 0.5": "the median by definition",
        "share by 0.1 at most": "the bound for 200 requests",
        "less than 0.1 more": LIMIT,
    },
    "docs/operations.md": {
        "From 100 ms on": "a setting",
        "95 % confidence": LEVEL,
        "| 0.005 |": SETTING,
        "| 0.02 |": SETTING,
        "7.2 wrote": "a version",
        "at most 32 KiB (64 KiB": LIMIT,
        "have 64 MiB in all": LIMIT,
        "have 512 MiB": LIMIT,
        "above 64 MiB, a tokenizer above 256 MiB, a configuration file above 1 MiB": LIMIT,
        "longer than 250 ms": LIMIT,
    },
    "docs/profile/README.md": {
        "95 % intervals": LEVEL,
        "10 % least confident": "a setting of the escalation",
        "`--quality-floor 0.95`": FLOOR,
        "keeps 95 % of": FLOOR,
        "APGR of 0.5": "what random order has by definition",
    },
    "docs/routing/README.md": {"95 % intervals": LEVEL},
    "docs/training.md": {"Theorem 4.2": "a reference", "95 % bootstrap intervals": LEVEL},
}
"""By page: phrases whose numbers are no measurements, and what they are instead."""
HISTORY = (
    "docs/decisions/",
    *(f"docs/experiments/report{which}/" for which in ("", "-tamed", "-long")),
)
"""Records of what was measured once, and reports that are generated whole."""
PAGES = [str(path.relative_to(ROOT)) for path in generated.pages(ROOT)]


@pytest.fixture(scope="module")
def sources() -> Sources:
    return Sources(ROOT)


def differing(page: str, sources: Sources) -> list[str]:
    """The lines of a page that its sources would change."""
    written = figures.filled(page, sources, TABLES)
    return [old for old, new in zip(page.splitlines(), written.splitlines(), strict=False) if old != new]


@pytest.mark.parametrize("path", PAGES)
def test_every_marked_figure_is_that_of_its_source(path: str, sources: Sources) -> None:
    assert differing((ROOT / path).read_text(), sources) == [], "run `make generated`"


@pytest.mark.parametrize("path", [path for path in PAGES if not path.startswith(HISTORY)])
def test_every_measurement_names_its_source(path: str) -> None:
    assert figures.unmarked((ROOT / path).read_text(), ALLOWED.get(path, {})) == [], (
        "mark it, or say in ALLOWED what it is"
    )


@pytest.mark.parametrize("path", ALLOWED)
def test_every_allowed_phrase_is_still_needed(path: str) -> None:
    text = " ".join((ROOT / path).read_text().split())
    assert [phrase for phrase in ALLOWED[path] if phrase not in text] == []


@pytest.mark.parametrize("path", ["README.md", "docs/routing/README.md", "docs/experiments/README.md"])
def test_an_altered_figure_is_noticed(path: str, sources: Sources) -> None:
    page = (ROOT / path).read_text()
    markers = list(re.finditer(r"\d(?=[^\d<>]*<!-- =)", page))
    assert markers, f"{path} marks no figure"
    for marker in markers:
        digit = str((int(marker[0]) + 1) % 10)
        altered = page[: marker.start()] + digit + page[marker.end() :]
        assert differing(altered, sources), (
            f"{marker[0]} made {digit} in: {page[marker.start() - 60 : marker.end() + 60]}"
        )


def test_a_figure_whose_marker_is_removed_is_noticed() -> None:
    path = "docs/routing/README.md"
    page = re.sub(r"<!-- =[^>]*-->", "", (ROOT / path).read_text())
    assert len(figures.unmarked(page, ALLOWED[path])) > 3
