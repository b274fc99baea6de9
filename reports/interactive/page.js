// The page put together: what the file holds, what the reader chose, and what is shown of it.

/** Everything the page was given, unpacked once. */
function pageOf(data) {
  const records = recordsOf(data.records);
  const numbers = new Map(data.labels.map((label, k) => [label, k]));
  const number = (label) => numbers.get(label);
  const metrics = new Map(data.metrics.map((metric) => [metric.name, metric]));
  const cubes = data.cubes.map((cube) => unpackedCube(cube, number));
  const distinct = (name) => [...new Set(range(records.count).map((i) => records.value(name, i)))];
  const cells = cellsOf(records);
  const blocks = blocksOf(cells);
  return {
    records, number, cubes,
    labels: data.labels,
    looks: data.looks,
    metrics: data.metrics,
    metric: (name) => metrics.get(name),
    firstMetric: mostFrequent(cubes.map((cube) => cube.metric)) || data.metrics[0].name,
    sums: data.sums.map((sums) => unpackedSums(sums, number)),
    cells, blocks,
    draws: data.draws,
    critical: data.critical,
    baseline: number(data.baseline),
    figures: data.figures,
    budget: data.budget,
    keys: data.records.key,
    options: {
      units: [...new Set(blocks.map((block) => block.units))].sort((a, b) => (b === "weights") - (a === "weights") || (a < b ? -1 : 1)),
      dataset: distinct("dataset").sort(),
      architecture: distinct("architecture").sort(),
      method: data.labels,
      seed: distinct("seed").sort((a, b) => a - b),
    },
  };
}

function mostFrequent(names) {
  const count = (name) => names.filter((other) => other === name).length;
  return [...new Set(names)].sort((a, b) => count(b) - count(a))[0];
}

/** What is recomputed for a choice. */
function computed(page, state) {
  const choice = choiceOf(state, page);
  const field = fieldOf(page.sums, choice);
  return { ranking: ranking(page.cubes, choice, page), board: field && leaderboard(field) };
}

function start(page) {
  const at = (id) => document.getElementById(id);
  let state = fromAddress(location.hash, page);
  const show = () => {
    showChoice(at("choice"), state, page, change);
    const found = computed(page, state);
    showStanding(at("standing"), found.board, page, state);
    showRanks(at("ranks"), found.ranking, page, state);
    showBlocks(at("blocks"), page, state, (metric) => change({ ...state, metric }));
    at("chosen").textContent = chosenText(found, page, state);
  };
  const keep = () => history.replaceState(null, "", toAddress(state, page));
  const change = (next) => {
    state = next;
    keep();
    show();
  };
  const open = (id) => {
    const cell = cellOf(page, id);
    state = { ...state, record: page.keys[cell.records[0]] };
    keep();
    openCell(at("cell"), cell, page, blockFigure(page, state, cell.block, cell.method));
  };
  at("cell").addEventListener("close", () => {
    state = { ...state, record: "" };
    keep();
  });
  const compare = at("compare");
  compare.addEventListener("click", (event) => {
    const target = event.target.closest("[data-cell]");
    if (target) open(target.dataset.cell);
  });
  showHovers(compare, at("hover"), (id) => hoverText(cellOf(page, id), page, state));
  window.addEventListener("hashchange", () => {
    if (!location.hash.startsWith(PREFIX)) return;
    state = fromAddress(location.hash, page);
    show();
    openRecord();
  });
  const openRecord = () => state.record && open(cellIdOf(page, page.keys.indexOf(state.record)));
  compare.hidden = false;
  at("to-compare").hidden = false;
  show();
  if (location.hash.startsWith(PREFIX)) compare.scrollIntoView();
  openRecord();
  return {
    page,
    change,
    computed: (address = location.hash) => computed(page, fromAddress(address, page)),
    commandOf: (key) => commandOf(page.records, page.keys.indexOf(key)),
  };
}

function chosenText({ ranking: ranks, board }, page, state) {
  if (!ranks) return "Nothing can be ranked: that needs a data set, an architecture, a seed, and a method with results at a sparsity that was asked for.";
  const blocks = page.blocks.filter(choiceOf(state, page).hasBlock).length;
  const [found, first] = board ? [board, page.labels[board.standings[0].entrant]] : [ranks, page.labels[ranks.standings[0].method]];
  const many = `${counted(found.standings.length, "method")} in ${found.blocks.length} of ${counted(blocks, "block")}`;
  return `${many}, ${counted(state.seed.size, "seed")}: first is ${first}. ${page.budget}`;
}
