// Intervals over seeds, resampled within each block, as reports/records/statistics.py has them.

/** Average rank of each method, with a bootstrap interval over seeds: a seed is resampled for all methods at once. */
function rankIntervals(columns, draws) {
  const methods = range(columns[0].length);
  const sizes = columns.map((block) => block[0].length);
  const value = averaged(columns.map((block) => [...places(block.map(mean))]));
  if (Math.min(...sizes) < 2) return value.map((rank) => ({ value: rank, low: NaN, high: NaN }));
  const [{ blocks }] = resampled(draws, sizes);
  const samples = methods.map(() => new Float64Array(draws.count));
  columns.forEach((block, b) => {
    const ranks = blocks[b].kinds.map((kind) => places(block.map((values) => meanOf(values, kind))));
    for (let draw = 0; draw < draws.count; draw++) {
      const own = ranks[blocks[b].kind[draw]];
      for (const k of methods) samples[k][draw] += own[k];
    }
  });
  return samples.map((own, k) =>
    intervalFrom(
      value[k],
      own.map((sum) => sum / blocks.length),
    ),
  );
}

/** The mean of values picked so often, added in the order of seeds: methods that tie are to tie here too. */
function meanOf(values, counts) {
  let sum = 0;
  for (let i = 0; i < values.length; i++) for (let k = 0; k < counts[i]; k++) sum += values[i];
  return sum / values.length;
}

function intervalFrom(value, samples) {
  return { value, low: quantile(samples, (1 - LEVEL) / 2), high: quantile(samples, (1 + LEVEL) / 2) };
}

/** Relative area, its interquartile mean, and P(better than the baseline), each with its interval, for each method. */
function areaIntervals(relative, methods, page) {
  const nothing = { value: NaN, low: NaN, high: NaN };
  const at = methods.indexOf(page.baseline);
  if (!relative.length)
    return methods.map((_, k) => ({ area: nothing, iqm: nothing, improvement: at < 0 || k === at ? null : nothing }));
  const sizes = relative.map((block) => block[0].length);
  const [first, second] = Math.min(...sizes) < 2 ? [null, null] : resampled(page.draws, sizes);
  return methods.map((_, k) => {
    const own = relative.map((block) => block[k]);
    return {
      area: interval(mean(own.map(pairwiseMean)), first && blockMeans(own, first)),
      iqm: interval(iqm(own.flat()), first && pooledIqms(own, first)),
      improvement:
        at < 0 || k === at
          ? null
          : improvement(
              own,
              relative.map((block) => block[at]),
              first,
              second,
            ),
    };
  });
}

function interval(value, samples) {
  return samples ? intervalFrom(value, samples) : { value, low: NaN, high: NaN };
}

function blockMeans(own, { blocks, count }) {
  const found = new Float64Array(count);
  blocks.forEach(({ kinds, kind }, b) => {
    const means = kinds.map((counts) => meanOf(own[b], counts));
    for (let draw = 0; draw < count; draw++) found[draw] += means[kind[draw]];
  });
  return found.map((sum) => sum / blocks.length);
}

/** The mean without the lowest and the highest quarter. */
function iqm(values) {
  const rising = Float64Array.from(values).sort();
  const cut = Math.floor(rising.length / 4);
  return pairwiseMean(rising.slice(cut, rising.length - cut));
}

function pooledIqms(own, { counts, total, count }) {
  const values = own.flat();
  const order = Uint32Array.from(range(total).sort((i, j) => values[i] - values[j]));
  const rising = Float64Array.from(order, (i) => values[i]);
  const cut = Math.floor(total / 4);
  const found = new Float64Array(count);
  for (let draw = 0; draw < count; draw++) {
    let [passed, sum] = [-cut, 0];
    for (let i = 0; i < total && passed < total - 2 * cut; i++) {
      const many = counts[draw * total + order[i]];
      if (!many) continue;
      const from = passed > 0 ? passed : 0;
      passed += many;
      const to = passed < total - 2 * cut ? passed : total - 2 * cut;
      if (to > from) sum += (to - from) * rising[i];
    }
    found[draw] = sum / (total - 2 * cut);
  }
  return found;
}

/** P(A > B): how often a seed of A beats a seed of B, ties half, averaged over blocks. */
function improvement(own, other, first, second) {
  const signs = own.map((block, b) =>
    block.map((value) => Float64Array.from(other[b], (rival) => Math.sign(value - rival))),
  );
  const wins = signs.map((table) => (mean(table.map((row) => mean(row))) + 1) / 2);
  if (!first) return interval(mean(wins), null);
  const found = new Float64Array(first.count);
  signs.forEach((table, b) => {
    const [ours, theirs] = [first.blocks[b], second.blocks[b]];
    const seeds = range(ours.size);
    const rows = ours.kinds.map((counts) =>
      seeds.map((j) => seeds.reduce((sum, i) => sum + counts[i] * table[i][j], 0)),
    );
    for (let draw = 0; draw < first.count; draw++) {
      const [row, counts] = [rows[ours.kind[draw]], theirs.kinds[theirs.kind[draw]]];
      let sum = 0;
      for (let j = 0; j < row.length; j++) sum += counts[j] * row[j];
      found[draw] += (sum / (row.length * row.length) + 1) / 2;
    }
  });
  return interval(
    mean(wins),
    found.map((sum) => sum / signs.length),
  );
}
