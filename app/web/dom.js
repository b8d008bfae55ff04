// Building elements without a template language; text is always text, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function h(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const node = document.createElement(name || "div");
  if (classes.length) node.className = classes.join(" ");
  return fill(node, attributes, children);
}

export function s(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

export function table(heads, rows, attributes = {}) {
  return h("div.scroll", {}, h("table", attributes,
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, rows.map((row) => h("tr", row.attributes ?? {}, (row.cells ?? row).map((cell) => h("td", {}, cell)))))));
}

export function details(summary, ...children) {
  return h("details", {}, h("summary", {}, summary), ...children);
}

export const whole = (value) => value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en").replaceAll(",", "\u202f");

export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return power(value, digits).replace("-", "−");
  return (size >= 1000 ? whole(value) : Number(value.toPrecision(digits)).toString()).replace("-", "−");
}

// As 10⁷ or 2.5 · 10⁷.
function power(value, digits) {
  const [factor, exponent] = value.toExponential(digits - 1).split("e").map(Number);
  const raised = `10${[...String(exponent)].map((each) => each === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[each]).join("")}`;
  return Math.abs(factor) === 1 ? `${factor < 0 ? "-" : ""}${raised}` : `${factor} · ${raised}`;
}

export const counted = (count, noun) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;

export const percent = (value, digits = 3) => value === null || value === undefined ? "–" : `${number(100 * value, digits)} %`;

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 1) return `${Math.round(1000 * seconds)} ms`;
  if (seconds < 90) return `${number(seconds)} s`;
  if (seconds < 5400) return `${number(seconds / 60)} min`;
  return `${number(seconds / 3600)} h`;
}

export function ago(time) {
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  if (seconds < 60) return "just now";
  for (const [size, unit] of [[86400, "day"], [3600, "hour"], [60, "minute"]]) {
    const count = Math.floor(seconds / size);
    if (count >= 1) return `${count} ${unit}${count > 1 ? "s" : ""} ago`;
  }
  return "";
}

export const widths = (member) => member.width !== null && member.width !== undefined ? String(member.width) : `(${member.widths.join(", ")})`;

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let power = 0;
  while (count >= 1000 && power < units.length - 1) { count /= 1000; power += 1; }
  return `${number(count)} ${units[power]}`;
}

// Memory in MiB and KiB, as messages and the plots of costs have it.
export function memory(count) {
  if (count === null || count === undefined) return "–";
  return count >= 2 ** 20 ? `${number(count / 2 ** 20, 4)} MiB` : `${number(count / 2 ** 10, 4)} KiB`;
}
