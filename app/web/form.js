// A new request: a preset or a template fills the JSON editor, choices edit it, and the service validates it.

import { Problem, get, post } from "./api.js";
import { described } from "./described.js";
import { h, whole } from "./dom.js";

const BLOCK = {
  family: "block", input: { channels: 64, height: 8, width: 8 },
  layers: [{ type: "conv", out: "n", kernel: 3 }, { type: "relu" }, { type: "conv", out: "n", kernel: 3 }, { type: "relu" }, { type: "conv", out: 64, kernel: 1 }],
  widths: { n: 64 },
};
const hidden = [{ kind: "linear", bias: true }, { kind: "activation", function: "relu" }];
const DESCRIBED = {
  family: "network", name: "what collegium describe writes: paste yours", input: [64], outputs: 10, parameters: 17_610, flops: 17_400,
  branches: [{ name: "0 … 4", layers: [...hidden, ...hidden, { kind: "linear", bias: true }], widths: [64, 100, 100, 10], parameters: 17_610, flops: 17_400, splittable: true }],
};
const TEMPLATES = {
  mlp: { title: "an MLP", spec: { baseline: { family: "mlp", inputs: 784, hidden: [500, 500, 500, 500, 500], outputs: 10 } } },
  resnext: { title: "a ResNeXt", spec: { baseline: { family: "resnext", layout: "cifar", depth: 29, cardinality: 1, base_width: 64, classes: 10 } } },
  block: { title: "a block", spec: { baseline: BLOCK } },
  described: { title: "your own network", spec: { baseline: DESCRIBED } },
  training: { title: "a training", to: "/v1/trainings", spec: { architecture: { baseline: { preset: "mlp-digits-6x100" }, width: 16, multiplicity: 21 }, method: "vanilla", data: { name: "digits" }, recipe: { name: "digits" }, seed: 0 } },
  study: { title: "a study", to: "/v1/studies", spec: { title: "Baseline against ensemble", architectures: [{ name: "1×100", architecture: { baseline: { preset: "mlp-digits-6x100" } } }, { name: "21×16", architecture: { baseline: { preset: "mlp-digits-6x100" }, width: 16, multiplicity: 21 } }], methods: [{ method: "vanilla" }], data: { name: "digits" }, seeds: [0, 1, 2] } },
};
const WHERE = { search: "/v1/searches", training: "/v1/trainings", study: "/v1/studies" };
const HEADS = {
  "/v1/searches": ["New search", "Choose an architecture, adjust the specification, and start. The result gives the number of members, their width and the uncertainty of both."],
  "/v1/trainings": ["New training", "Choose method, data and recipe, adjust the specification, and start. The result is the trained model, collapsed where the method expands it."],
  "/v1/studies": ["New study", "Architectures × methods × recipes, each trained with several seeds. The result is a table of means and standard errors."],
};

// The path of what is wrong with the specification as a whole: a message alone.
const WHOLE = "$";
const pretty = (value) => JSON.stringify(value, null, 2)
  .replace(/\[\s+([-\d.,\s"a-z]+?)\s+\]/gi, (_, inner) => `[${inner.replace(/\s*\n\s*/g, " ")}]`);

function set(document, path, value) {
  const keys = path.split("."), last = keys.pop();
  let node = document;
  for (const key of keys) {
    if (typeof node[key] === "string") node[key] = { name: node[key] };
    node = node[key] ??= {};
  }
  if (value === null) delete node[last]; else node[last] = value;
  for (const key of keys) if (document[key] && typeof document[key] === "object" && !Object.keys(document[key]).length) delete document[key];
}

export async function showForm(main, wanted, posted) {
  const [presets, methods, formats, uploads, recipes] = (await Promise.all(["presets", "methods", "data-formats", "datasets", "recipes"].map((name) => get(`/v1/${name}`)))).map((list) => list.items);
  let target = WHERE.search;
  const editor = h("textarea", { id: "spec", spellcheck: "false", rows: 14, "aria-label": "Specification as JSON", "aria-describedby": "wrong" });
  const wrong = h("div", { id: "wrong", "aria-live": "polite" });
  const parts = h("div.described", { "aria-live": "polite" });
  const where = h("code", {}, target);
  const submit = h("button.button.primary", { type: "submit" }, "Start");
  const title = h("h1", {}), purpose = h("p.muted", {});
  const choices = { "/v1/searches": h("div.options", {},
    choice("Activation of an MLP", "baseline.activation", [["", "ReLU"], ["leaky_relu", "leaky ReLU"], ["relu6", "ReLU6"], ["gelu", "GELU"], ["gelu_tanh", "GELU (tanh)"], ["silu", "SiLU"], ["mish", "Mish"], ["hardswish", "hard swish"], ["sigmoid", "sigmoid"], ["tanh", "tanh"], ["elu", "ELU"], ["selu", "SELU"], ["celu", "CELU"], ["softplus", "softplus"], ["identity", "identity"]]),
    choice("Estimator", "estimator.method", [["", "automatic"], ["exact", "closed form"], ["monte_carlo", "Monte Carlo"]]),
    choice("Efficiency", "efficiency", [["", "parameters"], ["flops", "FLOPs"], ["latency", "time, measured"], ["memory", "memory"]]),
    choice("Workload", "workload.mode", [["", "none"], ["inference", "inference"], ["training", "training step"]]),
    choice("Widths", "space.mode", [["", "one ratio"], ["vector", "each its own"]]),
    choice("Stages", "space.stages", [["", "one m × n"], ["own", "each its own"]]),
    choice("Input correlation", "inputs.correlation", [["", "0.95 (default)"], ["1", "1"], ["0.9", "0.9"], ["0.8", "0.8"], ["0.5", "0.5"], ["0", "0 (white noise)"]], Number),
    choice("Verify", "verify", [["", "no"], ["true", "measure the modules"], ["network", "measure whole networks (minutes)"]], (text) => text === "true" || text)),
  "/v1/trainings": h("div.options", {},
    choice("Method", "method", methods.map((method) => [method.name, method.name, method.summary])),
    choice("Data", "data.name", [...formats.flatMap((format) => format.data.map((data) => [data.name, data.name, format.summary])), ...uploads.map((data) => [data.id, `${data.name} (uploaded)`, data.id])]),
    choice("Recipe", "recipe.name", [["", "that of the data"], ...recipes.map((recipe) => [recipe.name, recipe.name])])) };
  const options = Object.values(choices);

  // A preset has no activation of its own: an MLP's is written out.
  async function withBaseline(spec, path) {
    const preset = presets.find((one) => one.name === spec.baseline?.preset);
    if (path.startsWith("baseline.") && preset) spec.baseline = { ...(await get(`/v1/presets/${encodeURIComponent(preset.name)}`)).baseline };
    return spec;
  }

  function choice(label, path, values, convert = String) {
    const select = h("select", { onchange: () => edit(async (spec) => set(await withBaseline(spec, path), path, select.value === "" ? null : convert(select.value))) },
      values.map(([value, text, hint]) => h("option", { value, title: hint }, text)));
    select.dataset.path = path;
    if (path === "baseline.activation") select.dataset.family = "mlp";
    return h("label", {}, label, select);
  }

  function load(spec, to = WHERE.search) {
    target = to;
    where.textContent = to;
    editor.value = pretty(spec);
    for (const [where, row] of Object.entries(choices)) row.hidden = where !== to;
    cards.hidden = to !== WHERE.search;
    [title.textContent, purpose.textContent] = HEADS[to];
    wrong.replaceChildren();
    reflect();
  }

  function reflect() {
    let spec;
    try { spec = JSON.parse(editor.value); } catch { return; }
    if (spec?.family === "network" && !spec.baseline) { // a description alone is the baseline of a search
      spec = { baseline: spec };
      editor.value = pretty(spec);
    }
    parts.replaceChildren();
    try { parts.append(described(spec?.baseline) ?? ""); } catch { /* what is wrong with it is said once it is sent */ }
    const family = spec.baseline?.family ?? presets.find((one) => one.name === spec.baseline?.preset)?.family;
    for (const select of options.flatMap((row) => [...row.querySelectorAll("select")])) {
      const value = select.dataset.path.split(".").reduce((node, key) => node?.[key] ?? (key === "name" && typeof node === "string" ? node : undefined), spec);
      const text = value === undefined ? "" : String(value?.name ?? value);
      select.parentElement.hidden = Boolean(select.dataset.family) && select.dataset.family !== family;
      select.value = [...select.options].some((option) => option.value === text) ? text : "";
    }
  }

  // One after another: a change that waits for a preset must not undo those that were made meanwhile.
  let edited = Promise.resolve();
  function edit(change) {
    edited = edited.then(async () => {
      try {
        const spec = JSON.parse(editor.value);
        await change(spec);
        editor.value = pretty(spec);
        wrong.replaceChildren();
      } catch (error) { complain([{ path: WHOLE, message: error.message }]); }
    });
    return edited;
  }

  function complain(errors) {
    wrong.replaceChildren(complaints(errors));
  }

  // One stop of the keyboard: arrow keys move within, and the chosen one is where it is entered.
  const cards = h("div.cards", { role: "group", "aria-label": "Presets; arrow keys move", onkeydown: (event) => {
    const all = [...cards.children], columns = getComputedStyle(cards).gridTemplateColumns.split(" ").length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -all.length, End: all.length }[event.key];
    if (!step) return;
    event.preventDefault();
    enter(all[Math.min(all.length - 1, Math.max(0, all.indexOf(document.activeElement) + step))]).focus();
  } },
    presets.map((preset) => card(preset.name, `${whole(preset.parameters)} parameters`, preset.about, () => load({ baseline: { preset: preset.name } }))));
  const own = h("div.own", {}, h("span.muted", {}, "Start from"),
    Object.values(TEMPLATES).map((one) => card(one.title, "", "", () => load(one.spec, one.to))));

  function enter(chosen) {
    for (const each of cards.children) each.tabIndex = each === chosen ? 0 : -1;
    return chosen;
  }

  function card(title, line, hint, chosen) {
    return h("button.card", { type: "button", title: hint, onclick: (event) => {
      for (const other of [...cards.children, ...own.querySelectorAll("button")]) other.classList.toggle("chosen", other === event.currentTarget);
      if (cards.contains(event.currentTarget)) enter(event.currentTarget);
      chosen();
    } }, h("strong", {}, title), h("span", {}, line));
  }

  async function send(event) {
    event.preventDefault();
    wrong.replaceChildren();
    submit.disabled = true;
    try { posted(await post(target, editor.value)); } catch (error) {
      complain(error instanceof Problem && error.document.errors ? error.document.errors : [{ path: WHOLE, message: error.message }]);
      const path = error.document?.errors?.[0]?.path;
      if (path) mark(editor, path);
    } finally { submit.disabled = false; }
  }

  editor.addEventListener("input", reflect);
  editor.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send(event); });
  main.replaceChildren(h("form.new", { onsubmit: send },
    title, purpose,
    cards, own, options, h("p.where", {}, "POST ", where, h("span.muted", {}, " · Ctrl + Enter starts")), editor, wrong, parts, h("p.actions", {}, submit)));
  enter(cards.firstChild);
  if (wanted.get("from")) {
    const job = await get(`/v1/jobs/${encodeURIComponent(wanted.get("from"))}`);
    load(job.spec, WHERE[job.kind] ?? WHERE.search);
  } else if (wanted.get("train")) {
    load({ ...TEMPLATES.training.spec, architecture: { search: wanted.get("train"), choice: wanted.get("choice") ?? "primal" } }, WHERE.training);
  } else {
    (cards.querySelector("button[title^='ResNet-50 ']") ?? cards.firstChild)?.click();
  }
}

export function complaints(errors) {
  return h("div.notice.bad", { role: "alert" }, h("ul", {}, errors.map(({ path, message }) => h("li", {}, path === WHOLE ? null : [h("code", {}, path), " "], message))));
}

function mark(editor, path) {
  const key = path.split(/[.[]/).filter((part) => part && !part.endsWith("]")).pop();
  const at = editor.value.indexOf(`"${key}"`);
  if (at >= 0) { editor.focus(); editor.setSelectionRange(at, at + key.length + 2); }
}

