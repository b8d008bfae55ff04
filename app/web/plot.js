// A small line chart in SVG: linear or logarithmic axes, a band, marks, error bars, and a reading under the pointer.

import { number, s } from "./dom.js";

const BOX = { left: 70, right: 16, top: 14, bottom: 44 };

function scale(values, log, from, to, margin) {
  const usable = values.filter((value) => Number.isFinite(value) && (!log || value > 0));
  let low = Math.min(...usable), high = Math.max(...usable);
  if (!usable.length) { low = log ? 1 : 0; high = log ? 10 : 1; }
  if (low === high) { const aside = Math.abs(low) || 1; low = log ? low / 1.5 : low - aside; high = log ? high * 1.5 : high + aside; }
  let [a, b] = log ? [Math.log10(low), Math.log10(high)] : [low, high];
  const pad = margin * (b - a);
  a -= pad; b += pad;
  const at = (value) => from + ((log ? Math.log10(value) : value) - a) / (b - a) * (to - from);
  const back = (position) => { const v = a + (position - from) / (to - from) * (b - a); return log ? 10 ** v : v; };
  return { at, back, ticks: log ? logTicks(a, b) : linearTicks(a, b), log };
}

function linearTicks(a, b) {
  const raw = (b - a) / 5, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((candidate) => candidate >= raw);
  const ticks = [];
  for (let value = Math.ceil(a / step) * step; value <= b + step * 1e-9; value += step) ticks.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  return ticks;
}

function logTicks(a, b) {
  const every = Math.max(1, Math.ceil((b - a) / 6)); // decades from one tick to the next
  const mantissas = b - a > 2.2 ? [1] : b - a > 0.9 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 7];
  const ticks = [];
  for (let power = Math.floor(a / every) * every; power <= Math.ceil(b); power += every)
    for (const m of mantissas) { const value = m * 10 ** power; if (Math.log10(value) >= a && Math.log10(value) <= b) ticks.push(value); }
  return ticks.length >= 2 ? ticks : linearTicks(10 ** a, 10 ** b).filter((value) => value > 0);
}

// series: [{name, kind: "line"|"points", color: 1…5, points: [[x, y, error?], …]}]
export function chart({ series, xLabel, yLabel, xLog = false, yLog = false, band = null, bandLabel = "", marks = [], level = null, height = 300, width = 640, describe = null }) {
  const all = series.flatMap((one) => one.points);
  const extra = level ? [level.y] : [];
  const x = scale([...all.map((p) => p[0]), ...marks.map((m) => m.x)], xLog, BOX.left, width - BOX.right, 0.02);
  const spread = all.flatMap((p) => p[2] ? [p[1] - p[2], p[1] + p[2]] : [p[1]]);
  const y = scale([...spread, ...marks.map((m) => m.y), ...extra], yLog, height - BOX.bottom, BOX.top, 0.06);
  const root = s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${yLabel} against ${xLabel}` });
  if (band) {
    const [left, right] = band.map((value) => Math.min(width - BOX.right, Math.max(BOX.left, x.at(value))));
    root.append(s("rect", { class: "band", x: left, width: Math.max(2, right - left), y: BOX.top, height: height - BOX.top - BOX.bottom }, s("title", {}, bandLabel)));
  }
  root.append(axes(x, y, width, height, xLabel, yLabel));
  if (level) root.append(s("line", { class: "level", x1: BOX.left, x2: width - BOX.right, y1: y.at(level.y), y2: y.at(level.y) }),
    s("text", { class: "note", x: width - BOX.right - 4, y: y.at(level.y) - 5, "text-anchor": "end" }, level.label));
  for (const one of series) root.append(drawn(one, x, y));
  for (const mark of marks) root.append(s("circle", { class: "mark", cx: x.at(mark.x), cy: y.at(mark.y), r: 5.5 }),
    s("text", { class: "mark-label", x: x.at(mark.x), y: y.at(mark.y) + (y.at(mark.y) > height / 2 ? -11 : 20), "text-anchor": "middle" }, mark.label));
  if (series.length > 1 && series.every((one) => one.name)) root.append(legend(series, width));
  root.append(reading(series, x, y, width, height, describe));
  return root;
}

function axes(x, y, width, height, xLabel, yLabel) {
  const group = s("g", { class: "axes" });
  for (const tick of y.ticks) group.append(s("line", { class: "grid", x1: BOX.left, x2: width - BOX.right, y1: y.at(tick), y2: y.at(tick) }),
    s("text", { x: BOX.left - 8, y: y.at(tick) + 4, "text-anchor": "end" }, number(tick)));
  for (const tick of x.ticks) group.append(s("line", { class: "tick", x1: x.at(tick), x2: x.at(tick), y1: height - BOX.bottom, y2: height - BOX.bottom + 5 }),
    s("text", { x: x.at(tick), y: height - BOX.bottom + 18, "text-anchor": "middle" }, number(tick)));
  group.append(s("line", { class: "axis", x1: BOX.left, x2: width - BOX.right, y1: height - BOX.bottom, y2: height - BOX.bottom }),
    s("text", { class: "axis-label", x: (BOX.left + width - BOX.right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel),
    s("text", { class: "axis-label", transform: `translate(13 ${(BOX.top + height - BOX.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, yLabel));
  return group;
}

function drawn({ kind = "line", color = 1, points }, x, y) {
  const visible = points.filter(([px, py]) => Number.isFinite(px) && Number.isFinite(py) && (!x.log || px > 0) && (!y.log || py > 0));
  const group = s("g", { class: `series color${color}` });
  if (kind === "line") group.append(s("polyline", { points: visible.map(([px, py]) => `${x.at(px).toFixed(1)},${y.at(py).toFixed(1)}`).join(" ") }));
  if (kind === "points" || visible.length < 40) for (const [px, py, error] of visible) {
    if (error > 0) group.append(s("line", { class: "error", x1: x.at(px), x2: x.at(px), y1: y.at(y.log ? Math.max(py - error, py / 1e3) : py - error), y2: y.at(py + error) }));
    group.append(s("circle", { cx: x.at(px), cy: y.at(py), r: kind === "points" ? 4 : 2.6 }));
  }
  return group;
}

function legend(series, width) {
  const group = s("g", { class: "legend" });
  let left = width - BOX.right;
  for (const one of [...series].reverse()) {
    left -= 7.2 * one.name.length + 26;
    group.append(s("g", { class: `series color${one.color ?? 1}` }, s("circle", { cx: left, cy: BOX.top + 2, r: 4 })), s("text", { x: left + 9, y: BOX.top + 6 }, one.name));
  }
  return group;
}

function reading(series, x, y, width, height, describe) {
  const line = s("line", { class: "cursor", y1: BOX.top, y2: height - BOX.bottom, visibility: "hidden" });
  const dot = s("circle", { class: "cursor-dot", r: 4, visibility: "hidden" });
  const text = s("text", { class: "reading", y: BOX.top + 22, visibility: "hidden" });
  const cover = s("rect", { class: "cover", x: BOX.left, y: BOX.top, width: width - BOX.left - BOX.right, height: height - BOX.top - BOX.bottom });
  const points = series.flatMap((one) => one.points.map((point) => ({ point, name: one.name })))
    .filter(({ point }) => Number.isFinite(point[0]) && Number.isFinite(point[1]));
  const show = (on) => [line, dot, text].forEach((node) => node.setAttribute("visibility", on ? "visible" : "hidden"));
  cover.addEventListener("pointermove", (event) => {
    if (!points.length) return;
    const frame = cover.getBoundingClientRect(), ratio = (width - BOX.left - BOX.right) / frame.width;
    const px = BOX.left + (event.clientX - frame.left) * ratio, py = BOX.top + (event.clientY - frame.top) * ratio;
    const distance = ({ point }) => Math.abs(x.at(point[0]) - px) + 0.05 * Math.abs(y.at(point[1]) - py);
    const nearest = points.reduce((best, one) => distance(one) < distance(best) ? one : best);
    const [vx, vy] = nearest.point, left = x.at(vx);
    line.setAttribute("x1", left); line.setAttribute("x2", left);
    dot.setAttribute("cx", left); dot.setAttribute("cy", y.at(vy));
    text.setAttribute("x", left + (left > width / 2 ? -8 : 8));
    text.setAttribute("text-anchor", left > width / 2 ? "end" : "start");
    text.textContent = describe ? describe(nearest.point) : `${nearest.name ? nearest.name + ": " : ""}${number(vx, 4)} → ${number(vy, 4)}`;
    show(true);
  });
  cover.addEventListener("pointerleave", () => show(false));
  return s("g", {}, line, dot, text, cover);
}
