// One job: its state and progress, followed live, then its result.

import { follow, get, post, save } from "./api.js";
import { bytes, counted, details, duration, h, table } from "./dom.js";
import { showSearch } from "./search.js";
import { metricCharts, showStudy, showTraining } from "./training.js";

const TERMINAL = ["succeeded", "failed", "cancelled"];
const RESULTS = { search: showSearch, training: showTraining, study: showStudy };

export function jobName(job) {
  const spec = job.spec ?? {};
  if (job.kind === "study") return spec.title || `study of ${counted(spec.architectures?.length ?? 0, "architecture")}`;
  const baseline = spec.baseline ?? spec.architecture?.baseline;
  const name = baseline?.preset ?? (baseline?.family === "mlp" ? `${activation(baseline)}MLP ${baseline.inputs}–${compact(baseline.hidden)}–${baseline.outputs}`
    : baseline?.family === "resnext" ? `ResNeXt ${baseline.cardinality ?? 1}×${baseline.base_width ?? 64}d` : baseline?.name ?? baseline?.family ?? spec.architecture?.transformer ?? job.kind);
  if (job.kind !== "training") return name;
  const groupings = (spec.architecture?.stages ?? [spec.architecture ?? {}]).map(grouping);
  return `${spec.method} · ${groupings.every(Boolean) ? `${groupings.join(", ")} of ` : ""}${name} · ${(spec.data?.name ?? "").slice(0, 16)}`;
}

function activation(baseline) {
  const name = baseline.activation?.name ?? baseline.activation ?? "relu";
  return name === "relu" ? "" : `${name} `;
}

function grouping({ width, widths, multiplicity }) {
  const member = width ?? (widths && (new Set(widths).size === 1 ? widths[0] : `(${widths.join(", ")})`));
  return member && multiplicity ? `${multiplicity}×${member}` : null;
}

const compact = (hidden) => hidden.every((n) => n === hidden[0]) && hidden.length > 1 ? `[${hidden[0]}]×${hidden.length}` : hidden.join("–");

export async function showJob(main, id, signal, changed) {
  let job = await get(`/v1/jobs/${id}`, { signal });
  const chip = h("span.chip", {});
  const fill = h("div.fill", {});
  const bar = h("div.progress", { role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, fill);
  const message = h("p.message", { "aria-live": "polite" });
  const clock = h("span.muted", {});
  const cancel = h("button.button.quiet", { type: "button", onclick: async () => {
    cancel.disabled = true;
    try { job = await post(`/v1/jobs/${id}/cancel`); state(job.status); changed(); } catch (error) { message.textContent = error.message; cancel.disabled = false; }
  } }, "Cancel");
  const body = h("div.result", {}), files = h("div.result", {});
  const live = h("div.live", {});
  const again = h("a.button.quiet", { href: `#/new?from=${id}` }, "Use as template");
  const actions = h("p.actions", {}, cancel, again);
  const history = h("ol.history", {});
  const charts = job.kind === "training" ? metricCharts(live) : null;

  document.title = `${jobName(job)} · collegium`;
  main.replaceChildren(h("article.job-page", {},
    h("header", {}, h("div.title", {}, h("h1", {}, jobName(job)), chip),
      h("p.facts", {}, job.kind, " ", h("code", {}, job.id), " · ", clock, job.parent_id ? [" · part of ", h("a", { href: `#/jobs/${job.parent_id}` }, job.parent_id)] : null),
      actions),
    bar, message, live, body, files,
    details("Specification", h("pre", {}, JSON.stringify(job.spec, null, 2))),
    details("History", history)));

  function state(status) {
    chip.textContent = status;
    chip.className = `chip ${status}`;
    const over = TERMINAL.includes(status);
    cancel.hidden = over;
    cancel.disabled = status === "cancelling";
    bar.hidden = over;
    live.classList.toggle("over", over);
    message.hidden = over && status !== "cancelled";
    bar.classList.toggle("waiting", status === "queued");
  }

  function progress(fraction, text) {
    fill.style.width = `${(100 * fraction).toFixed(1)}%`;
    bar.setAttribute("aria-valuenow", String(Math.round(100 * fraction)));
    if (text) message.textContent = text;
  }

  function tick() {
    const from = Date.parse(job.started_at ?? job.created_at), to = job.finished_at ? Date.parse(job.finished_at) : Date.now();
    clock.textContent = job.started_at ? `${job.finished_at ? "took" : "running for"} ${duration((to - from) / 1000)}` : "waiting for a worker";
    if (job.attempt > 1) clock.textContent += ` · attempt ${job.attempt}`;
  }

  function note(type, data) {
    if (type === "metric" || type === "progress") return;
    const words = type === "state" ? [data.status, data.reason, data.worker, data.failure?.message].filter(Boolean).join(" · ") : data.message ?? JSON.stringify(data);
    history.append(h("li", {}, h("time", { datetime: data.at }, new Date(data.at).toLocaleTimeString()), " ", words));
  }

  async function finish() {
    job = await get(`/v1/jobs/${id}`, { signal });
    state(job.status);
    tick();
    changed();
    const parts = [];
    if (job.failure) parts.push(h("div.notice.bad", { role: "alert" }, h("p", {}, h("strong", {}, job.failure.kind.replaceAll("_", " ")), " – ", job.failure.message), job.failure.remedy ? h("p", {}, job.failure.remedy) : null,
      job.failure.log_tail ? details("End of the log", h("pre", {}, job.failure.log_tail)) : null));
    if (job.kind === "search" && job.result) actions.append(...trainLinks(job));
    if (job.result) parts.push(...RESULTS[job.kind]?.(job) ?? [h("pre", {}, JSON.stringify(job.result, null, 2))]);
    if (job.kind === "study") parts.push(await members(job, signal));
    const { items } = await get(`/v1/jobs/${id}/artifacts`, { signal }), after = [];
    if (items.length) after.push(h("section", {}, h("h2", {}, "Files"), table(["name", "size", "SHA-256"], items.map((file) => [
      h("a", { href: file.link, onclick: (event) => { event.preventDefault(); save(file.link, file.name); } }, file.name), bytes(file.bytes), h("code.hash", { title: file.sha256 }, `${file.sha256.slice(0, 12)}…`)]))));
    if (job.result) after.push(details("Result as JSON", h("pre", {}, JSON.stringify(job.result, null, 2))));
    body.replaceChildren(...parts);
    files.replaceChildren(...after);
    body.after(live); // the curves of a training, above its files
  }

  state(job.status);
  progress(job.progress.fraction, job.progress.message);
  tick();
  const timer = setInterval(() => { if (!TERMINAL.includes(job.status)) tick(); }, 1000);
  signal.addEventListener("abort", () => clearInterval(timer));
  let shown = false;
  if (TERMINAL.includes(job.status)) { await finish(); shown = true; }
  await follow(`/v1/jobs/${id}/events`, (type, data) => {
    note(type, data);
    if (type === "progress") progress(data.fraction, data.message);
    if (type === "metric") charts?.(data);
    if (type === "state" && !shown) {
      state(data.status);
      if (data.status === "running") { job.started_at ??= data.at; job.attempt = data.attempt; job.status = "running"; changed(); }
    }
  }, signal);
  if (!shown && !signal.aborted) await finish();
}

// A described network is trained where its description has the whole graph, in groupings of its branches.
export function trainLinks(job) {
  const { family, graph } = job.spec.baseline ?? {};
  const trained = (answer) => answer && (family !== "network" || (graph && answer.branches?.length));
  return ["primal", "dual", "recommended", "tied_primal", "tied_dual"].filter((choice) => trained(job.result[choice])).map((choice) => h("a.button.quiet", { href: `#/new?train=${job.id}&choice=${choice}` }, `Train the ${choice.replace("_", " ")}`));
}

async function members(job, signal) {
  const { items, next_cursor: more } = await get(`${job.links.children}&limit=200`, { signal });
  return details(`Trainings (${items.length}${more ? " and more" : ""})`, table(["training", "seed", "state"], items.map((one) =>
    [h("a", { href: `#/jobs/${one.id}` }, jobName(one)), one.spec.seed ?? "–", one.status])));
}
