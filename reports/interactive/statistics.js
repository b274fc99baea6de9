// Distributions and tests in plain arithmetic, as reports/leaderboard and reports/records/statistics have them.

const LEVEL = 0.95;
const ALPHA = 0.05;

/** Logarithm of the gamma function for x > 0: Stirling's series (Abramowitz and Stegun 6.1.41) from 15 on. */
function logGamma(x) {
  let product = 1;
  let at = x;
  for (; at < 15; at++) product *= at;
  const inverse = 1 / at;
  const square = inverse * inverse;
  const terms = [1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156];
  const series = terms.reduceRight((sum, term) => sum * square + term, 0) * inverse;
  return (at - 0.5) * Math.log(at) - at + 0.5 * Math.log(2 * Math.PI) + series - Math.log(product);
}

/** P(|T| >= |t|) of Student's t with `df` degrees of freedom. */
function twoSidedP(t, df) {
  if (!Number.isFinite(t)) return 0;
  const square = t * t;
  return incompleteBeta(df / (df + square), square / (df + square), df / 2, 0.5);
}

/** The regularised incomplete beta function I_x(a, b); `rest` is 1 - x. */
function incompleteBeta(x, rest, a, b) {
  if (x <= 0 || rest <= 0) return rest <= 0 ? 1 : 0;
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(rest, x, b, a);
  const front = logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log(rest);
  return (Math.exp(front) * betaFraction(x, a, b)) / a;
}

/** The continued fraction (Abramowitz and Stegun 26.5.8) by Lentz's method. */
function betaFraction(x, a, b) {
  const away = (value) => (Math.abs(value) > 1e-300 ? value : 1e-300);
  let c = 1;
  let d = 1 / away(1 - ((a + b) * x) / (a + 1));
  let value = d;
  for (let m = 1; m < 500; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    for (const numerator of [even, odd]) {
      d = 1 / away(1 + numerator * d);
      c = away(1 + numerator / c);
      value *= c * d;
    }
    if (Math.abs(c * d - 1) < 1e-15) break;
  }
  return value;
}

/** The t beyond which |T| lies with probability 1 - `level`, by bisection. */
function tQuantile(df, level = LEVEL) {
  let [low, high] = [0, 1];
  while (twoSidedP(high, df) > 1 - level) [low, high] = [high, 2 * high];
  for (let step = 0; step < 200; step++) {
    const middle = (low + high) / 2;
    if (middle === low || middle === high) break;
    [low, high] = twoSidedP(middle, df) > 1 - level ? [middle, high] : [low, middle];
  }
  return (low + high) / 2;
}

/** P(X >= x) of chi-squared with `df` degrees of freedom: series or continued fraction of the incomplete gamma. */
function chiSquaredTail(x, df) {
  const [a, at] = [df / 2, x / 2];
  if (at <= 0) return 1;
  const front = Math.exp(a * Math.log(at) - at - logGamma(a));
  return at < a + 1 ? 1 - front * gammaSeries(at, a) : front * gammaFraction(at, a);
}

function gammaSeries(x, a) {
  let term = 1 / a;
  let sum = term;
  for (let n = 1; n < 5000 && Math.abs(term) > 1e-17 * sum; n++) {
    term *= x / (a + n);
    sum += term;
  }
  return sum;
}

function gammaFraction(x, a) {
  let b = x + 1 - a;
  let c = 1e300;
  let d = 1 / b;
  let value = d;
  for (let n = 1; n < 5000; n++) {
    const numerator = -n * (n - a);
    b += 2;
    d = 1 / (b + numerator * d);
    c = b + numerator / c;
    value *= c * d;
    if (Math.abs(c * d - 1) < 1e-15) break;
  }
  return value;
}

/** Exact two-sided sign test of `wins` among `untied` pairs. */
function signTest(wins, untied) {
  if (!untied) return 1;
  let term = 0.5 ** untied;
  let tail = 0;
  for (let k = 0; k <= Math.min(wins, untied - wins); k++) {
    tail += term;
    term *= (untied - k) / (k + 1);
  }
  return Math.min(1, 2 * tail);
}

/** Holm's adjusted p values of a family of tests. */
function steppedDown(raw) {
  const order = range(raw.length).sort((i, j) => raw[i] - raw[j] || i - j);
  const adjusted = new Array(raw.length);
  let largest = 0;
  order.forEach((test, place) => {
    largest = Math.max(largest, raw[test] * (raw.length - place));
    adjusted[test] = Math.min(largest, 1);
  });
  return adjusted;
}

/** Place of each value, 1 is the largest; equal values share the mean of their places. */
function places(values) {
  const found = new Float64Array(values.length);
  placesInto(values, found);
  return found;
}

function placesInto(values, found) {
  found.fill(1);
  for (let i = 1; i < values.length; i++) {
    for (let j = 0; j < i; j++) {
      if (values[j] > values[i]) found[i]++;
      else if (values[j] < values[i]) found[j]++;
      else {
        found[i] += 0.5;
        found[j] += 0.5;
      }
    }
  }
}

/** Friedman's chi-squared of scores [block][method], corrected for ties, with its p value. */
function friedman(scores) {
  const [blocks, methods] = [scores.length, scores[0].length];
  const sums = new Float64Array(methods);
  let ties = 0;
  for (const row of scores) {
    places(row).forEach((rank, k) => (sums[k] += rank));
    const counts = new Map();
    for (const value of row) counts.set(value, (counts.get(value) || 0) + 1);
    for (const count of counts.values()) ties += count * (count * count - 1);
  }
  const squares = sums.reduce((sum, value) => sum + value * value, 0);
  const correction = 1 - ties / (methods * (methods * methods - 1) * blocks);
  const plain = (12 / (methods * blocks * (methods + 1))) * squares - 3 * blocks * (methods + 1);
  return [plain / correction, chiSquaredTail(plain / correction, methods - 1)];
}
