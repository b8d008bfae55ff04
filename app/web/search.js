// The result of a search: the two ensembles, their uncertainty, and the estimates that they follow from.

import { counted, details, duration, h, memory, number, percent, table, whole, widths } from "./dom.js";
import { chart } from "./plot.js";

const MEASURES = { parameters: "parameters", flops: "FLOPs", latency: "time", memory: "memory" };
const WORDS = { found: "good", baseline_is_optimal: "good" };

export function showSearch(job) {
  const result = withPrefixes(job.result);
  return [
    notices(result),
    isCurve(result) ? null : h("div.headline", {}, ensembleCard("Primal", "smallest variance at the same cost", result.primal, result, true), ensembleCard("Dual", "smallest cost at the same variance", result.dual, result, false),
      measuredPick(result) ? ensembleCard("Recommended", measuredPick(result).reason, result.recommended, result, false, "recommended") : null),
    h("p.muted", {}, `Baseline ${result.baseline.multiplicity}×${widths(result.baseline)}: variance ${number(result.baseline.variance)}, ${whole(result.baseline.parameters)} parameters, ${whole(result.baseline.flops)} FLOPs.`,
      result.subject ? ` The variance is that of ${result.subject}.` : ""),
    gains(result), branches(result), stages(result), costs(result),
    band(result), curves(result), uncertainty(result), alpha(result), curveTable(result),
    h("p.muted.small", {}, `${result.title} · ${result.method.replaceAll("_", " ")} · seed ${result.seed} · ${counted(result.samples, "sample")}${result.reused ? ` (${whole(result.reused)} from earlier searches)` : ""} · ${result.device} · ${duration(result.seconds)} of computation · `,
      Object.entries(result.versions).map(([name, version]) => `${name} ${version}`).join(", ")),
  ].filter(Boolean);
}

// Results that were stored earlier have the dual's fields of each row without their prefix, and at the primal's width.
function withPrefixes(result) {
  const named = (line) => "dual_efficiency" in line ? line : { ...line, dual_parameters: line.parameters, dual_efficiency: line.efficiency, dual_efficiency_real: line.efficiency_real };
  const atOwnWidth = (line) => "dual_widths" in line ? line : { ...line, dual_width: line.width, dual_widths: line.widths };
  return { ...result, curve: result.curve.map(named), correlations: result.correlations.map(named).map(atOwnWidth) };
}

function notices(result) {
  return h("div", {}, [result.outcome, ...result.notes].map((one) => h(`div.notice.${WORDS[one.kind] ?? "warn"}`, {}, h("p", {}, one.message), one.remedy ? h("p.muted", {}, one.remedy) : null)));
}

// Whether the answer is a curve and no ensemble, as of the heads of attention.
const isCurve = (result) => result.outcome.kind === "no_optimum";

// The fastest ensemble that was measured; null where no time was.
const measuredPick = (result) => result.costs?.machine && result.recommended ? result.near_optimal?.recommended : null;

function ensembleCard(name, purpose, found, result, primal, kind = primal ? "primal" : "dual") {
  if (!found) return h("section.ensemble-card", {}, h("h2", {}, name), h("p.purpose", {}, purpose), h("p.muted", {}, "No ensemble meets this constraint."));
  const base = result.baseline;
  const measured = result.costs?.rows[0];
  return h(`section.ensemble-card.${kind}`, {},
    h("h2", {}, name), h("p.purpose", {}, purpose),
    found.uniform === false ? h("p.grouping.stages", {}, h("b", {}, found.label)) : h("p.grouping", {}, h("b", {}, whole(found.multiplicity)), h("span.times", {}, "×"), h("b", {}, widths(found))),
    h("dl", {},
      row("variance", number(found.variance), found.stages?.length > 1 ? `at most ${percent(found.relative_variance)} of the baseline in every stage` : share(found.variance, base.variance)),
      row("parameters", whole(found.parameters), share(found.parameters, base.parameters)),
      row("FLOPs", whole(found.flops), share(found.flops, base.flops)),
      found.latency_ms ? row("time", `${number(found.latency_ms)} ms`, share(found.latency_ms, measured.latency_ms)) : null,
      found.memory_bytes ? row("memory", memory(found.memory_bytes), share(found.memory_bytes, measured.memory_bytes)) : null,
      found.budget_share ? row("cost", percent(found.budget_share, 4), result.budget_tolerance ? "of the baseline’s" : "of the budget") : null,
      row("efficiency ρ", number(found.efficiency), `in ${MEASURES[result.measure]}`),
      found.gap > 1e-5 ? row("gap", percent(found.gap, 2), "by which another choice could at most be better") : null,
      found.uniform === false ? null : row("m before rounding", number(found.multiplicity_real, 4), "")));
}

// Of rectifiers the gains are the usual ones, and go without saying.
function gains(result) {
  const layers = result.gains ?? [];
  if (layers.every((layer) => ["relu", "identity"].includes(layer.activation))) return null;
  const names = [...new Set(layers.slice(0, -1).map((layer) => layer.activation))].join(", ");
  return h("p.muted", {}, `Activation ${names}; weights start with the variance g / fan-in, where g is ${layers.map((layer) => number(layer.gain, 4)).join(", ")} from the first layer to the last.`);
}

function stages(result) {
  const found = [["primal", result.primal], ["dual", result.dual]].filter(([, one]) => one?.stages?.length > 1);
  if (!found.length || result.branches?.length) return null;
  return table(["variance over the baseline’s", ...found[0][1].stages.map((_, index) => `stage ${index + 1}`)], found.map(([name, one]) =>
    [name, ...one.stages.map((stage) => `${stage.multiplicity}×${widths(stage)}: ${percent(stage.relative_variance)}`)]));
}

const share = (value, base) => `${percent(value / base)} of the baseline`;
const row = (term, value, note) => h("div", {}, h("dt", {}, term), h("dd", {}, value, note ? h("span.muted", {}, ` ${note}`) : null));

function band(result) {
  const near = result.near_optimal;
  if (!near) return null;
  const pick = near.recommended;
  if (isCurve(result)) return h("section", {}, h("h2", {}, "Near the least"), h("p", {}, "Heads of every width from ", h("b", {}, near.min_width), " to ", h("b", {}, near.max_width), ` are within ${percent(near.tolerance)} of the least variance, or cannot be told from it.`));
  if (!pick) return h("section", {}, h("h2", {}, "Near the optimum"), h("p", {}, `Every width from `, h("b", {}, near.min_width), " to ", h("b", {}, near.max_width), ` is within ${percent(near.tolerance)} of the optimum; no ensemble of them is recommended.`));
  const own = pick.primal?.uniform === false; // then the primal is named as a whole, and not again
  const ensembles = [["primal", own ? null : pick.primal], ["dual", pick.dual]].filter(([, one]) => one).map(([name, one]) => `${name} ${one.label || `${one.multiplicity}×${widths(one)}`}`).join(", ");
  const fastest = measuredPick(result) ? "The fastest measured ensemble" : "For hardware";
  return h("section", {}, h("h2", {}, result.stages === "own" ? "Near the optimum of one m × n for all stages" : "Near the optimum"),
    h("p", {}, `Every width from `, h("b", {}, near.min_width), " to ", h("b", {}, near.max_width), ` is within ${percent(near.tolerance)} of the optimum.`),
    h("p", {}, own ? `${fastest}, each stage its own: ` : `${fastest}: `, h("b", {}, own ? pick.primal.label : widths(pick)), ensembles || !own ? ` (${ensembles || "no ensemble"})` : "", `: ${pick.reason}.`));
}

function costs(result) {
  const found = result.costs;
  if (!found) return null;
  const kinds = [["latency", "time of a batch, ms", (line) => line.latency_ms], ["parameters", "parameters", (line) => line.parameters], ["memory", "memory, MiB", (line) => line.memory_bytes / 2 ** 20]]
    .filter(([kind]) => kind !== "latency" || found.machine);
  const mark = (value, one) => one && found.rows.filter((line) => line.label === one.label)
    .map((line) => ({ x: value(line), y: line.relative_variance, label: one.label }));
  const figures = kinds.map(([kind, label, value]) => {
    const on = found.rows.filter((line) => line.fronts.includes(kind)), off = found.rows.filter((line) => !line.fronts.includes(kind));
    const points = (lines) => lines.map((line) => [value(line), line.relative_variance, 0, line]).sort(byX);
    return h("figure", {}, chart({ series: [{ name: "best for it", color: 1, points: points(on) }, { name: "others", kind: "points", color: 4, points: points(off) }].filter((one) => one.points.length), width: 460, height: 250, xLabel: label, yLabel: "variance ÷ baseline’s", yLog: true,
      marks: mark(value, result.primal) ?? [], level: { y: 1, label: "baseline" }, describe: ([x, y, , line]) => `${line.label}: ${number(y)} at ${number(x)}` }));
  });
  const where = found.machine ? `, on ${found.machine}, ${counted(found.threads, "thread")}; ${counted(found.measured, "part")} timed, ${whole(found.reused)} reused from earlier searches.` : "; memory is counted, no time was measured.";
  const time = (value, error) => value === null ? "–" : `${number(value)} ± ${number(error, 1)}`;
  const sorted = [...found.rows].sort((a, b) => a.relative_variance - b.relative_variance);
  return h("section", {}, h("h2", {}, "Variance against cost"), h("p", {}, `${counted(found.rows.length, "ensemble")}: ${found.workload}${where}`), h("div.charts", {}, figures),
    details(`All ${counted(found.rows.length, "ensemble")}`, table(["m × n", "of the baseline’s variance", "ms", "parameters", "memory", "best for"], sorted.map((line) => ({
      attributes: line.fronts.length ? { class: "best" } : {}, cells: [line.label, percent(line.relative_variance), time(line.latency_ms, line.latency_error_ms), whole(line.parameters), memory(line.memory_bytes), line.fronts.join(", ")] })))),
    found.checks.length ? table(["measured whole", "ms", "sum of its parts", "deviation"], found.checks.map((one) => [one.label || `${one.multiplicity}×${widths(one)}`, time(one.whole_ms, one.whole_error_ms), time(one.sum_ms, one.sum_error_ms), percent(one.deviation, 2)])) : null);
}

function branches(result) {
  if (!result.branches?.length) return null;
  const answer = (one) => one ? [`${one.label}`, percent(one.relative_variance)] : ["none", "–"];
  return h("section", {}, h("h2", {}, "Branches"), h("p", {}, "Each is a search of its own, within its share of the budget; curve, band and check on this page are those of the first."),
    table(["branches", "parameters", "baseline", "primal", "of its variance", "dual", "of its variance"], result.branches.map((one) =>
      [one.names.join(", "), whole(one.parameters), `${one.result.baseline.multiplicity}×${widths(one.result.baseline)}`, ...answer(one.result.primal), ...answer(one.result.dual)])));
}

function curves(result) {
  const tied = result.curve.filter((line) => line.widths.length && (line.width !== null || result.curve.every((other) => other.width === null)));
  if (tied.length < 2) return null;
  const vector = result.space === "vector";
  const x = (line) => line.width ?? line.widths[0];
  const wide = Math.max(...tied.map(x)) / Math.min(...tied.map(x)) > 8;
  const near = vector || !result.near_optimal ? null : [result.near_optimal.min_width, result.near_optimal.max_width];
  const bandLabel = near ? `within ${percent(result.near_optimal.tolerance)} of the optimum` : "";
  const counted = ["parameters", "flops"].includes(result.measure);
  const [tiedPrimal, tiedDual] = !counted ? [null, null] : result.stages === "own" ? [result.tied_primal, result.tied_dual] : [result.primal, result.dual];
  const mark = (one, y) => one && !vector ? [{ x: x(one), y, label: `${one.multiplicity}×${widths(one)}` }] : [];
  const primal = tied.filter((line) => line.primal_variance !== null).map((line) => [x(line), line.primal_variance, 0, line]).sort(byX);
  const dual = tied.filter((line) => line.dual_efficiency !== null).map((line) => [x(line), line.dual_efficiency_real ?? line.dual_efficiency, 0, line]).sort(byX);
  if (Math.max(primal.length, dual.length) < 2) return null;
  return h("section", {}, h("h2", {}, "Variance and efficiency by width"), h("div.charts", {},
    primal.length > 1 ? h("figure", {}, chart({ series: [{ points: primal, color: 1 }], width: 460, height: 250, xLabel: "width n", yLabel: "variance at the budget", xLog: wide, yLog: true, band: near, bandLabel, level: result.baseline.variance === null ? null : { y: result.baseline.variance, label: "baseline" },
      marks: mark(tiedPrimal, rowOf(result.curve, tiedPrimal)?.primal_variance ?? tiedPrimal?.variance), describe: ([n, v, , line]) => `${line.primal_multiplicity} × ${n}: ${number(v)}` }), h("figcaption", {}, "Primal: lower is better. The band is near-optimal.")) : null,
    dual.length > 1 ? h("figure", {}, chart({ series: [{ points: dual, color: 2 }], width: 460, height: 250, xLabel: "width n", yLabel: `efficiency ρ (${counted ? result.measure : "parameters"})`, xLog: wide, band: near, bandLabel, level: { y: 1, label: "baseline" },
      marks: mark(tiedDual, rowOf(result.curve, tiedDual)?.dual_efficiency_real ?? tiedDual?.efficiency), describe: ([n, rho, , line]) => `${line.dual_multiplicity} × ${n}: ρ ${number(rho)}` }), h("figcaption", {}, "Dual: higher is better.")) : null));
}

const answerOf = (member, multiplicity) => multiplicity === null ? "none" : `${whole(multiplicity)}×${widths(member)}`;
const rowOf = (curve, member) => member && curve.find((line) => JSON.stringify(line.widths) === JSON.stringify(member.widths));
const byX = (a, b) => a[0] - b[0];

const agreements = { agree: "they agree", disagree: "they disagree", cannot_tell: "the samples cannot tell" };
// results that were stored earlier have agrees alone
const agreement = (compared) => `${agreements[compared.agreement ?? (compared.agrees ? "agree" : "disagree")]}.`;

function uncertainty(result) {
  const parts = [];
  const sure = result.confidence;
  if (sure) parts.push(h("p", {}, sure.draws ? ["n* is optimal in ", h("b", {}, percent(sure.frequency)), ` of ${sure.draws} redrawn estimates; ${percent(sure.level)} of their optima are between ${sure.low} and ${sure.high}. `,
    `It is within the tolerance in ${percent(sure.within_tolerance)}.`] : "The closed form has no sampling error: n* is certain for these inputs."));
  if (result.check) parts.push(h("p", {}, `Monte Carlo check: at most ${number(result.check.largest, 2)} standard errors from the closed form over ${counted(result.check.points.length, "width")} – `, h("b", {}, agreement(result.check))));
  if (result.verification) {
    const measured = [["primal", result.verification.primal], ["dual", result.verification.dual]].filter(([, one]) => one);
    parts.push(h("h3", {}, "Built and measured"), table(["", "ensemble", "predicted Var", "measured Var", "standard errors apart", "agreement"], measured.map(([name, one]) =>
      [name, `${one.multiplicity}×${widths(one)}`, number(one.predicted, 4), `${number(one.measured, 4)} ± ${number(one.standard_error, 2)}`, number(one.standard_errors_apart, 2), one.agreement ? agreements[one.agreement] : "–"])), h("p", {}, "Together: ", h("b", {}, agreement(result.verification))));
  }
  if (result.network) parts.push(h("h3", {}, "Whole networks"), h("p", {}, result.network.statement),
    table(["", "m × n", "Var", "of the baseline's", "initializations", "condition number"], result.network.networks.map((one) =>
      [one.name, one.label, `${number(one.relative_variance, 3)} ± ${number(one.standard_error, 2)}`,
        one.ratio === null ? "–" : `${number(one.ratio, 3)} ± ${number(one.ratio_standard_error, 2)}`, whole(one.draws), number(one.gram.condition_number.quantiles[2], 3)])));
  if (result.correlations.length) parts.push(h("h3", {}, "Other input correlations"), table(["correlation", "primal", "dual", "ρ"], result.correlations.map((line) =>
    [number(line.correlation), answerOf(line, line.primal_multiplicity), answerOf({ width: line.dual_width, widths: line.dual_widths }, line.dual_multiplicity), number(line.dual_efficiency)])));
  return parts.length ? h("section", {}, h("h2", {}, "Uncertainty"), parts) : null;
}

function alpha(result) {
  if (isCurve(result)) return null;
  const fit = result.alpha, points = fit.points.filter((point) => point.log_moment_ratio > 0 && point.converged !== false);
  const used = points.filter((point) => point.used), other = points.filter((point) => !point.used);
  const as = (list) => list.map((point) => [point.inverse_fan_in_sum, point.log_moment_ratio, point.standard_error, point]);
  const ends = points.length ? [Math.min, Math.max].map((pick) => pick(...points.map((point) => point.inverse_fan_in_sum))) : [];
  return h("section", {}, h("h2", {}, "Fit of α"),
    h("p", {}, "ln r ≈ α · s(n) with α = ", h("b", {}, number(fit.value, 4)), fit.standard_error > 0 ? ` ± ${number(fit.standard_error, 2)}` : "", ` (${fit.method.replaceAll("_", " ")}`,
      fit.window ? `, widths ${fit.window.min_width} to ${fit.window.max_width}` : "", fit.r_squared !== null ? `, R² ${number(fit.r_squared, 5)}` : "", ")."),
    points.length > 1 ? h("figure", {}, chart({ series: [{ name: "in the fit", kind: "points", color: 1, points: as(used) }, { name: "outside", kind: "points", color: 4, points: as(other) }, { name: "α · s", color: 3, points: fit.value === null ? [] : ends.map((s) => [s, fit.value * s]) }].filter((one) => one.points.length),
      xLabel: "inverse fan-in sum s(n)", yLabel: "ln r", xLog: true, yLog: true, describe: ([s, y, , point]) => point ? `n = ${widths(point)}: ${number(y, 4)}` : `α · s = ${number(y, 4)}` })) : null,
    fit.points.length ? details(counted(fit.points.length, "point"), table(["n", "s(n)", "samples", "ln r", "standard error", "residual", "converged", "in the fit"], fit.points.map((point) =>
      [widths(point), number(point.inverse_fan_in_sum, 4), whole(point.samples), number(point.log_moment_ratio, 5), number(point.standard_error, 2), number(point.residual, 2), point.converged === false ? "no" : "yes", point.used ? "yes" : "no"]))) : null);
}

function curveTable(result) {
  if (isCurve(result)) return table(["heads × width", "variance", "of the baseline’s", "±"], result.curve.map((line) =>
    [`${whole(line.primal_multiplicity)} × ${widths(line)}`, number(line.primal_variance), percent(line.primal_relative_variance), percent(line.primal_standard_error, 2)]));
  const best = JSON.stringify(result.primal?.widths ?? result.dual?.widths ?? null);
  return details(`All ${counted(result.curve.length, "width")} considered`, table(["n", "Var of one", "primal m", "Var at the budget", "dual m", "parameters", "ρ"], result.curve.map((line) => ({
    attributes: JSON.stringify(line.widths) === best ? { class: "best" } : {},
    cells: [widths(line), number(line.variance), whole(line.primal_multiplicity), number(line.primal_variance), whole(line.dual_multiplicity), whole(line.dual_parameters), number(line.dual_efficiency)] }))));
}
