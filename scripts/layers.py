"""Which room may import which? Draws docs/images/layers.svg from the layer contracts in pyproject.toml.

python -m scripts.layers
"""

from __future__ import annotations

import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs/images/layers.svg"

ROW, BAR, TOP = 33, 27, 74
WIDTH, COLUMN, GAP = 900, 408, 36
COLOURS = {"gateway": ("#dbeafe", "#3b82f6"), "training": ("#fef3c7", "#d97706"), "models": ("#dcfce7", "#16a34a")}
MUTED = "#7d8590"
_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"
  role="img" font-size="13" font-family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif">
<title>The rooms of gateway and training as layers</title>
<defs><marker id="arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 L10 5 L0 10 z" fill="{colour}"/></marker></defs>"""


def layers(package: str) -> list[list[str]]:
    """A package's rooms from the highest layer to the lowest; rooms of one layer stand together."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    contract = next(c for c in contracts if c["type"] == "layers" and c["containers"] == [package])
    return [[room.strip("() ") for room in layer.split("|")] for layer in contract["layers"]]


def draw() -> str:
    """The picture as SVG."""
    columns = {"gateway": layers("gateway"), "training": layers("training")}
    bottom = TOP + ROW * max(map(len, columns.values())) + 10
    parts = [
        _text(
            WIDTH / 2, 24, "A room may import the rooms below it, and models. It never imports a room above it.", MUTED
        )
    ]
    for number, (package, rows) in enumerate(columns.items()):
        left = GAP + number * (COLUMN + GAP / 2 + 6)
        parts.append(_text(left + COLUMN / 2, 56, f"{package}/", MUTED, bold=True))
        for row, rooms in enumerate(rows):
            width = (COLUMN - 6 * (len(rooms) - 1)) / len(rooms)
            parts += [
                _bar(left + place * (width + 6), TOP + row * ROW, width, room, package)
                for place, room in enumerate(rooms)
            ]
    parts.append(_bar(GAP, bottom, 2 * COLUMN + GAP / 2 + 6, "models: the contract that both import", "models"))
    arrow = f"M16 {TOP} V{bottom + BAR}"
    parts.append(f'<path d="{arrow}" stroke="{MUTED}" stroke-width="1.8" fill="none" marker-end="url(#arrow)"/>')
    return "\n".join([_HEAD.format(width=WIDTH, height=bottom + BAR + 16, colour=MUTED), *parts, "</svg>\n"])


def _bar(left: float, top: float, width: float, label: str, package: str) -> str:
    fill, stroke = COLOURS[package]
    box = f'<rect x="{left:g}" y="{top:g}" width="{width:g}" height="{BAR}" rx="6" fill="{fill}" stroke="{stroke}"/>'
    return box + _text(left + width / 2, top + 18, label, "#111827")


def _text(x: float, y: float, text: str, colour: str, *, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" text-anchor="middle"{weight}>{escape(text)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw())
