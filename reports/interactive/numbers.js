// Numbers as Python packed them, and sums in the order in which numpy adds, so that equal means stay equal.

/** Float64 values, little-endian, from base64. */
function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float64Array.from({ length: bytes.length / 8 }, (_, i) => view.getFloat64(8 * i, true));
}

function mean(values) {
  let sum = 0;
  for (const value of values) sum += value;
  return sum / values.length;
}

/** The mean as numpy forms it of contiguous values: eight partial sums from eight values on. */
function pairwiseMean(values) {
  const count = values.length;
  if (count < 8) return mean(values);
  const parts = Array.from(values.slice(0, 8));
  const whole = count - (count % 8);
  for (let i = 8; i < whole; i += 8) for (let k = 0; k < 8; k++) parts[k] += values[i + k];
  let sum = parts[0] + parts[1] + (parts[2] + parts[3]) + (parts[4] + parts[5] + (parts[6] + parts[7]));
  for (let i = whole; i < count; i++) sum += values[i];
  return sum / count;
}

/** Rounded to twelve decimals, halves to even. */
function rounded(value) {
  const scaled = value * 1e12;
  const near = Math.round(scaled);
  const even = Math.abs(scaled % 1) === 0.5 ? 2 * Math.round(scaled / 2) : near;
  return even / 1e12;
}

/** Quantile of rising values with linear interpolation between neighbours. */
function quantile(rising, share) {
  const at = share * (rising.length - 1);
  const below = Math.floor(at);
  const above = Math.min(below + 1, rising.length - 1);
  const part = at - below;
  const step = rising[above] - rising[below];
  return part < 0.5 ? rising[below] + step * part : rising[above] - step * (1 - part);
}

function standardDeviation(values) {
  const centre = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (values.length - 1));
}

function range(count) {
  return Array.from({ length: count }, (_, i) => i);
}
