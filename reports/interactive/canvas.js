// SVG with the fixed look of each method, on white paper in light and dark, complete without the style of the page.

const PAPER = "#ffffff";
const INK = "#1d1f23";
const GRID = "#e3e5e8";
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif";

function canvas(width, height, title, description) {
  return drawn(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      role: "img",
      "aria-label": `${title}. ${description}`,
      "font-family": FONT,
      "font-size": 12,
      fill: INK,
    },
    drawn("title", {}, title),
    drawn("desc", {}, description),
    drawn("rect", { width, height, fill: PAPER }),
  );
}

function line(x1, y1, x2, y2, attributes = {}) {
  return drawn("line", { x1, y1, x2, y2, stroke: INK, ...attributes });
}

function label(x, y, text, attributes = {}) {
  return drawn("text", { x, y, ...attributes }, text);
}

function markerAt(x, y, look, size = 8, attributes = {}) {
  return drawn("path", {
    d: look.marker,
    transform: `translate(${x},${y}) scale(${size})`,
    fill: look.color,
    stroke: PAPER,
    "stroke-width": 0.08,
    ...attributes,
  });
}

function dashOf(look, width) {
  return look.dash
    ? look.dash
        .split(" ")
        .map((part) => part * width)
        .join(" ")
    : null;
}

/** A method's look beside its name: a piece of line and the marker. */
function swatchOf(look) {
  return drawn(
    "svg",
    { class: "swatch", width: 30, height: 14, viewBox: "0 0 30 14", "aria-hidden": "true" },
    drawn("rect", { width: 30, height: 14, rx: 2, fill: PAPER }),
    line(1, 7, 29, 7, { stroke: look.color, "stroke-width": 1.6, "stroke-dasharray": dashOf(look, 1.6) }),
    markerAt(15, 7, look, 8),
  );
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
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++)
    found.push(Number((k * step).toPrecision(12)));
  return found;
}

function shortened(text, length) {
  if (text.length <= length) return text;
  const head = Math.floor(length / 2);
  return `${text.slice(0, head)}…${text.slice(text.length - (length - 1 - head))}`;
}

/** The figure as a file that stands on its own. */
function svgText(svg) {
  return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(svg)}\n`;
}

function saveButton(name, figure) {
  return element(
    "button",
    { type: "button", class: "save", onclick: () => download(`${name}.svg`, svgText(figure()), "image/svg+xml") },
    "Save as SVG",
  );
}
