// Who can be compared: parts of results without a gap, as reports/records/ranking.py finds them.

/** Indices [methods, seeds, sparsities] of a part of a boolean cube with no gap. */
function completePart(there) {
  const kept = [range(there.length), range(there[0].length), range(there[0][0].length)];
  for (;;) {
    const gaps = kept.map((own) => own.map(() => 0));
    let count = 0;
    kept[0].forEach((m, i) => kept[1].forEach((s, j) => kept[2].forEach((l, k) => {
      if (there[m][s][l]) return;
      count++;
      [gaps[0][i]++, gaps[1][j]++, gaps[2][k]++];
    })));
    if (!count) return kept;
    const size = kept[0].length * kept[1].length * kept[2].length;
    const shares = gaps.map((own, axis) => own.map((gap) => gap / (size / kept[axis].length)));
    const axis = leavingAxis(shares);
    kept[axis].splice(shares[axis].indexOf(Math.max(...shares[axis])), 1);
  }
}

/** Methods that lack half of their cells leave; after that the sparsity or the seed with the largest share of gaps. */
function leavingAxis(shares) {
  const most = (axis) => Math.max(...shares[axis]);
  const spare = [2, 1].filter((axis) => shares[axis].length > 1);
  if (!spare.length || (shares[0].length > 1 && most(0) >= 0.5)) return 0;
  return spare.length > 1 && most(1) > most(2) ? 1 : spare[0];
}

/** Methods and blocks such that each of these methods is in each of these blocks; `names(block)` lists its methods. */
function commonPart(blocks, names) {
  const has = blocks.map((block) => new Set(names(block)));
  let methods = [...new Set(has.flatMap((set) => [...set]))].sort((a, b) => a - b);
  let best = { methods: [], blocks: [] };
  const pairs = (stage) => stage.methods.length * stage.blocks.length;
  while (methods.length) {
    const stage = { methods, blocks: blocks.filter((_, k) => methods.every((method) => has[k].has(method))) };
    const more = pairs(stage) - pairs(best) || stage.methods.length - best.methods.length;
    if (more > 0) best = stage;
    const counts = methods.map((method) => has.filter((set) => set.has(method)).length);
    const fewest = counts.indexOf(Math.min(...counts));
    methods = methods.filter((_, k) => k !== fewest);
  }
  return best;
}
