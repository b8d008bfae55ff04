// Trainings and studies: metrics as they arrive, then what came of them.

import { duration, h, number, percent, table, whole } from "./dom.js";
import { chart } from "./plot.js";

const PANELS = [["loss", /loss/i, true], ["accuracy", /accuracy|top/i, false], ["learning rate", /learning_rate|^lr$/i, false]];

// Returns a function that takes one metric event; panels are drawn at most twice a second.
export function metricCharts(place) {
  const series = new Map();
  let waiting = null;
  const latest = h("p.muted.small", {});
  const charts = h("div.charts", {});
  place.append(charts, latest);
  function draw() {
    waiting = null;
    charts.replaceChildren(...PANELS.map(([title, pattern, log]) => {
      const chosen = [...series].filter(([name, points]) => pattern.test(name) && points.length > 1)
        .map(([name, points], index) => ({ name: name.replaceAll("_", " "), color: 1 + index % 5, points }));
      return chosen.length ? h("figure", {}, chart({ series: chosen, xLabel: "step", yLabel: title, yLog: log && chosen.every((one) => one.points.every((p) => p[1] > 0)), height: 240 })) : null;
    }).filter(Boolean));
  }
  return (data) => {
    const { at: _, ...rest } = data;
    const x = rest.step ?? rest.epoch ?? series.size;
    for (const [name, value] of flat(rest)) if (typeof value === "number" && !["step", "epoch"].includes(name)) {
      if (!series.has(name)) series.set(name, []);
      series.get(name).push([x, value]);
    }
    latest.textContent = [...flat(rest)].filter(([, value]) => typeof value === "number").map(([name, value]) => `${name.replaceAll("_", " ")} ${number(value, 4)}`).join(" · ");
    waiting ??= setTimeout(draw, 400);
  };
}

function* flat(object, prefix = "") {
  for (const [name, value] of Object.entries(object)) {
    if (value !== null && typeof value === "object" && !Array.isArray(value)) yield* flat(value, `${prefix}${name} `);
    else yield [prefix + name, value];
  }
}

export function showTraining(job) {
  const result = job.result, splits = ["train", "validation", "test"];
  const rate = (value) => value === null || value === undefined ? "–" : percent(value, 4);
  const facts = [["test accuracy", rate(result.accuracy?.test)], ["parameters", whole(result.parameters)],
    ["grouping", result.multiplicity ? `${result.multiplicity}×${shape(result.widths)}` : null], ["training took", Number.isFinite(result.seconds) ? duration(result.seconds) : null]];
  return [
    result.outcome?.message ? h("div.notice.warn", {}, h("p", {}, result.outcome.message)) : null,
    h("div.facts-row", {}, facts.filter(([, value]) => value).map(([name, value]) => h("div.fact", {}, h("span.muted", {}, name), h("b", {}, value)))),
    table(["collapsed model", ...splits], [["accuracy", ...splits.map((split) => rate(result.accuracy?.[split]))], ["loss", ...splits.map((split) => number(result.loss?.[split], 4))]]),
  ].filter(Boolean);
}

const shape = (widths) => !widths ? "" : new Set(widths).size === 1 ? widths[0] : `(${widths.join(", ")})`;

export function showStudy(job) {
  const result = job.result;
  const rows = result.table ?? result.rows ?? result.cells ?? [];
  if (!Array.isArray(rows) || !rows.length) return [];
  const columns = [...new Set(rows.flatMap((row) => [...flat(row)].filter(([, value]) => !Array.isArray(value)).map(([name]) => name)))];
  const shown = (value) => typeof value === "number" ? number(value, 4) : value === null || value === undefined ? "–" : String(value);
  return [h("section", {}, h("h2", {}, "Table"), table(columns.map((name) => name.replaceAll("_", " ")), rows.map((row) => { const values = new Map(flat(row)); return columns.map((name) => shown(values.get(name))); })))];
}
