// What of a described network can be split: the table that `print(baseline)` shows, of a pasted description.

import { h, percent, table, whole } from "./dom.js";

const sizes = (list) => list.join("×");
const weighted = (layer) => layer.kind === "conv" ? `${sizes(layer.kernel)}${layer.groups > 1 ? `/${layer.groups}` : ""}` : layer.kind === "linear" ? "linear" : null;

// Null for anything that is no description; what is wrong in one is the service's to say.
export function described(baseline) {
  if (baseline?.family !== "network" || !Array.isArray(baseline.branches)) return null;
  const parts = [...baseline.branches].sort((a, b) => Number(b.splittable ?? 0) - Number(a.splittable ?? 0));
  const all = (branch) => (branch.count ?? 1) * branch.parameters;
  const free = parts.filter((branch) => branch.splittable).reduce((sum, branch) => sum + all(branch), 0);
  return h("section", {}, h("h2", {}, baseline.name ?? "network"),
    h("p", {}, `${whole(baseline.parameters)} parameters, of which ${percent(free / baseline.parameters)} can be split.`),
    table(["", "part", "count", "layers", "widths", "parameters", "of all", "why not"], parts.map((branch) => ({
      attributes: branch.splittable ? { class: "best" } : {},
      cells: [branch.splittable ? "split" : "fixed", branch.name, whole(branch.count ?? 1), (branch.layers ?? []).map(weighted).filter(Boolean).join(" "), (branch.widths ?? []).join("→"),
        whole(all(branch)), percent(all(branch) / baseline.parameters), branch.why ?? ""] })), { class: "words parts" }),
    attention(baseline.attention ?? []));
}

// Heads of attention are members already: each kind of block with the baseline whose search gives the curve over their width.
function attention(blocks) {
  if (!blocks.length) return null;
  const same = (value, own) => (value ?? own) === own;
  const own = (block) => same(block.key_heads, block.heads) && same(block.keys, block.tokens) && same(block.value_width, block.width) && block.heads * block.width <= 65536;
  const curve = (block) => JSON.stringify({ family: "attention", heads: block.heads, width: block.width, min_width: Math.max(1, Math.floor(block.width / 4)), tokens: Math.max(1, Math.min(block.tokens, 512, Math.floor(2 ** 21 / (block.heads * block.width)))) });
  return h("div", {}, h("h3", {}, "Attention"), h("p.muted", {}, "Its heads are members already. Paste a baseline to have the variance over their width; min_width is the narrowest head that you allow."),
    table(["block", "count", "heads", "width", "tokens", "baseline of the curve"], blocks.map((block) =>
      [(block.paths ?? [])[0] || "attention", whole(block.count ?? 1), whole(block.heads), whole(block.width), whole(block.tokens), own(block) ? h("code", {}, curve(block)) : "none: its heads share keys, it attends to others, its values are of another width, or it is too large"]), { class: "words" }));
}
