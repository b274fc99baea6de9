// Figures in SVG with the fixed look of each method, on white paper in light and dark, complete without the page's style.

const PAPER = "#ffffff";
const INK = "#1d1f23";
const GRID = "#e3e5e8";
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif";

function canvas(width, height, title, description) {
  return drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${title}. ${description}`, "font-family": FONT, "font-size": 12, fill: INK },
    drawn("title", {}, title), drawn("desc", {}, description), drawn("rect", { width, height, fill: PAPER }));
}

function line(x1, y1, x2, y2, attributes = {}) {
  return drawn("line", { x1, y1, x2, y2, stroke: INK, ...attributes });
}

function label(x, y, text, attributes = {}) {
  return drawn("text", { x, y, ...attributes }, text);
}

function markerAt(x, y, look, size = 8, attributes = {}) {
  return drawn("path", { d: look.marker, transform: `translate(${x},${y}) scale(${size})`, fill: look.color, stroke: PAPER, "stroke-width": 0.08, ...attributes });
}

function dashOf(look, width) {
  return look.dash ? look.dash.split(" ").map((part) => part * width).join(" ") : null;
}

/** A method's look beside its name: a piece of line and the marker. */
function swatchOf(look) {
  return drawn("svg", { class: "swatch", width: 30, height: 14, viewBox: "0 0 30 14", "aria-hidden": "true" },
    drawn("rect", { width: 30, height: 14, rx: 2, fill: PAPER }),
    line(1, 7, 29, 7, { stroke: look.color, "stroke-width": 1.6, "stroke-dasharray": dashOf(look, 1.6) }), markerAt(15, 7, look, 8));
}

/** A linear scale from [low, high] to [from, to]. */
function scaleOf(low, high, from, to) {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

/** Round numbers from low to high, about `count` of them. */
function ticksOf(low, high, count) {
  const rough = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}

/** Average ranks with their intervals; shaded: within the critical difference of the best. */
function ranksFigure(found, page) {
  const { standings, criticalDifference } = found;
  const names = standings.map((s) => shortened(page.labels[s.method], 44));
  const left = 30 + 7.1 * Math.max(...names.map((name) => name.length));
  const [width, row] = [Math.max(560, left + 380), 20];
  const bottom = 14 + row * standings.length;
  const x = scaleOf(0.7, standings.length + 0.3, left, width - 16);
  const best = standings[0];
  const title = `Average ranks of ${counted(standings.length, "method")} over ${counted(found.blocks.length, "block")}`;
  const svg = canvas(width, bottom + 44, title, `Best: ${page.labels[best.method]}, rank ${intervalText(best.rank, 1, 2)}. The table of average ranks has all numbers.`);
  if (Number.isFinite(criticalDifference)) {
    const to = Math.min(best.rank.value + criticalDifference, standings.length + 0.3);
    svg.append(drawn("rect", { x: x(best.rank.value), y: 6, width: x(to) - x(best.rank.value), height: bottom - 6, fill: "#999999", "fill-opacity": 0.18 }));
  }
  for (const tick of ticksOf(1, standings.length, 10).filter(Number.isInteger)) {
    svg.append(line(x(tick), 6, x(tick), bottom, { stroke: GRID }), label(x(tick), bottom + 16, tick, { "text-anchor": "middle" }));
  }
  standings.forEach((s, k) => {
    const [y, look] = [18 + row * k, page.looks[page.labels[s.method]]];
    svg.append(label(left - 12, y + 4, names[k], { "text-anchor": "end" }));
    if (Number.isFinite(s.rank.low)) svg.append(line(x(s.rank.low), y, x(s.rank.high), y, { stroke: look.color, "stroke-width": 2 }));
    svg.append(markerAt(x(s.rank.value), y, look, 10));
  });
  const shaded = Number.isFinite(criticalDifference) ? "; shaded: within the critical difference of the best" : "";
  svg.append(label(width - 16, bottom + 36, `average rank (1 is best)${shaded}`, { "text-anchor": "end" }));
  return svg;
}

function shortened(text, length) {
  if (text.length <= length) return text;
  const head = Math.floor(length / 2);
  return `${text.slice(0, head)}…${text.slice(text.length - (length - 1 - head))}`;
}

function halvingsAt(sparsity) {
  return -Math.log2(Math.min(1, Math.max(1e-6, 1 - sparsity)));
}

/** A metric against sparsity in one block: means over seeds, bars from the lowest to the highest, dense dashed. */
function curveFigure(title, metric, lines, dense, looks, highlighted = null) {
  const height = Math.max(400, 90 + NAME_HEIGHT * lines.length);
  const [width, box] = [880, { left: 66, right: 596, top: 34, bottom: height - 54 }];
  const points = lines.flatMap((one) => one.points);
  const values = [...points.flatMap((point) => [point.low, point.high]), ...(dense.length ? [mean(dense)] : [])].map((v) => metric.scale * v);
  const logarithmic = metric.logarithmic && Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) > 20;
  const bend = (value) => (logarithmic ? Math.log10(metric.scale * value) : metric.scale * value);
  const [low, high] = [Math.min(...values), Math.max(...values)].map((value) => (logarithmic ? Math.log10(value) : value));
  const pad = 0.05 * (high - low || 1);
  const y = scaleOf(low - pad, high + pad, box.bottom, box.top);
  const at = points.map((point) => halvingsAt(point.sparsity));
  const room = Math.max(0.06 * (Math.max(...at) - Math.min(...at)), 0.15);
  const x = scaleOf(Math.min(...at) - room, Math.max(...at) + room, box.left, box.right);
  const svg = canvas(width, height, `${title}: ${metric.label} against sparsity`, `${counted(lines.length, "method")}; the table below has all numbers.`);
  svg.append(label(box.left, 20, title, { "font-weight": 600 }));
  for (const tick of ticksOf(low - pad, high + pad, 6)) {
    const text = logarithmic ? Number((10 ** tick).toPrecision(2)) : tick;
    svg.append(line(box.left, y(tick), box.right, y(tick), { stroke: GRID }), label(box.left - 8, y(tick) + 4, text, { "text-anchor": "end" }));
  }
  for (const sparsity of sparsityTicks(points, (s) => x(halvingsAt(s)), box)) {
    const at = x(halvingsAt(sparsity));
    svg.append(line(at, box.top, at, box.bottom, { stroke: GRID }), label(at, box.bottom + 17, Number((100 * sparsity).toPrecision(4)), { "text-anchor": "middle" }));
  }
  svg.append(drawn("path", { d: `M${box.left},${box.top}V${box.bottom}H${box.right}`, fill: "none", stroke: INK }));
  svg.append(label((box.left + box.right) / 2, height - 14, "pruned (%)", { "text-anchor": "middle" }));
  svg.append(label(0, 0, metric.label, { "text-anchor": "middle", transform: `translate(16,${(box.top + box.bottom) / 2}) rotate(-90)` }));
  if (dense.length) svg.append(line(box.left, y(bend(mean(dense))), box.right, y(bend(mean(dense))), { "stroke-dasharray": "6 3" }), label(box.right - 4, y(bend(mean(dense))) - 4, "dense", { "text-anchor": "end" }));
  const [across, up] = [(point) => x(halvingsAt(point.sparsity)), (value) => y(bend(value))];
  const isFaded = (one) => highlighted !== null && one.method !== highlighted;
  for (const one of lines) svg.append(curveOf(one, looks[one.method], across, up, isFaded(one)));
  for (const [one, at] of namesBeside(lines, up, box)) svg.append(nameOfLine(one, at, looks[one.method], across, up, box, isFaded(one)));
  return svg;
}

const NAME_HEIGHT = 14;

/** Where a line ends: at the largest sparsity that was asked for. */
function endOf(one) {
  return one.points.filter((point) => !point.own).pop() || one.points[one.points.length - 1];
}

/** Lines in the order in which they end, each with the height of its name, so that no two names meet. */
function namesBeside(lines, up, box) {
  const ends = lines.map((one) => [one, up(endOf(one).mean)]).sort((a, b) => a[1] - b[1]);
  let free = box.top + 6;
  for (const end of ends) {
    end[1] = Math.max(end[1], free);
    free = end[1] + NAME_HEIGHT;
  }
  let limit = box.bottom;
  for (const end of ends.reverse()) {
    end[1] = Math.min(end[1], limit);
    limit = end[1] - NAME_HEIGHT;
  }
  return ends;
}

/** A name with its look beside the end of its line, and a thin lead from there: colour is not needed to tell it. */
function nameOfLine(one, at, look, across, up, box, faded) {
  const end = endOf(one);
  const lead = `M${across(end) + 7},${up(end.mean)}L${box.right + 8},${at}`;
  return drawn("g", { opacity: faded ? 0.35 : null }, drawn("path", { d: lead, fill: "none", stroke: look.color, "stroke-width": 0.6, "stroke-opacity": 0.6 }),
    markerAt(box.right + 16, at, look, 8), label(box.right + 26, at + 4, shortened(one.method, 34)));
}

const LANDMARKS = [0, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9998, 0.9999];

/** The sparsities that were asked for, from the largest down, and round ones where there is room left. */
function sparsityTicks(points, at, box) {
  const asked = [...new Set(points.filter((point) => !point.own).map((point) => point.sparsity))].sort((a, b) => b - a);
  const kept = [];
  for (const sparsity of [...asked, ...LANDMARKS]) {
    const place = at(sparsity);
    const isFree = kept.every((other) => Math.abs(at(other) - place) >= 38);
    if (isFree && place >= box.left && place <= box.right) kept.push(sparsity);
  }
  return kept;
}

function curveOf(one, look, x, y, faded) {
  const group = drawn("g", { opacity: faded ? 0.18 : null });
  const asked = one.points.filter((point) => !point.own);
  const path = asked.map((point, k) => `${k ? "L" : "M"}${x(point).toFixed(1)},${y(point.mean).toFixed(1)}`).join("");
  if (path) group.append(drawn("path", { d: path, fill: "none", stroke: look.color, "stroke-width": 1.6, "stroke-dasharray": dashOf(look, 1.6) }));
  for (const point of one.points) {
    const cell = drawn("g", { class: "point", "data-cell": point.cell });
    if (point.high > point.low) cell.append(line(x(point), y(point.low), x(point), y(point.high), { stroke: look.color, "stroke-width": 1.2 }));
    if (point.own) cell.append(starAt(x(point), y(point.mean), look), markerAt(x(point), y(point.mean), look, 6));
    else cell.append(markerAt(x(point), y(point.mean), look, 9));
    cell.append(drawn("circle", { cx: x(point), cy: y(point.mean), r: 9, fill: "transparent" }));
    group.append(cell);
  }
  return group;
}

/** A star around the marker of the method that chose this sparsity. */
function starAt(x, y, look) {
  const corners = range(10).map((k) => {
    const [radius, angle] = [k % 2 ? 6 : 12, (Math.PI * k) / 5];
    return `${(x + radius * Math.sin(angle)).toFixed(1)},${(y - radius * Math.cos(angle)).toFixed(1)}`;
  });
  return drawn("path", { d: `M${corners.join("L")}Z`, fill: PAPER, stroke: look.color, "stroke-width": 1.4, "stroke-linejoin": "round" });
}

/** The figure as a file that stands on its own. */
function svgText(svg) {
  return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(svg)}\n`;
}

function saveButton(name, figure) {
  return element("button", { type: "button", class: "save", onclick: () => download(`${name}.svg`, svgText(figure()), "image/svg+xml") }, "Save as SVG");
}
