// Rates over time, and the drawings of them.

import { draw } from "./dom.js";

/** States that a graph shows, one a second. */
export const HISTORY = 120;
/** A graph of less would make a mountain of a few messages. */
const SCALE_LEAST = 16 << 10;

/** A counter's history as rates a second. */
export class Rates {
  constructor() {
    this.values = [];
  }

  add(total, timeMs) {
    // A lower total or time is another run of the node.
    if (this.at !== undefined && timeMs > this.at && total >= this.total) {
      this.values.push(((total - this.total) * 1000) / (timeMs - this.at));
      if (this.values.length > HISTORY) this.values.shift();
    }
    this.total = total;
    this.at = timeMs;
  }

  /** Of the last three seconds: steady enough to be read. */
  get now() {
    const last = this.values.slice(-3);
    return last.length ? last.reduce((sum, value) => sum + value, 0) / last.length : 0;
  }

  get isBusy() {
    return this.values.some((value) => value > 1024);
  }
}

/** The least of 1, 2 and 5 times a power of two that no value passes: a scale that people read. */
export function scaleOf(values) {
  const most = Math.max(SCALE_LEAST, ...values);
  let unit = 1;
  while (unit * 1024 <= most) unit *= 1024;
  for (const step of [1, 2, 5, 10, 20, 50, 100, 200, 500, 1024]) {
    if (step * unit >= most) return step * unit;
  }
  return most;
}

function line(values, top, width, height, closed, span) {
  if (values.length < 2) return "";
  const step = width / (span - 1);
  const from = width - step * (values.length - 1);
  const points = values.map((value, at) => {
    const y = height - 1 - (value / top) * (height - 3);
    return `${(from + at * step).toFixed(1)} ${y.toFixed(1)}`;
  });
  const text = `M${points.join("L")}`;
  return closed ? `${text}L${width} ${height}L${from.toFixed(1)} ${height}Z` : text;
}

/**
 * A graph of lines, each with a class of its own; the first is filled. `draw` gives its top, so
 * that it can be written beside it.
 */
export function graph(classes, cls, height) {
  const grid = draw("path", { class: "grid", d: `M0 ${height / 2}H600M0 1H600` });
  const paths = classes.map((of) => draw("path", { class: of }));
  const svg = draw("svg", {
    class: cls, viewBox: `0 0 600 ${height}`, preserveAspectRatio: "none", role: "img",
  }, grid, ...paths);
  svg.draw = (label, span, ...lines) => {
    const top = scaleOf(lines.flat());
    lines.forEach((values, at) => paths[at].setAttribute("d", line(values, top, 600, height, at === 0, span)));
    if (svg.getAttribute("aria-label") !== label) svg.setAttribute("aria-label", label);
    return top;
  };
  return svg;
}

/** A small graph of what comes and, dashed, of what goes. */
export function sparkline(label) {
  const svg = graph(["in fill", "out"], "spark", 40);
  const paint = svg.draw;
  // A short transfer fills the graph too.
  svg.draw = (...lines) => paint(label, Math.max(20, ...lines.map((values) => values.length)), ...lines);
  return svg;
}

/** A pattern that a peer's id alone gives, so that it is known again. */
export function face(id) {
  let state = 2166136261;
  for (const letter of id) state = Math.imul(state ^ letter.charCodeAt(0), 16777619);
  const next = () => {
    state = Math.imul(state ^ (state >>> 15), 2246822519) + 1;
    return (state >>> 8) & 0xffff;
  };
  const svg = draw("svg", { class: `face hue-${next() % 6}`, viewBox: "0 0 5 5", "aria-hidden": "true" });
  for (let x = 0; x < 3; x += 1) {
    for (let y = 0; y < 5; y += 1) {
      if (next() % 2) continue;
      svg.append(draw("rect", { x, y, width: 1.02, height: 1.02 }));
      if (x < 2) svg.append(draw("rect", { x: 4 - x, y, width: 1.02, height: 1.02 }));
    }
  }
  return svg;
}
