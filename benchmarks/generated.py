"""Which committed files are written by a program from others? This command writes them all again.

    make generated

needs committed data only, no run directory and no server. It writes the shipped family's card and plots, the reports of
the experiments, the benchmarks' plots, the OpenAPI document and the HTTP reference, the picture of the layers, and the
marked tables and figures of README.md, docs/ and benchmarks/README.md. It takes about half a minute. Running it twice
changes nothing, and tests/test_generated.py fails if a committed file is not what it writes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks import figures, plots
from benchmarks.sources import EXPERIMENTS, FILES, Sources
from benchmarks.tables import TABLES
from scripts import http_reference, layers
from training.experiments import report as experiments
from training.publish import report as publishing

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/*.md", "docs/*/*.md", "benchmarks/README.md")
PLOTS = {
    "benchmarks/results/gateway.png": ("gateway", plots.gateway),
    "benchmarks/results/growth.png": ("growth", plots.growth),
    "benchmarks/results/dense_reward.png": ("dense", plots.dense_reward),
    "docs/routing/budgets.png": ("routing", plots.routing_budgets),
    "docs/routing/cost.png": ("routing", plots.routing_cost),
    "docs/profile/calibration.png": ("difficulty", plots.calibration),
    "docs/profile/cost.png": ("difficulty", plots.difficulty_cost),
    "docs/profile/gsm8k.png": ("gsm8k", plots.gsm8k),
}
_NEEDED = {
    plots.routing_cost: "curves",
    plots.calibration: "calibration",
    plots.difficulty_cost: "rules",
    plots.gsm8k: "rules",
}
"""What older results do not have; their plot is left as it was drawn with them."""


def main() -> None:
    """Write every generated file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository, or a copy of it")
    write(parser.parse_args().root)


def write(root: Path) -> None:
    """Write every generated file under `root`, the sources first and the pages that cite them last.

    Raises:
        MarkerError: a marker on a page cannot be filled in; the message names the page.
    """
    publishing.write(root / "models" / "abacus")
    for results in EXPERIMENTS.values():
        experiments.write(root / results, root / results.replace("results", "report"))
    for path, (source, draw) in PLOTS.items():
        results = json.loads((root / FILES[source]).read_text())
        if _NEEDED.get(draw, next(iter(results))) in results:
            draw(results, root / path)
    http_reference.write(root / "docs", root / "models" / "abacus")
    (root / "docs" / "images" / "layers.svg").write_text(layers.draw())
    sources = Sources(root)
    for page in pages(root):
        try:
            text = figures.filled(page.read_text(), sources, TABLES)
        except figures.MarkerError as error:
            raise figures.MarkerError(f"{page.relative_to(root)}: {error}") from None
        page.write_text(text)


def pages(root: Path) -> list[Path]:
    """Every page that may have markers."""
    return sorted(path for pattern in PAGES for path in root.glob(pattern))


if __name__ == "__main__":
    main()
