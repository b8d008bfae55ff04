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
        whole(all(branch)), percent(all(branch) / baseline.parameters), branch.why ?? ""] }))));
}
