// Trainings and studies: metrics as they arrive, then results.

import { bytes, counted, duration, h, number, percent, table, whole } from "./dom.js";
import { chart } from "./plot.js";

const PANELS = [["loss", /loss/i, true], ["accuracy", /accuracy|top/i, false], ["sharpness", /sharpness$/, true], ["learning rate", /learning_rate|^lr$/i, false]];

// Returns a function that takes one metric event; panels are drawn at most twice a second. A step before the last one of
// the same phase is that of an attempt which went on from a checkpoint: what was measured from there on is dropped.
export function metricCharts(place) {
  const series = new Map();
  let last = {};
  let waiting = null;
  const latest = h("p.muted.small", {});
  const charts = h("div.charts", {});
  place.append(charts, latest);
  function draw() {
    waiting = null;
    charts.replaceChildren(...panels([...series]));
  }
  return (data) => {
    const { at: _, ...rest } = data;
    const x = rest.step ?? rest.epoch ?? series.size;
    if (rest.phase === last.phase && x < last.x) for (const [name, points] of series) series.set(name, points.slice(0, points.findLastIndex((point) => point[0] < x || point[2] !== rest.phase) + 1));
    last = { phase: rest.phase, x };
    for (const [name, value] of flat(rest)) if (typeof value === "number" && !["step", "epoch"].includes(name)) {
      if (!series.has(name)) series.set(name, []);
      series.get(name).push([x, value, rest.phase]);
    }
    latest.textContent = [...flat(rest)].filter(([, value]) => typeof value === "number").map(([name, value]) => labelled(name, value)).join(" · ");
    waiting ??= setTimeout(draw, 400);
  };
}

// The figures of [name, [[step, value, phase], …]]: a chart takes a third number for an error, which a phase is not.
export function panels(series) {
  return PANELS.map(([title, pattern, log]) => {
    const chosen = series.filter(([name, points]) => pattern.test(name) && points.length > 1)
      .map(([name, points], index) => ({ name: name.replaceAll("_", " "), color: 1 + index % 5, points: points.map(([x, y]) => [x, y]) }));
    return chosen.length ? h("figure", {}, chart({ series: chosen, xLabel: "step", yLabel: title, yLog: log && chosen.every((one) => one.points.every((p) => p[1] > 0)), width: 460, height: 210 })) : null;
  }).filter(Boolean);
}

export function labelled(name, value) {
  if (name.endsWith("_bytes")) return `${words(name.slice(0, -6))} ${bytes(value)}`;
  if (name.endsWith("eta_seconds")) return `${duration(value)} left`;
  if (name.endsWith("seconds")) return `${words(name).replace(/ ?seconds$/, "") || "running for"} ${duration(value)}`;
  return `${words(name)} ${number(value, 4)}`;
}

function* flat(object, prefix = "") {
  for (const [name, value] of Object.entries(object)) {
    if (value !== null && typeof value === "object" && !Array.isArray(value)) yield* flat(value, `${prefix}${name} `);
    else yield [prefix + name, value];
  }
}

const rate = (value) => value === null || value === undefined ? "–" : percent(value, 4);
const shape = (one) => one.stages?.length ? one.stages.map(shape).join(", ") : !one.widths ? "–" : `${one.multiplicity}×${new Set(one.widths).size === 1 ? one.widths[0] : `(${one.widths.join(", ")})`}`;
const words = (name) => name.replaceAll("_", " ");
const notes = (result) => (result.notes ?? []).map((note) => h("div.notice.warn", {}, h("p", {}, note.message)));
const fact = ([name, value]) => h("div.fact", {}, h("span.muted", {}, name), h("b", {}, value));

export function showTraining(job) {
  const result = job.result, splits = ["train", "validation", "test"];
  const rows = [["accuracy", ...splits.map((split) => rate(result.accuracy?.[split]))], ["loss", ...splits.map((split) => number(result.loss?.[split], 4))]];
  if (result.top5) rows.splice(1, 0, ["top-5 accuracy", ...splits.map((split) => rate(result.top5[split]))]);
  if (result.sampled) rows.push(["accuracy as sampled", ...splits.map((split) => rate(result.sampled.accuracy?.[split]))]);
  const known = Object.entries(result.diagnostics ?? {}).filter(([, value]) => value !== null);
  return [
    ...notes(result),
    h("div.facts-row", {}, [["test accuracy", rate(result.accuracy?.test)], ["grouping", shape(result)], ["parameters", whole(result.parameters)], ["recipe", result.recipe_name ?? "–"],
      ["samples per second", number(result.samples_per_second)], ["training time", duration(result.seconds)]].map(fact)),
    table(["trained model", ...splits], rows),
    known.length ? h("p", {}, known.map(([name, value]) => `${words(name)} ${number(value)}`).join(" · ")) : null,
  ].filter(Boolean);
}

const withError = (value, error, scale = 1) => value === null || value === undefined ? "–" : `${number(scale * value, 4)}${error === null || error === undefined ? "" : ` ± ${number(scale * error, 2)}`}`;

export function showStudy(job) {
  const result = job.result;
  const several = (pick) => new Set(result.cells.map(pick)).size > 1;
  const columns = [["architecture", (cell) => cell.architecture], ["method", (cell) => cell.method],
    several((cell) => cell.recipe) ? ["recipe", (cell) => cell.recipe] : null,
    ["m×n", shape], ["parameters", (cell) => whole(cell.parameters)],
    ["test accuracy, %", (cell) => withError(cell.test_accuracy, cell.test_accuracy_error, 100)],
    ["test loss", (cell) => withError(cell.test_loss, cell.test_loss_error)],
    result.cells.some((cell) => Object.keys(cell.chosen).length) ? ["chosen", (cell) => Object.entries(cell.chosen).map(([name, value]) => `${words(name)} ${number(value)}`).join(", ") || "–"] : null,
    ["seeds", (cell) => `${cell.succeeded} of ${cell.runs.length}`]].filter(Boolean);
  const best = Math.max(...result.cells.map((cell) => cell.test_accuracy ?? -1));
  return [
    ...notes(result),
    result.failed ? h("div.notice.warn", {}, h("p", {}, `${result.failed} of ${counted(result.trainings, "training")} failed; the others are counted.`)) : null,
    h("section", {}, h("h2", {}, "Results"), table(columns.map(([head]) => head), result.cells.map((cell) => ({
      attributes: cell.test_accuracy === best ? { class: "best" } : {}, cells: columns.map(([, of]) => of(cell)),
    })))),
    h("p.muted.small", {}, "Means over the seeds ± their standard error; the best cell is marked."),
  ].filter(Boolean);
}
