// Paired tests of every two entrants from sums of products, as reports/leaderboard/paired.py has them from the examples.

const ROUNDING = 1e-12;

/** A block as it lies in the page: numbers unpacked, entrants as numbers of labels; several columns where it has gaps. */
function unpackedSums(sums, number) {
  const columns = sums.columns;
  const size = sums.entrants.length * columns;
  const [means, halves] = [unpacked(sums.means), unpacked(sums.halves)];
  return {
    ...place(sums),
    columns,
    sparsities: sums.sparsities,
    halvings: unpacked(sums.halvings),
    entrants: sums.entrants.map(number),
    seeds: sums.seeds,
    tests: sums.tests,
    examples: sums.examples,
    mean: (s, column) => means[s * size + column],
    half: (s, parity, column) => halves[(2 * s + parity) * size + column],
    product: productsOf(unpacked(sums.products), sums.tests, size),
  };
}

function place({ dataset, architecture, units }) {
  return { dataset, architecture, units };
}

/** Sum over examples of the centred products of column a under seed s and column b under seed t. */
function productsOf(values, tests, size) {
  const starts = tests.map(() => []);
  let start = 0;
  for (let s = 0; s < tests.length; s++) {
    for (let t = s; t < tests.length; t++) {
      if (tests[s] !== tests[t]) continue;
      starts[s][t] = start;
      start += s === t ? (size * (size + 1)) / 2 : size * size;
    }
  }
  return (s, a, t, b) => {
    if (s > t) return values[starts[t][s] + b * size + a];
    if (s < t) return values[starts[s][t] + a * size + b];
    const [low, high] = a < b ? [a, b] : [b, a];
    return values[starts[s][s] + low * size - (low * (low - 1)) / 2 + (high - low)];
  };
}

/** Numbers of the entrants, seeds and sparsities of a block that are chosen and have no gap; null if there are none. */
function partOf(block, choice) {
  const entrants = range(block.entrants.length).filter((a) => choice.methods.has(block.entrants[a]));
  const seeds = range(block.seeds.length).filter((s) => choice.seeds.has(block.seeds[s]));
  const levels = range(block.sparsities.length);
  if (!entrants.length || !seeds.length) return null;
  if (block.columns === 1) return { block, entrants, seeds, levels };
  const there = (a, s, l) => Number.isFinite(block.mean(s, a * block.columns + l));
  const own = entrants.filter((a) => seeds.some((s) => levels.some((l) => there(a, s, l))));
  const under = seeds.filter((s) => own.some((a) => levels.some((l) => there(a, s, l))));
  const at = levels.filter((l) => own.some((a) => under.some((s) => there(a, s, l))));
  if (!own.length) return null;
  const [m, s, l] = completePart(own.map((a) => under.map((seed) => at.map((level) => there(a, seed, level)))));
  return { block, entrants: m.map((k) => own[k]), seeds: s.map((k) => under[k]), levels: l.map((k) => at[k]) };
}

/** The part with some of its entrants alone: their means, halves, and the variance of each paired difference. */
function narrowed({ block, seeds, levels }, entrants) {
  const at = entrants.map((entrant) => block.entrants.indexOf(entrant));
  const read = averagedColumns(block, levels);
  return {
    ...place(block),
    sparsities: levels.map((l) => block.sparsities[l]),
    entrants,
    seeds: seeds.map((s) => block.seeds[s]),
    means: seeds.map((s) => at.map((a) => read.mean(s, a))),
    halves: seeds.map((s) => [0, 1].map((parity) => at.map((a) => read.half(s, parity, a)))),
    variances: variances({ ...block, ...read }, at, seeds),
  };
}

/** A block read by entrants: as it is, or averaged over sparsities, each halving of the network weighing alike. */
function averagedColumns(block, levels) {
  if (block.columns === 1) return block;
  const halvings = levels.map((l) => block.halvings[l]);
  const weights = levels.map((_, k) => area(levels.map((__, other) => (other === k ? 1 : 0)), halvings));
  const over = (value) => levels.reduce((sum, l, k) => sum + weights[k] * value(l), 0);
  const column = (a, l) => a * block.columns + l;
  return {
    mean: (s, a) => over((l) => block.mean(s, column(a, l))),
    half: (s, parity, a) => over((l) => block.half(s, parity, column(a, l))),
    product: (s, a, t, b) => over((l) => over((m) => block.product(s, column(a, l), t, column(b, m)))),
  };
}

function averaged(rows) {
  return rows[0].map((_, k) => mean(rows.map((row) => row[k])));
}

/** Variance of the difference of two; what is rounding is zero. */
function spread(first, second, both) {
  const total = first + second;
  const found = total - 2 * both;
  return found > ROUNDING * total ? found : 0;
}

/** Variance of each mean difference within one block, [entrant][entrant]. */
function variances(block, at, under) {
  const count = under.length;
  const isCrossed = under.every((s) => block.tests[s] === block.tests[under[0]]);
  const examples = block.examples[under[0]];
  const centred = at.map((a) => {
    const own = under.map((s) => block.mean(s, a));
    return own.map((value) => value - mean(own));
  });
  const sameSeed = squares(at, (a, b) => under.map((s) => block.product(s, a, s, b)));
  const crossed = !isCrossed || count < 2 ? null : squares(at, (a, b) => {
    let sum = 0;
    for (const s of under) for (const t of under) sum += block.product(s, a, t, b);
    return sum / count ** 2;
  });
  const found = at.map(() => new Float64Array(at.length));
  for (let i = 0; i < at.length; i++) {
    for (let j = i + 1; j < at.length; j++) {
      const of = (table, pick) => spread(pick(table[i][i]), pick(table[j][j]), pick(table[i][j]));
      const each = under.map((s, k) => {
        const n = block.examples[s];
        return of(sameSeed, (sums) => sums[k]) / Math.max(n - 1, 1) / n;
      });
      const byExamples = mean(each) / count;
      found[i][j] = found[j][i] = count < 2 ? byExamples : combined(bySeeds(centred, i, j), byExamples);

      function combined(seeds, floor) {
        if (!crossed) return Math.max(seeds, floor);
        const shared = of(crossed, (sum) => sum) / Math.max(examples - 1, 1) / examples;
        const left = (x, y) => sameSeed[x][y].reduce((sum, value) => sum + value, 0) - count * crossed[x][y];
        const rest = spread(left(i, i), left(j, j), left(i, j));
        const both = rest / ((count - 1) * (examples - 1)) / (count * examples);
        return Math.max(seeds + shared - both, Math.max(seeds, shared));
      }
    }
  }
  return found;
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
        [errors[a][b], degrees[a][b], p[a][b]] = [errors[b][a], degrees[b][a], p[b][a]] = compared(blocks, a, b, values[a][b], known);
      }
    }
  }
  return { values, errors, degrees, p };
}

function compared(blocks, a, b, value, known) {
  const parts = blocks.map((block) => block.variances[a][b]);
  const variance = parts.reduce((sum, part) => sum + part, 0) / blocks.length ** 2;
  const terms = parts.reduce((sum, part, k) => sum + part ** 2 / Math.max(blocks[k].seeds.length - 1, 1e-9), 0) / blocks.length ** 4;
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
