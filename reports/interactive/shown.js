// What is shown of a choice: standing, average ranks with their figure, and the results of each block.

/** Methods that were chosen and have results of these units, but no comparable ones. */
function leftOut(page, state, compared) {
  const there = new Set(page.cubes.filter((cube) => cube.units === state.units).flatMap((cube) => cube.methods));
  const names = [...state.method].filter((name) => there.has(page.number(name)) && !compared.has(page.number(name)));
  return names.length ? `Left out, for lack of comparable results: ${names.join(", ")}. ` : "";
}

function blockNames(blocks) {
  return blocks.map((block) => `${block.dataset} · ${block.architecture}`).join("; ");
}

function sparsitiesOf(blocks) {
  return [...new Set(blocks.flatMap((block) => block.sparsities))].sort((a, b) => a - b).map(percent).join(", ");
}

/** Places, bounds and groups from paired tests on the test examples. */
function showStanding(place, board, page, state) {
  const [table, note] = [place.querySelector("table"), place.querySelector(".note")];
  place.hidden = !page.sums.length;
  if (!board) {
    fillTable(table, [{ text: "method" }], []);
    note.textContent = "No block has test examples that the chosen methods share.";
    return;
  }
  const columns = [
    { text: "method" }, { text: "place", first: "ascending" }, { text: "may be", first: "ascending" },
    { text: "group", first: "ascending" }, { text: "score (%)" }, { text: "behind the first (points)", first: "ascending" },
    { text: "mean rank", first: "ascending" }, { text: "moves between halves", first: "ascending" },
  ];
  const letters = !board.standings.some((s) => /\d/.test(s.group));
  const rows = board.standings.map((s) => [
    methodName(page, s.entrant), String(s.place), s.best < s.worst ? `${s.best}–${s.worst}` : String(s.best),
    letters ? s.group : `like ${alike(board, s)}`, fixed(100 * s.score, 1), behind(s), fixed(s.meanRank, 1), fixed(s.moved, 1),
  ]);
  fillTable(table, columns, rows);
  const seeds = span(board.blocks.map((block) => block.seeds.length));
  note.textContent = `Over ${counted(board.blocks.length, "block")} (${blockNames(board.blocks)}), ${seeds} seeds in each, sparsities ${sparsitiesOf(board.blocks)}. ` +
    "Methods that share a letter are not told apart, and ‘may be’ holds all places at once with 95 %: paired t tests over seeds on the same test examples, Holm’s procedure over all pairs of those shown. " +
    `Brackets: 95 % intervals of the gap to the first, one by one. Kendall’s tau of the orders of two halves: ${fixed(board.agreement, 2)} over ${counted(board.splits, "split")}. ` +
    (Number(seeds[0]) < 2 && seeds.length === 1 ? "With one seed nothing can be told apart. " : "") + leftOut(page, state, new Set(board.entrants));
}

function methodName(page, k) {
  const name = page.labels[k];
  return element("span", { class: "method" }, swatchOf(page.looks[name]), name);
}

/** Where letters do not suffice: from how many others an entrant is not told apart. */
function alike(board, s) {
  const own = marks(s.group);
  return board.standings.filter((other) => other !== s && [...marks(other.group)].some((mark) => own.has(mark))).length;
}

function behind(s) {
  const [value, low, high] = s.lead.map((end) => -100 * end);
  if ((s.best === 1 && s.worst === 1) || value === 0) return NONE;
  return intervalText({ value, low: high, high: low }, 1, 1);
}

/** Average ranks over blocks, with intervals over seeds, and what the test of all methods says. */
function showRanks(place, found, page, state) {
  const [table, note, drawing, buttons] = [".scroll table", ".note", ".drawing", ".buttons"].map((name) => place.querySelector(name));
  if (!found) {
    fillTable(table, [{ text: "method" }], []);
    drawing.replaceChildren();
    buttons.replaceChildren();
    note.textContent = "";
    return;
  }
  const baseline = page.baseline === undefined ? "magnitude" : page.labels[page.baseline];
  const columns = [
    { text: "method" }, { text: "mean rank", first: "ascending" }, { text: "area relative to dense (%)" }, { text: "IQM (%)" },
    { text: `P(better than ${baseline})` },
  ];
  const rows = found.standings.map((s) => [
    methodName(page, s.method), intervalText(s.rank, 1, 2), intervalText(s.area, 100, 1), intervalText(s.iqm, 100, 1),
    s.improvement ? intervalText(s.improvement, 1, 2) : NONE,
  ]);
  fillTable(table, columns, rows);
  const figure = ranksFigure(found, page);
  drawing.replaceChildren(figure);
  buttons.replaceChildren(saveButton("ranks", () => figure));
  note.textContent = `Over ${counted(found.blocks.length, "block")} (${blockNames(found.blocks)}), ${span(found.blocks.map((block) => block.seeds.length))} seeds in each, sparsities ${sparsitiesOf(found.blocks)}. ` +
    `Brackets: 95 % bootstrap intervals over seeds, blocks held fixed. ${testText(found)} ${leftOut(page, state, new Set(found.methods))}`;
}

function testText({ statistic, p, criticalDifference, standings, blocks }) {
  if (blocks.length < 2) return "With a single block no test of the ranks is possible.";
  if (!Number.isFinite(p)) return "All methods tie in every block.";
  const test = standings.length > 2 ? `Friedman’s test over blocks: chi-squared ${fixed(statistic, 2)}, ${pText(p)}` : `Exact two-sided sign test over blocks: ${pText(p)}`;
  const finding = p <= ALPHA ? "a difference is found" : "no difference is found";
  const near = Number.isFinite(criticalDifference) ? ` Nemenyi critical difference (5 %): ${fixed(criticalDifference, 2)} ranks.` : "";
  return `${test}: ${finding}.${near}`;
}

// ------------------------------------------------------------------ blocks

/** One fold for each chosen block, the first of them open; what is folded is drawn when it is opened. */
function showBlocks(place, page, state, chooseMetric) {
  const select = element("select", { id: "metric", onchange: () => chooseMetric(select.value) },
    ...page.metrics.map((metric) => element("option", { value: metric.name, selected: metric.name === state.metric }, metric.label)));
  const before = new Map([...place.querySelectorAll("details")].map((fold) => [fold.dataset.block, fold.open]));
  const focused = document.activeElement && document.activeElement.id === "metric";
  const blocks = page.blocks.filter(choiceOf(state, page).hasBlock);
  const hasMetric = ({ id }) => page.cubes.some((cube) => cube.metric === state.metric && blockId(cube.dataset, cube.architecture, cube.units) === id);
  const first = Math.max(0, blocks.findIndex(hasMetric));
  const folds = blocks.map(({ id, dataset, architecture }, k) => {
    const content = element("div", {});
    const open = before.size ? before.get(id) === true : k === first;
    const fold = element("details", { "data-block": id, open, ontoggle: () => fold.open && fill() }, element("summary", {}, `${dataset} · ${architecture}`), content);
    const fill = () => content.childElementCount || content.append(...blockContent(page, state, id));
    if (open) fill();
    return fold;
  });
  place.replaceChildren(element("p", {}, element("label", { for: "metric" }, "Metric: "), select), ...folds);
  if (focused) select.focus();
}

function titleOf(id) {
  const [dataset, architecture] = JSON.parse(id);
  return `${dataset} · ${architecture}`;
}

function cellId(block, method, level) {
  return JSON.stringify([block, method, level]);
}

function cellIdOf(page, i) {
  const value = (name) => page.records.value(name, i);
  const target = value("target");
  return cellId(blockId(value("dataset"), value("architecture"), value("units")), value("label"), target === null || target === undefined ? OWN_CHOICE : target);
}

function cellOf(page, id) {
  const [block, method, level] = JSON.parse(id);
  const records = page.cells.get(block).get(method).get(level);
  const at = level === OWN_CHOICE ? "sparsity of its own choice" : `${percent(level)} pruned`;
  return { block, method, level, records, title: `${method} · ${titleOf(block)} · ${at}` };
}

/** Lines of a block's figure: for each chosen method its points, with mean, lowest and highest over the chosen seeds. */
function linesOf(page, state, block) {
  const methods = page.cells.get(block) || new Map();
  return [...state.method].filter((method) => methods.has(method)).map((method) => ({
    method,
    points: [...methods.get(method)].flatMap(([level, cell]) => pointOf(page, state, block, method, level, cell)).sort((a, b) => a.sparsity - b.sparsity),
  })).filter((one) => one.points.length);
}

function pointOf(page, state, block, method, level, cell) {
  const values = valuesOf(page.records, cell, state.metric, state.seed);
  if (!values.length) return [];
  const sparsity = mean(values.map(([, , i]) => page.records.value("sparsity", i)));
  const numbers = bySeed(values);
  const own = level === OWN_CHOICE;
  return [{ own, sparsity: own || !Number.isFinite(level) ? sparsity : level, mean: mean(numbers), low: Math.min(...numbers), high: Math.max(...numbers), cell: cellId(block, method, level) }];
}

function blockFigure(page, state, block, highlighted = null) {
  const lines = linesOf(page, state, block);
  if (!lines.length) return null;
  const dense = denseValues(page.records, denseOfBlock(page, block), state.metric, state.seed);
  return curveFigure(titleOf(block), page.metric(state.metric), lines, dense, page.looks, highlighted);
}

/** Records that may say how good the dense network is: of the block, and `dense` runs whatever their units. */
function denseOfBlock(page, block) {
  const [dataset, architecture] = JSON.parse(block);
  const all = [...page.cells].filter(([id]) => {
    const [d, a] = JSON.parse(id);
    return d === dataset && a === architecture;
  });
  return all.flatMap(([, methods]) => [...methods]);
}

function blockContent(page, state, block) {
  const figure = blockFigure(page, state, block);
  const metric = page.metric(state.metric);
  if (!figure) return [element("p", { class: "note" }, `No chosen method has a value of ${metric.label} here.`)];
  const caption = element("figcaption", {}, "Line: mean over the chosen seeds; bar: from the lowest to the highest of them; star: a sparsity that the method chose; dashed: the dense network. Point at a marker for its numbers, click for its records.");
  return [
    element("figure", {}, element("div", { class: "drawing scroll", tabindex: 0, role: "group", "aria-label": `Figure of ${titleOf(block)}` }, figure), caption, element("p", { class: "buttons" }, saveButton(`${metric.name}-${titleOf(block).replace(/[^\w.-]+/g, "-")}`, () => figure))),
    resultsTable(page, state, block, metric),
  ];
}

/** Means and deviations of a block; every cell is a button that opens its records. */
function resultsTable(page, state, block, metric) {
  const methods = page.cells.get(block);
  const names = [...state.method].filter((method) => methods.has(method));
  const levels = [...new Set(names.flatMap((name) => [...methods.get(name).keys()]))].sort((a, b) => (a === OWN_CHOICE) - (b === OWN_CHOICE) || a - b);
  const first = metric.higher ? "descending" : "ascending";
  const columns = [{ text: "method" }, ...levels.map((level) => ({ text: level === OWN_CHOICE ? "own choice" : percent(level), first }))];
  const rows = names.map((name) => [methodName(page, page.number(name)), ...levels.map((level) => cellButton(page, state, block, name, level, metric))]);
  const table = element("table", {}, element("caption", {}, `${metric.label}, mean ± standard deviation over the chosen seeds`));
  fillTable(table, columns, rows);
  return element("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": `Results of ${titleOf(block)}` }, table);
}

function cellButton(page, state, block, name, level, metric) {
  const cell = page.cells.get(block).get(name).get(level);
  if (!cell) return NONE;
  const values = bySeed(valuesOf(page.records, cell, metric.name, state.seed));
  const own = level === OWN_CHOICE && values.length ? ` @ ${percent(mean(cell.map((i) => page.records.value("sparsity", i)).filter(Number.isFinite)))}` : "";
  return element("button", { type: "button", class: "cell", "data-cell": cellId(block, name, level) }, values.length ? meanText(values, metric) + own : page.records.value("status", cell[0]));
}
