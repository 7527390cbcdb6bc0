// What keeps the page up to date? One stream of server-sent events for the window that is chosen.

import { drawAll } from "./charts.js";
import { fill } from "./dom.js";
import { showAll, showWhatIf } from "./sections.js";

const status = document.querySelector("#status");
const since = () => document.querySelector("#windows input:checked").value;
let overview = null;
let stream = null;

function say(text) {
  if (status.textContent !== text) status.textContent = text;
}

function show() {
  if (overview === null) return;
  fill(document, overview);
  showAll(overview);
  drawAll(overview);
}

function logIn() {
  window.location.assign("/dashboard/login");
}

async function lost() {
  say("The connection to the gateway is lost. It is tried again.");
  // An EventSource does not tell why it failed.
  const answer = await fetch(`/dashboard/overview?since=${since()}`).catch(() => null);
  if (answer?.status === 401) logIn();
  else if (stream.readyState === EventSource.CLOSED) setTimeout(connect, 5000);
}

function connect() {
  stream?.close();
  if (document.hidden) return;
  stream = new EventSource(`/dashboard/stream?since=${since()}`);
  stream.addEventListener("overview", (event) => {
    overview = JSON.parse(event.data);
    document.documentElement.dataset.ready = overview.window;
    say(window.uPlot ? "" : "The charts cannot be drawn, so there are tables only.");
    show();
  });
  stream.addEventListener("trouble", (event) => say(event.data));
  stream.addEventListener("login", logIn);
  stream.addEventListener("error", lost);
}

document.querySelector("#windows").addEventListener("change", () => {
  say("Loading the figures.");
  connect();
});
document.querySelector("#tolerance").addEventListener("input", () => overview && showWhatIf(overview));
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => overview && drawAll(overview, true));
let resized = 0;
window.addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => overview && drawAll(overview, true), 100);
});
// A page that nobody sees costs the gateway nothing, and none of the few connections that a browser has for a host.
document.addEventListener("visibilitychange", connect);
connect();
