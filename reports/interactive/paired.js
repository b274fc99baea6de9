// Paired tests of every two entrants from sums of products, as reports/leaderboard/paired.py has them from the examples.

const ROUNDING = 1e-12;

/** Variance of the difference of two; what is rounding is zero. */
function spread(first, second, both) {
  const total = first + second;
  const found = total - 2 * both;
  return found > ROUNDING * total ? found : 0;
}

/** Variance of each mean difference within one block, [entrant][entrant]; as `_variances` and `_crossed` have it. */
function variances(block, at, under) {
  const parts = partsOf(block, at, under);
  const found = at.map(() => new Float64Array(at.length));
  for (let i = 0; i < at.length; i++) {
    for (let j = i + 1; j < at.length; j++) found[i][j] = found[j][i] = varianceOf(parts, i, j);
  }
  return found;
}

/** What the variances of a block are made of: means by seed, products under each seed, and those of averages over seeds. */
function partsOf(block, at, under) {
  const count = under.length;
  const isCrossed = count > 1 && under.every((s) => block.tests[s] === block.tests[under[0]]);
  const centred = at.map((a) => {
    const own = under.map((s) => block.mean(s, a));
    return own.map((value) => value - mean(own));
  });
  const own = squares(at, (a, b) => under.map((s) => block.product(s, a, s, b)));
  const overSeeds = (a, b) => {
    let sum = 0;
    for (const s of under) for (const t of under) sum += block.product(s, a, t, b);
    return sum / count ** 2;
  };
  return {
    count,
    centred,
    own,
    averages: isCrossed && squares(at, overSeeds),
    examples: under.map((s) => block.examples[s]),
  };
}

/** Of the examples alone where there is one seed; else of the seeds, with the examples as floor, or crossed with them. */
function varianceOf(parts, i, j) {
  const { count, centred, own, averages, examples } = parts;
  const of = (table, pick) => spread(pick(table[i][i]), pick(table[j][j]), pick(table[i][j]));
  const floor = mean(examples.map((n, k) => of(own, (sums) => sums[k]) / Math.max(n - 1, 1) / n)) / count;
  if (count < 2) return floor;
  const seeds = bySeeds(centred, i, j);
  if (!averages) return Math.max(seeds, floor);
  const n = examples[0];
  const shared = of(averages, (sum) => sum) / Math.max(n - 1, 1) / n;
  const rest = (x, y) => own[x][y].reduce((sum, value) => sum + value, 0) - count * averages[x][y];
  const both = spread(rest(i, i), rest(j, j), rest(i, j)) / ((count - 1) * (n - 1)) / (count * n);
  return Math.max(seeds + shared - both, Math.max(seeds, shared));
}

function squares(at, value) {
  const found = at.map(() => []);
  at.forEach((a, i) => {
    for (let j = i; j < at.length; j++) found[i][j] = found[j][i] = value(a, at[j]);
  });
  return found;
}

function bySeeds(centred, i, j) {
  const dot = (x, y) => centred[x].reduce((sum, value, s) => sum + value * centred[y][s], 0);
  const [count, last] = [centred[i].length, centred[i].length - 1];
  return spread(dot(i, i) / last, dot(j, j) / last, dot(i, j) / last) / count;
}

/** Every two entrants compared over blocks of equal weight: row minus column; Welch and Satterthwaite's degrees. */
function differences(blocks) {
  const size = blocks[0].entrants.length;
  const means = averaged(blocks.map((block) => averaged(block.means)));
  const table = () => range(size).map(() => new Float64Array(size));
  const known = blocks.every((block) => block.seeds.length > 1);
  const [values, errors, degrees, p] = [table(), table(), table(), table()];
  for (let a = 0; a < size; a++) {
    [degrees[a][a], p[a][a]] = [known ? 1 : 0, 1];
    for (let b = 0; b < size; b++) {
      values[a][b] = means[a] - means[b];
      if (a < b) {
        [errors[a][b], degrees[a][b], p[a][b]] = [errors[b][a], degrees[b][a], p[b][a]] = compared(
          blocks,
          a,
          b,
          values[a][b],
          known,
        );
      }
    }
  }
  return { values, errors, degrees, p };
}

function compared(blocks, a, b, value, known) {
  const parts = blocks.map((block) => block.variances[a][b]);
  const variance = parts.reduce((sum, part) => sum + part, 0) / blocks.length ** 2;
  const terms =
    parts.reduce((sum, part, k) => sum + part ** 2 / Math.max(blocks[k].seeds.length - 1, 1e-9), 0) /
    blocks.length ** 4;
  const df = !known ? 0 : terms > 0 ? variance ** 2 / terms : 1;
  const error = Math.sqrt(variance);
  const p = df > 0 && value !== 0 ? twoSidedP(error > 0 ? Math.abs(value) / error : Infinity, df) : 1;
  return [error, df, p];
}

/** The t interval of one difference, not adjusted; NaN where no block has two seeds. */
function intervalOf(tests, a, b) {
  if (!(tests.degrees[a][b] > 0)) return [NaN, NaN];
  const half = tQuantile(tests.degrees[a][b]) * tests.errors[a][b];
  return [tests.values[a][b] - half, tests.values[a][b] + half];
}
