"use strict";
// Draws the operators' charts with uPlot and has them move: one point a second, ten minutes of them.

const KEPT = 600;
const WORDS = { ok: "All is well", degraded: "It works, and something is wrong", unready: "It cannot take deliveries" };
const ms = (seconds) => (seconds === null || seconds === undefined ? null : seconds * 1000);
const number = (value, digits = 0) => value.toLocaleString(undefined, { maximumFractionDigits: digits });
const ago = (s) => (s >= 3600 ? `${number(s / 3600, 1)} h` : s >= 60 ? `${number(s / 60)} min` : `${number(s)} s`);
const shortMs = (s) => (s === null ? "–" : `${number(s * 1000, s < 0.01 ? 1 : 0)} ms`);

const SHOWN = {
  rate: (now) => number(now.accepted + now.ignored + now.refused, 1),
  p99: (now) => shortMs(now.p99),
  p50: (now) => shortMs(now.p50),
  inFlight: (now) => number(now.inFlight),
  lag: (now) => shortMs(now.lag),
  broker: (now, broker) => (broker ? (now.brokerUp ? "up" : "down") : "none"),
  unconfirmed: (now) => number(now.unconfirmed),
  store: (now) => (now.current ? "current" : "away"),
  hooks: (now) => number(now.hooks),
  tenants: (now) => number(now.tenants),
  depth: (now, broker) => number(broker ? now.waiting : now.kept),
  spoolPart: (now) => `${number((100 * now.spoolBytes) / now.spoolMax, 1)} %`,
  drained: (now) => number(now.drained, 1),
  oldest: (now) => ago(now.oldest),
};

const CHARTS = {
  "chart-rate": [["accepted", "--good", (s) => s.accepted], ["ignored", "--quiet", (s) => s.ignored], ["refused", "--bad", (s) => s.refused]],
  "chart-latency": [["p50", "--accent", (s) => ms(s.p50)], ["p99", "--warn", (s) => ms(s.p99)]],
  "chart-spool": [["waiting", "--warn", (s) => s.waiting], ["kept", "--accent", (s) => s.kept], ["set aside", "--bad", (s) => s.setAside], ["drained a second", "--good", (s) => s.drained]],
  "chart-lag": [["lag", "--accent", (s) => ms(s.lag)]],
};

let seconds = [];
let charts = [];

// At least one minute: uPlot's own range of a single point would be years.
const lastMinutes = () => {
  const end = seconds.at(-1)?.at ?? Date.now() / 1000;
  return [Math.max(end - KEPT, Math.min(seconds[0]?.at ?? end, end - 60)), end];
};

const hasBroker = () => document.getElementById("tiles").dataset.broker !== "";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function draw() {
  for (const chart of charts) chart.plot.destroy();
  charts = Object.entries(CHARTS).map(([id, all]) => {
    const lines = all.filter(([label]) => hasBroker() || label !== "drained a second");
    const place = document.getElementById(id);
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    const plot = new uPlot({
      width: place.clientWidth,
      height: 190,
      cursor: { points: { size: 6 }, drag: { x: false, y: false } },
      legend: { live: true },
      scales: { x: { time: true, range: lastMinutes }, y: { range: (_, low, high) => [0, Math.max(high * 1.1, 1)] } },
      axes: [{ ...axis, space: 70, grid: { show: false } }, { ...axis, size: 48, values: (_, ticks) => ticks.map((tick) => number(tick, 2)) }],
      series: [{}, ...lines.map(([label, name]) => ({
        label, stroke: colour(name), width: 1.75, points: { show: false }, spanGaps: false,
        value: (_, value) => (value === null || value === undefined ? "–" : number(value, 2)),
      }))],
    }, data(lines), place);
    return { plot, lines, place };
  });
}

const data = (lines) => [seconds.map((s) => s.at), ...lines.map(([, , of]) => seconds.map(of))];

function show(now) {
  const broker = hasBroker();
  for (const place of document.querySelectorAll("[data-show]")) place.textContent = SHOWN[place.dataset.show](now, broker);
}

function element(tag, text, name) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function showState(told) {
  document.getElementById("state").className = `card state ${told.status}`;
  document.querySelector("#state .dot").className = `dot ${told.status}`;
  document.getElementById("status").textContent = WORDS[told.status];
  document.getElementById("faults").replaceChildren(...told.faults.map(([fault, remedy]) => {
    const item = document.createElement("li");
    item.append(element("strong", fault), document.createElement("br"), element("span", remedy, "quiet"));
    return item;
  }));
  document.getElementById("reasons").replaceChildren(...told.refusals.map(([reason, count, remedy]) => {
    const row = document.createElement("tr");
    const head = element("th", reason, "mono");
    head.scope = "row";
    row.append(head, element("td", number(count), "num"), element("td", remedy, "quiet"));
    return row;
  }));
  document.getElementById("refused").hidden = !told.refusals.length;
  document.getElementById("no-reasons").hidden = told.refusals.length > 0;
}

function heard(told) {
  if (told.columns) {
    const names = Object.keys(told.columns);
    seconds = (told.columns.at ?? []).map((_, index) => Object.fromEntries(names.map((name) => [name, told.columns[name][index]])));
  } else {
    seconds = [...seconds, told.second].slice(-KEPT);
  }
  showState(told);
  if (!seconds.length) return;
  show(seconds.at(-1));
  for (const { plot, lines } of charts) plot.setData(data(lines));
}

document.addEventListener("DOMContentLoaded", () => {
  draw();
  listen(document.getElementById("live"), heard);
  addEventListener("resize", () => { for (const { plot, place } of charts) plot.setSize({ width: place.clientWidth, height: 190 }); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
});
