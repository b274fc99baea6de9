// Numbers as Python packed them, and sums in the order in which numpy adds, so that equal means stay equal.

/** Float64 values, little-endian, from base64. */
function unpacked(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  const view = new DataView(bytes.buffer);
  const found = new Float64Array(bytes.length / 8);
  for (let i = 0; i < found.length; i++) found[i] = view.getFloat64(8 * i, true);
  return found;
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

/** Quantile with linear interpolation between neighbours; values change their order. */
function quantile(values, share) {
  const at = share * (values.length - 1);
  const below = Math.floor(at);
  const low = selected(values, below);
  const high = below + 1 < values.length ? selected(values, below + 1) : low;
  const part = at - below;
  return part < 0.5 ? low + (high - low) * part : high - (high - low) * (1 - part);
}

/** The value of a place, 0 for the smallest (Hoare 1961): smaller ones come before it, larger ones after it. */
function selected(values, place) {
  let [left, right] = [0, values.length - 1];
  while (left < right) {
    const pivot = values[place];
    let [i, j] = [left, right];
    while (i <= j) {
      while (values[i] < pivot) i++;
      while (values[j] > pivot) j--;
      if (i <= j) {
        const held = values[i];
        values[i++] = values[j];
        values[j--] = held;
      }
    }
    if (j < place) left = i;
    if (i > place) right = j;
  }
  return values[place];
}

function standardDeviation(values) {
  const centre = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (values.length - 1));
}

function range(count) {
  return Array.from({ length: count }, (_, i) => i);
}
