// Which figure is in which table? One function for each section of the page.

import { at, figure, make, pointer, rows } from "./dom.js";
import { format } from "./format.js";

const FIFTHS = [0, 1, 2, 3, 4];
const LIMITS = {
  requests_per_minute: "requests a minute",
  reasoning_tokens_per_minute: "tokens a minute",
  reasoning_tokens_per_day: "tokens a day",
  money_per_day: "a day",
  money_per_month: "a month",
  max_concurrency: "at once",
};

/** Show everything but the charts. */
export function showAll(overview) {
  showSummary(overview);
  showTime(overview);
  showQuality(overview);
  showShare(overview);
  showFrontier(overview);
  showWhatIf(overview);
  showDrift(overview);
  showEngines(overview);
  showKeys(overview);
  showDecisions(overview);
}

function showSummary(overview) {
  const source = overview.quality.source;
  const known = [overview.savings.total.measured, source && overview.quality.sources[source].difference];
  const cards = document.querySelectorAll(".cards > div:has(.missing)");
  cards.forEach((card, number) => card.classList.toggle("unknown", (known[number] ?? null) === null));
  for (const [number, name] of ["difference", "low", "high"].entries()) {
    const element = cards[1].querySelectorAll("[data-format=points]")[number];
    element.dataset.path = pointer("quality", "sources", source ?? "", name);
    element.textContent = format(at(overview, element.dataset.path), "points");
  }
}

function showTime(overview) {
  const money = (overview.money ?? null) !== null;
  const lines = overview.over_time.map((_, number) => {
    const at_ = (...names) => pointer("over_time", number, ...names);
    const cells = [
      [at_("start"), "time"],
      [at_("requests"), "count"],
      [at_("spent_tokens"), "count"],
      [at_("saved_tokens"), "count"],
      ...["saved_tokens", "low", "high"].map((name) => [at_("measured", name), "count"]),
    ];
    return money ? [...cells, [at_("money", "saved"), "money"]] : cells;
  });
  rows("t-time", overview, lines.reverse());
}

function showQuality(overview) {
  const lines = Object.keys(overview.quality.sources).map((source) => {
    const at_ = (...names) => pointer("quality", "sources", source, ...names);
    return [
      make("span", { "data-cell": "words" }, source),
      ...["difference", "low", "high"].map((name) => [at_(name), "points"]),
      [at_("routed", "scores"), "count"],
      [at_("holdout", "scores"), "count"],
    ];
  });
  rows("t-quality", overview, lines);
}

function showShare(overview) {
  const all = overview.savings.total.requests;
  const lines = Object.entries(overview.savings.groups).map(([name, group]) => {
    const at_ = (field) => pointer("savings", "groups", name, field);
    const bar = make("span", { class: "bar", "data-cell": "bars" }, make("span", {}));
    bar.firstChild.style.width = `${all ? (100 * group.requests) / all : 0}%`;
    const cells = ["requests", "spent_tokens", "saved_tokens"].map((field) => [at_(field), "count"]);
    return [make("span", { "data-cell": "words" }, name), cells[0], bar, cells[1], cells[2]];
  });
  rows("t-share", overview, lines);
}

function showFrontier(overview) {
  const lines = overview.frontier.points.map((_, number) => {
    const at_ = (...names) => pointer("frontier", "points", number, ...names);
    return [
      [at_("name"), "text"],
      [at_("tokens"), "count"],
      [at_("success"), "decimal"],
      [at_("measured", "tokens", "mean"), "count"],
      [at_("measured", "accuracy", "mean"), "decimal"],
    ];
  });
  rows("t-frontier", overview, lines);
}

/** Show what the tolerance of the slider would have done. */
export function showWhatIf(overview) {
  const slider = document.querySelector("#tolerance");
  const { tolerances, set, recorded } = overview.what_if;
  if (slider.max !== String(tolerances.length - 1)) {
    slider.max = tolerances.length - 1;
    slider.value = Math.max(0, tolerances.findIndex((one) => one.tolerance === set));
  }
  const chosen = pointer("what_if", "tolerances", slider.value);
  const output = document.querySelector("output[for=tolerance]");
  output.dataset.path = `${chosen}/tolerance`;
  output.textContent = format(at(overview, output.dataset.path), "plain");
  slider.setAttribute("aria-valuetext", output.textContent);
  const line = (words, name, form) => [
    make("span", { "data-cell": "words" }, words),
    [`/what_if/recorded/${name}`, form],
    [`${chosen}/${name}`, form],
  ];
  const names = new Set([...Object.keys(recorded.choices), ...Object.keys(at(overview, chosen).choices)]);
  rows("t-whatif", overview, [
    line("expected reasoning tokens", "tokens", "count"),
    line("saved against the reference", "saved_share", "share"),
    line("expected success", "success", "decimal"),
    ...[...names].sort().map((name) => line(`sent to ${name}`, `choices${pointer(name)}`, "count")),
  ]);
}

function showDrift(overview) {
  rows("t-difficulty", overview, [
    [make("span", { "data-cell": "words" }, "requests"), ...FIFTHS.map((fifth) => [pointer("drift", "fifths", fifth), "count"])],
  ]);
  const { requests, abstained, signs } = overview.drift;
  const seen = signs.length ? `Drift is seen: prompts are ${signs.join(", ")}.` : "No drift is seen.";
  document.querySelector("#drift").textContent = requests + abstained ? seen : "No request was routed by its prompt.";
}

function showEngines(overview) {
  const lines = overview.health.engines.map((engine, number) => {
    const at_ = (name) => pointer("health", "engines", number, name);
    const state = make("span", { class: engine.up ? "good" : "bad", "data-cell": "words" }, engine.up ? "up" : "down");
    if (!engine.up) {
      state.append(": ", figure("span", overview, at_("problem"), "text"));
      if (engine.action) state.append(". ", figure("span", overview, at_("action"), "text"));
    }
    const caps = make("span", { "data-cell": "words" }, engine.caps_hold ? "kept" : "not trusted");
    return [[at_("url"), "text"], state, [at_("serves"), "list"], caps, [at_("over_cap"), "count"]];
  });
  rows("t-engines", overview, lines);
}

function showKeys(overview) {
  const lines = overview.keys.map((key, number) => {
    const at_ = (...names) => pointer("keys", number, ...names);
    const limits = make("span", { "data-cell": "words limits" });
    key.limits.forEach((limit, place) => {
      const money = limit.name.startsWith("money");
      const [used, most] = ["used", "most"].map((name) =>
        figure("span", overview, at_("limits", place, name), money ? "money" : "count"));
      const words = money ? `${overview.money?.currency ?? "in money"} ${LIMITS[limit.name]}` : LIMITS[limit.name];
      const line = make("span", { class: "limit" });
      limits.append(line);
      if (limit.used === null) {
        line.append("at most ", most, ` ${words}`);
        return;
      }
      const meter = make("meter", { min: 0, max: limit.most, high: 0.8 * limit.most, value: limit.used, optimum: 0 });
      meter.setAttribute("aria-label", `${words} of ${key.name}`);
      line.append(meter, " ", used, " of ", most, ` ${words}`);
    });
    if (key.revoked) limits.append(make("span", { class: "muted" }, "revoked"));
    else if (!key.limits.length) limits.append("–");
    const cells = ["requests", "spent_tokens", "saved_tokens"].map((name) => [at_(name), "count"]);
    return [[at_("name"), "text"], ...cells, limits];
  });
  rows("t-keys", overview, lines);
}

function showDecisions(overview) {
  const lines = overview.decisions.map((one, number) => {
    const at_ = (name) => pointer("decisions", number, name);
    const decision = make("span", { "data-cell": "words" }, figure("span", overview, at_("decision"), "text"));
    if (one.escalated) decision.append(", escalated");
    if (one.over_cap) decision.append(make("span", { class: "bad" }, ", over its cap"));
    return [
      [at_("time"), "time"],
      [at_("key"), "text"],
      [at_("checkpoint"), "text"],
      decision,
      [at_("status"), "plain"],
      [at_("difficulty"), "decimal"],
      [at_("budget"), "count"],
      [at_("reasoning_tokens"), "count"],
      [at_("saved_tokens"), "count"],
      [at_("reason"), "text"],
    ];
  });
  rows("t-decisions", overview, lines);
}
