// Numbers in words, as reports/writing/numbers.py writes them.

const NONE = "–";

function fixed(value, digits) {
  if (!Number.isFinite(value)) return NONE;
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text;
}

/** `2.1 [1.8, 2.4]`; without brackets where there is no interval. */
function intervalText({ value, low, high }, scale, digits) {
  const text = fixed(scale * value, digits);
  return Number.isFinite(low) && text !== NONE ? `${text} [${fixed(scale * low, digits)}, ${fixed(scale * high, digits)}]` : text;
}

/** `97.2 ± 0.4`; without the deviation for a single seed. */
function meanText(values, metric) {
  if (!values.length) return NONE;
  const spread = values.length > 1 ? ` ± ${fixed(metric.scale * standardDeviation(values), metric.digits)}` : "";
  return fixed(metric.scale * mean(values), metric.digits) + spread;
}

function pText(p) {
  return p < 1e-4 ? "p < 0.0001" : `p = ${Number(p.toPrecision(2))}`;
}

function percent(share) {
  return `${Number((100 * share).toPrecision(4))} %`;
}

function counted(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}

function span(counts) {
  const [low, high] = [Math.min(...counts), Math.max(...counts)];
  return low === high ? String(low) : `${low}–${high}`;
}
