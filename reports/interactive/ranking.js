// Average ranks of whoever is shown, with bootstraps over seeds, as reports/records/ranking.py has them.

/** A panel's values as they lie in the page, methods as numbers of labels. */
function unpackedCube(cube, number) {
  const [values, seeds, levels] = [unpacked(cube.values), cube.seeds.length, cube.sparsities.length];
  return {
    ...place(cube),
    metric: cube.metric,
    methods: cube.methods.map(number),
    seeds: cube.seeds,
    sparsities: cube.sparsities,
    halvings: unpacked(cube.halvings),
    dense: unpacked(cube.dense),
    value: (m, s, l) => values[(m * seeds + s) * levels + l],
  };
}

/** The ranking of the chosen methods, blocks and seeds; null if nothing can be compared. */
function ranking(cubes, choice, page) {
  const blocks = cubes.filter((cube) => choice.hasBlock(cube)).map((cube) => blockOf(cube, choice, page)).filter(Boolean);
  const { methods, blocks: kept } = commonPart(blocks, (block) => block.methods);
  if (!kept.length) return null;
  const columns = kept.map((block) => methods.map((method) => block.columns[block.methods.indexOf(method)]));
  const known = kept.filter((block) => block.relative.flat().every(Number.isFinite));
  const relative = known.map((block) => methods.map((method) => block.relative[block.methods.indexOf(method)]));
  const ranks = rankIntervals(columns, page.draws);
  const areas = areaIntervals(relative, methods, page);
  const standings = methods.map((method, k) => ({ method, rank: ranks[k], ...areas[k] }));
  standings.sort((a, b) => a.rank.value - b.rank.value || a.method - b.method);
  return { standings, methods, blocks: kept, ...testOf(columns, page.critical) };
}

/** The part of a panel in which every chosen method has every seed and sparsity: areas and relative areas by method. */
function blockOf(cube, choice, page) {
  const there = (m, s, l) => Number.isFinite(cube.value(m, s, l));
  const [everySeed, everyLevel] = [range(cube.seeds.length).filter((s) => choice.seeds.has(cube.seeds[s])), range(cube.sparsities.length)];
  const methods = range(cube.methods.length).filter((m) => choice.methods.has(cube.methods[m]) && everySeed.some((s) => everyLevel.some((l) => there(m, s, l))));
  const seeds = everySeed.filter((s) => methods.some((m) => everyLevel.some((l) => there(m, s, l))));
  const levels = everyLevel.filter((l) => methods.some((m) => seeds.some((s) => there(m, s, l))));
  if (!methods.length) return null;
  const [m, s, l] = completePart(methods.map((i) => seeds.map((j) => levels.map((k) => there(i, j, k)))));
  const [own, under, at] = [m.map((i) => methods[i]), s.map((j) => seeds[j]), l.map((k) => levels[k])];
  const areas = own.map((i) => under.map((j) => area(at.map((k) => cube.value(i, j, k)), at.map((k) => cube.halvings[k]))));
  const higher = page.metric(cube.metric).higher;
  const dense = denseOf(cube, everySeed, under);
  return {
    ...place(cube),
    methods: own.map((i) => cube.methods[i]),
    seeds: under.map((j) => cube.seeds[j]),
    sparsities: at.map((k) => cube.sparsities[k]),
    columns: areas.map((row) => row.map((value) => (higher ? value : -value))),
    relative: areas.map((row) => row.map((value, k) => finite(higher ? value / dense[k] : dense[k] / value))),
  };
}

function finite(value) {
  return Number.isFinite(value) ? value : NaN;
}

/** The dense network's metric for each seed; where it is missing, the mean of the chosen seeds. */
function denseOf(cube, chosen, under) {
  const known = chosen.map((s) => cube.dense[s]).filter(Number.isFinite);
  return under.map((s) => (Number.isFinite(cube.dense[s]) ? cube.dense[s] : known.length ? mean(known) : NaN));
}

/** Average over sparsities, each halving of the network weighing alike. */
function area(values, halvings) {
  if (values.length === 1) return rounded(values[0]);
  const parts = range(values.length - 1).map((k) => ((halvings[k + 1] - halvings[k]) * (values[k + 1] + values[k])) / 2);
  const whole = parts.length < 8 ? parts.reduce((sum, part) => sum + part, 0) : pairwiseMean(parts) * parts.length;
  return rounded(whole / (halvings[halvings.length - 1] - halvings[0]));
}

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
  return samples.map((own, k) => intervalFrom(value[k], own.map((sum) => sum / blocks.length)));
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
  if (!relative.length) return methods.map((_, k) => ({ area: nothing, iqm: nothing, improvement: at < 0 || k === at ? null : nothing }));
  const sizes = relative.map((block) => block[0].length);
  const [first, second] = Math.min(...sizes) < 2 ? [null, null] : resampled(page.draws, sizes);
  return methods.map((_, k) => {
    const own = relative.map((block) => block[k]);
    return {
      area: interval(mean(own.map(pairwiseMean)), first && blockMeans(own, first)),
      iqm: interval(iqm(own.flat()), first && pooledIqms(own, first)),
      improvement: at < 0 || k === at ? null : improvement(own, relative.map((block) => block[at]), first, second),
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
  const signs = own.map((block, b) => block.map((value) => Float64Array.from(other[b], (rival) => Math.sign(value - rival))));
  const wins = signs.map((table) => (mean(table.map((row) => mean(row))) + 1) / 2);
  if (!first) return interval(mean(wins), null);
  const found = new Float64Array(first.count);
  signs.forEach((table, b) => {
    const [ours, theirs] = [first.blocks[b], second.blocks[b]];
    const seeds = range(ours.size);
    const rows = ours.kinds.map((counts) => seeds.map((j) => seeds.reduce((sum, i) => sum + counts[i] * table[i][j], 0)));
    for (let draw = 0; draw < first.count; draw++) {
      const [row, counts] = [rows[ours.kind[draw]], theirs.kinds[theirs.kind[draw]]];
      let sum = 0;
      for (let j = 0; j < row.length; j++) sum += counts[j] * row[j];
      found[draw] += (sum / (row.length * row.length) + 1) / 2;
    }
  });
  return interval(mean(wins), found.map((sum) => sum / signs.length));
}

/** Friedman's test, or with two methods the sign test, over blocks; and Nemenyi's critical difference. */
function testOf(columns, critical) {
  const [scores, blocks, methods] = [columns.map((block) => block.map(pairwiseMean)), columns.length, columns[0].length];
  const cd = methods > 2 && blocks > 1 ? critical[methods] * Math.sqrt((methods * (methods + 1)) / (6 * blocks)) : NaN;
  const tied = scores.every((row) => row.every((value) => value === row[0]));
  if (methods < 2 || blocks < 2 || tied) return { statistic: NaN, p: NaN, criticalDifference: cd };
  if (methods > 2) {
    const [statistic, p] = friedman(scores);
    return { statistic, p, criticalDifference: cd };
  }
  const wins = scores.filter(([a, b]) => a > b).length;
  return { statistic: wins, p: signTest(wins, scores.filter(([a, b]) => a !== b).length), criticalDifference: cd };
}
