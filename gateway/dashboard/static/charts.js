// How is a chart drawn? By uPlot, from the arrays that are in the tables, in the colours of the style sheet.

const charts = new Map();
const HEIGHT = 220;

/** Draw what has changed, or everything. */
export function drawAll(overview, everything = false) {
  if (!window.uPlot) return;
  const colours = palette();
  draw("c-time", overview.over_time.length && overTime(overview, colours), everything);
  const scored = Object.values(overview.quality.sources).some((one) => one.difference !== null);
  draw("c-quality", scored && quality(overview, colours), everything);
  draw("c-frontier", overview.frontier.requests && frontier(overview, colours), everything);
  draw("c-difficulty", overview.drift.distance !== null && difficulty(overview, colours), everything);
}

function draw(id, chart, everything) {
  const place = document.getElementById(id);
  place.hidden = !chart;
  const before = charts.get(id);
  const key = chart ? JSON.stringify([chart.data, chart.labels]) : "";
  if (before?.key === key && !everything) return;
  before?.plot?.destroy();
  const plot = chart ? new window.uPlot(options(place, chart), chart.data, place) : null;
  plot?.root.setAttribute("aria-hidden", "true"); // the table beside it has the figures
  charts.set(id, { key, plot });
}

function palette() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(
    ["text", "muted", "line", "first", "second", "bars"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]),
  );
}

function options(place, { colours, series, scales, axes, hooks, cursor }) {
  const font = "12px system-ui, sans-serif";
  const look = { stroke: colours.muted, font, grid: { stroke: colours.line, width: 1 }, ticks: { stroke: colours.line, width: 1 } };
  return {
    width: place.clientWidth,
    height: HEIGHT,
    series,
    scales,
    axes: axes.map((axis) => ({ ...look, ...axis })),
    hooks: { draw: hooks },
    cursor: { drag: { x: false, y: false }, ...cursor },
    legend: { live: true },
  };
}

const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });
const compacts = (_, values) => values.map((value) => (value === null ? "" : compact.format(value)));
const points = (_, values) => values.map((value) => (100 * value).toFixed(1));
const shown = (form) => (_, value) => (value === null || value === undefined ? "–" : form(value));

/** Whiskers from low to high at each x. */
function whiskers(low, high, colour) {
  return (plot) => {
    const { ctx } = plot;
    ctx.save();
    ctx.strokeStyle = colour;
    ctx.lineWidth = 2 * devicePixelRatio;
    plot.data[0].forEach((x, number) => {
      if (low[number] === null) return;
      const place = plot.valToPos(x, "x", true);
      const [bottom, top] = [low[number], high[number]].map((value) => plot.valToPos(value, "y", true));
      const half = 4 * devicePixelRatio;
      ctx.beginPath();
      ctx.moveTo(place, bottom);
      ctx.lineTo(place, top);
      for (const end of [bottom, top]) {
        ctx.moveTo(place - half, end);
        ctx.lineTo(place + half, end);
      }
      ctx.stroke();
    });
    ctx.restore();
  };
}

/** A scale that shows all values, and 0. */
function around(...lists) {
  const values = [0, ...lists.flat().filter((value) => value !== null)];
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const room = 0.06 * (most - least || 1);
  return { range: [least < 0 ? least - room : 0, most + room] };
}

function overTime(overview, colours) {
  const list = overview.over_time;
  const hourly = overview.window === "24h";
  const width = hourly ? 3600 : 86400;
  const xs = list.map((one) => one.start + width / 2); // the middle of the hour, or of the day
  const moment = (x) => new Date(1000 * (x - width / 2)).toISOString();
  const short = (x) => (hourly ? moment(x).slice(11, 16) : moment(x).slice(5, 10));
  const some = (plot) => xs.filter((_, number) => number % Math.ceil(xs.length / (plot.width / 70)) === 0);
  const saved = list.map((one) => one.saved_tokens);
  const [measured, low, high] = ["saved_tokens", "low", "high"].map((name) => list.map((one) => one.measured?.[name] ?? null));
  return {
    colours,
    data: [xs, saved, measured],
    labels: [low, high],
    series: [
      { label: "from", value: shown((x) => moment(x).slice(0, hourly ? 16 : 10).replace("T", " ")) },
      { label: "estimated", fill: colours.bars, stroke: colours.first, paths: window.uPlot.paths.bars({ size: [0.6, 40] }), points: { show: false }, value: shown((y) => compact.format(y)) },
      { label: "measured", stroke: colours.second, paths: () => null, points: { show: true, size: 8, fill: colours.second }, value: shown((y) => compact.format(y)) },
    ],
    scales: { x: { time: false, range: [xs[0] - width, xs.at(-1) + width] }, y: around(saved, measured, low, high) },
    axes: [{ splits: some, values: (_, values) => values.map(short), grid: { show: false } }, { values: compacts, size: 56 }],
    hooks: [whiskers(low, high, colours.second)],
  };
}

/** The options of an x axis that has names, at 0, 1, 2 and so on. */
function names(what, labels) {
  return {
    scale: { time: false, range: [-0.5, labels.length - 0.5] },
    axis: { splits: () => labels.map((_, number) => number), values: () => labels, grid: { show: false } },
    series: { label: what, value: shown((x) => labels[x] ?? "") },
  };
}

function quality(overview, colours) {
  const sources = Object.entries(overview.quality.sources).filter(([, one]) => one.difference !== null);
  const [difference, low, high] = ["difference", "low", "high"].map((name) => sources.map(([, one]) => one[name]));
  const labels = sources.map(([name]) => (name.length > 14 ? `${name.slice(0, 13)}…` : name));
  const x = names("source", labels);
  return {
    colours,
    data: [labels.map((_, number) => number), difference],
    labels: [labels, low, high],
    series: [
      x.series,
      { label: "points", stroke: colours.second, paths: () => null, points: { show: true, size: 9, fill: colours.second }, value: shown((y) => (100 * y).toFixed(1)) },
    ],
    scales: { x: x.scale, y: around(low, high, [0.005, -0.005]) },
    axes: [x.axis, { values: points, size: 50, label: "points", labelSize: 18, labelFont: "12px system-ui, sans-serif" }],
    hooks: [whiskers(low, high, colours.second)],
  };
}

function difficulty(overview, colours) {
  const labels = ["easiest", "easier", "middle", "harder", "hardest"];
  const x = names("fifth", labels);
  const { fifths } = overview.drift;
  const even = fifths.map(() => fifths.reduce((sum, one) => sum + one, 0) / 5);
  return {
    colours,
    data: [[0, 1, 2, 3, 4], fifths, even],
    labels,
    series: [
      x.series,
      { label: "requests", fill: colours.bars, stroke: colours.first, paths: window.uPlot.paths.bars({ size: [0.6, 80] }), points: { show: false }, value: shown((y) => compact.format(y)) },
      { label: "if like the fitting prompts", stroke: colours.second, width: 2, dash: [6, 4], points: { show: false }, value: shown((y) => compact.format(y)) },
    ],
    scales: { x: x.scale, y: around(fifths, even) },
    axes: [x.axis, { values: compacts, size: 50 }],
    hooks: [],
  };
}

function frontier(overview, colours) {
  const { points: all, requests } = overview.frontier;
  const { tolerances, requests: replayed } = overview.what_if;
  // The line is of the same requests as the points, or it is left out.
  const tried = replayed === requests ? tolerances.map((one) => [one.tokens / replayed, one.success]) : [];
  const xs = [...new Set([...all.map((one) => one.tokens), ...tried.map(([x]) => x)])].sort((a, b) => a - b);
  const where = new Map(xs.map((x, number) => [x, number]));
  const empty = () => xs.map(() => null);
  const [line, checkpoints, auto] = [empty(), empty(), empty()];
  for (const [x, y] of tried) line[where.get(x)] = y;
  for (const one of all) (one.name === "auto" ? auto : checkpoints)[where.get(one.tokens)] = one.success;
  const ys = [...all.map((one) => one.success), ...tried.map(([, y]) => y)];
  const [least, most] = [Math.min(...ys), Math.max(...ys)];
  const room = 0.15 * (most - least || 0.1);
  const end = Math.max(...xs);
  const dots = (label, colour, size) => ({ label, stroke: colour, paths: () => null, points: { show: true, size, fill: colour }, value: shown((y) => y.toFixed(3)) });
  return {
    colours,
    data: [xs, line, checkpoints, auto],
    labels: all.map((one) => one.name),
    series: [
      { label: "tokens", value: shown((x) => compact.format(x)) },
      { label: "auto, other tolerances", stroke: colours.muted, width: 1.5, spanGaps: true, points: { show: false }, value: shown((y) => y.toFixed(3)) },
      dots("checkpoints", colours.first, 8),
      dots("auto", colours.second, 11),
    ],
    scales: { x: { time: false, range: [0, 1.15 * end || 1] }, y: { range: [least - room, Math.min(1.02, most + room)] } },
    axes: [{ values: compacts }, { values: (_, values) => values.map((y) => y.toFixed(2)), size: 50 }],
    hooks: [(plot) => write(plot, all, colours)],
  };
}

/** Write the name of each point beside it, lower down where names would overlap; above the line for auto. */
function write(plot, all, colours) {
  const { ctx } = plot;
  const size = 12 * devicePixelRatio;
  const taken = [];
  ctx.save();
  ctx.font = `${size}px system-ui, sans-serif`;
  ctx.textBaseline = "middle";
  ctx.textAlign = "left";
  for (const one of all) {
    const width = ctx.measureText(one.name).width;
    let x = plot.valToPos(one.tokens, "x", true) + 0.7 * size;
    if (x + width > plot.bbox.left + plot.bbox.width) x -= width + 1.4 * size;
    let y = plot.valToPos(one.success, "y", true) - (one.name === "auto" ? size : 0);
    const meets = (other) => Math.abs(other.y - y) < size && x < other.x + other.width && other.x < x + width;
    while (taken.some(meets)) y += 0.25 * size;
    taken.push({ x, y, width });
    ctx.fillStyle = one.name === "auto" ? colours.second : colours.text;
    ctx.fillText(one.name, x, y);
  }
  ctx.restore();
}
