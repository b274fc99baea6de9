// The leaderboard of whoever is shown: places with bounds and groups, as reports/leaderboard/standings.py has it.

const MOST_SPLITS = 200;

/** Blocks of the chosen entrants and seeds in which all of them meet; null if there is none. */
function fieldOf(blocks, choice) {
  const parts = blocks.filter((block) => choice.hasBlock(block)).map((block) => partOf(block, choice)).filter(Boolean);
  const several = parts.filter((part) => part.seeds.length > 1);
  const names = (part) => part.entrants.map((a) => part.block.entrants[a]);
  const common = commonPart(several.length ? several : parts, names);
  return common.blocks.length ? common.blocks.map((part) => narrowed(part, common.methods)) : null;
}

/** Standings by place, best first. */
function leaderboard(blocks) {
  const entrants = blocks[0].entrants;
  const size = entrants.length;
  const tests = differences(blocks);
  const means = blocks.map((block) => averaged(block.means));
  const [scores, ranks] = [averaged(means), averaged(means.map((row) => [...places(row)]))];
  const order = range(size).sort((a, b) => scores[b] - scores[a] || a - b);
  const apart = toldApart(tests.p);
  const groups = letters(size, (i, j) => apart(order[i], order[j]));
  const [place, halves] = [places(scores), stability(blocks)];
  const count = (k, sign) => range(size).filter((other) => apart(k, other) && sign * tests.values[k][other] > 0).length;
  const standings = order.map((k, at) => ({
    entrant: entrants[k],
    place: place[k],
    best: 1 + count(k, -1),
    worst: size - count(k, 1),
    group: groups[at],
    score: scores[k],
    meanRank: ranks[k],
    moved: halves.moved[k],
    lead: [tests.values[k][order[0]], ...intervalOf(tests, k, order[0])],
  }));
  return { standings, tests, entrants, blocks, agreement: halves.agreement, splits: halves.splits };
}

/** Holm's procedure over all pairs. */
function toldApart(p) {
  const size = p.length;
  const pairs = range(size).flatMap((i) => range(size - i - 1).map((k) => [i, i + 1 + k]));
  const adjusted = steppedDown(pairs.map(([i, j]) => p[i][j]));
  const flags = range(size).map(() => new Uint8Array(size));
  pairs.forEach(([i, j], k) => (flags[i][j] = flags[j][i] = adjusted[k] <= ALPHA ? 1 : 0));
  return (i, j) => flags[i][j] === 1;
}

/** Split halves that share neither a network nor a test example. */
function stability(blocks) {
  const splits = halvesOf(Math.min(...blocks.map((block) => block.seeds.length)));
  const moved = [];
  let agreement = 0;
  for (const [one, other] of splits) {
    const [first, second] = [halfScores(blocks, one, 0), halfScores(blocks, other, 1)];
    const [a, b] = [places(first), places(second)];
    moved.push([...a].map((at, k) => Math.abs(at - b[k])));
    agreement += tau(first, second);
  }
  return { moved: averaged(moved), agreement: agreement / splits.length, splits: splits.length };
}

function halfScores(blocks, seeds, parity) {
  return averaged(blocks.map((block) => averaged(seeds.map((s) => block.halves[s][parity]))));
}

/** Rank correlation (Kendall 1945, tau-b); 1 where either side has no order at all. */
function tau(a, b) {
  let [both, first, second] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    for (let j = i + 1; j < a.length; j++) {
      const [x, y] = [Math.sign(a[i] - a[j]), Math.sign(b[i] - b[j])];
      [both, first, second] = [both + x * y, first + x * x, second + y * y];
    }
  }
  const scale = Math.sqrt(first * second);
  return scale ? both / scale : 1;
}

/** Pairs of disjoint halves, evenly picked where there are more than MOST_SPLITS. */
function halvesOf(seeds) {
  if (seeds < 2) return [[[0], [0]]];
  const size = Math.floor(seeds / 2);
  const every = [];
  for (const one of combinations(range(seeds), size)) {
    const rest = range(seeds).filter((seed) => !one.includes(seed));
    for (const other of combinations(rest, size)) if (lexicographic(one, other) < 0) every.push([one, other]);
  }
  const step = Math.max(1, Math.ceil(every.length / MOST_SPLITS));
  return every.filter((_, k) => k % step === 0);
}

function combinations(values, size) {
  if (size === 0) return [[]];
  return values.flatMap((value, k) => combinations(values.slice(k + 1), size - 1).map((rest) => [value, ...rest]));
}
