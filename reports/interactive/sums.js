// Blocks as they lie in the page, means and sums of products, narrowed to whoever is chosen.

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
  const weights = levels.map((_, k) =>
    area(
      levels.map((__, other) => (other === k ? 1 : 0)),
      halvings,
    ),
  );
  const over = (value) => levels.reduce((sum, l, k) => sum + weights[k] * value(l), 0);
  const column = (a, l) => a * block.columns + l;
  return {
    mean: (s, a) => rounded(over((l) => block.mean(s, column(a, l)))),
    half: (s, parity, a) => rounded(over((l) => block.half(s, parity, column(a, l)))),
    product: (s, a, t, b) => over((l) => over((m) => block.product(s, column(a, l), t, column(b, m)))),
  };
}

function averaged(rows) {
  return rows[0].map((_, k) => mean(rows.map((row) => row[k])));
}
