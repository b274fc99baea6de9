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
    /** NaN where nothing was run, infinite where a result has no value. */
    value: (m, s, l) => values[(m * seeds + s) * levels + l],
  };
}

/** The ranking of the chosen methods, blocks and seeds; null if nothing can be compared. */
function ranking(cubes, choice, page) {
  const blocks = cubes
    .filter((cube) => choice.hasBlock(cube))
    .map((cube) => blockOf(cube, choice, page))
    .filter(Boolean);
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
  const hasRun = (m, s, l) => !Number.isNaN(cube.value(m, s, l));
  const [everySeed, everyLevel] = [
    range(cube.seeds.length).filter((s) => choice.seeds.has(cube.seeds[s])),
    range(cube.sparsities.length),
  ];
  const methods = range(cube.methods.length).filter(
    (m) => choice.methods.has(cube.methods[m]) && everySeed.some((s) => everyLevel.some((l) => there(m, s, l))),
  );
  const seeds = everySeed.filter((s) => methods.some((m) => everyLevel.some((l) => hasRun(m, s, l))));
  const levels = everyLevel.filter((l) => methods.some((m) => seeds.some((s) => hasRun(m, s, l))));
  if (!methods.length) return null;
  const [m, s, l] = completePart(methods.map((i) => seeds.map((j) => levels.map((k) => there(i, j, k)))));
  const [own, under, at] = [m.map((i) => methods[i]), s.map((j) => seeds[j]), l.map((k) => levels[k])];
  const areas = own.map((i) =>
    under.map((j) =>
      area(
        at.map((k) => cube.value(i, j, k)),
        at.map((k) => cube.halvings[k]),
      ),
    ),
  );
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
  const parts = range(values.length - 1).map(
    (k) => ((halvings[k + 1] - halvings[k]) * (values[k + 1] + values[k])) / 2,
  );
  const whole = parts.length < 8 ? parts.reduce((sum, part) => sum + part, 0) : pairwiseMean(parts) * parts.length;
  return rounded(whole / (halvings[halvings.length - 1] - halvings[0]));
}

/** Friedman's test, or with two methods the sign test, over blocks; and Nemenyi's critical difference. */
function testOf(columns, critical) {
  const [scores, blocks, methods] = [
    columns.map((block) => block.map(pairwiseMean)),
    columns.length,
    columns[0].length,
  ];
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
