// The results of each block of the choice: a figure and a table, drawn when they are opened.

/** One fold for each chosen block, the first of them open; what is folded is drawn when it is opened. */
function showBlocks(place, page, state, chooseMetric) {
  const select = element(
    "select",
    { id: "metric", onchange: () => chooseMetric(select.value) },
    ...page.metrics.map((metric) =>
      element("option", { value: metric.name, selected: metric.name === state.metric }, metric.label),
    ),
  );
  const before = new Map([...place.querySelectorAll("details")].map((fold) => [fold.dataset.block, fold.open]));
  const focused = document.activeElement && document.activeElement.id === "metric";
  const blocks = page.blocks.filter(choiceOf(state, page).hasBlock);
  const hasMetric = ({ id }) =>
    page.cubes.some(
      (cube) => cube.metric === state.metric && blockId(cube.dataset, cube.architecture, cube.units) === id,
    );
  const first = Math.max(0, blocks.findIndex(hasMetric));
  const folds = blocks.map(({ id, dataset, architecture }, k) => {
    const content = element("div", {});
    const open = before.size ? before.get(id) === true : k === first;
    const fold = element(
      "details",
      { "data-block": id, open, ontoggle: () => fold.open && fill() },
      element("summary", {}, `${dataset} · ${architecture}`),
      content,
    );
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
  return cellId(
    blockId(value("dataset"), value("architecture"), value("units")),
    value("label"),
    target === null || target === undefined ? OWN_CHOICE : target,
  );
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
  return [...state.method]
    .filter((method) => methods.has(method))
    .map((method) => ({
      method,
      points: [...methods.get(method)]
        .flatMap(([level, cell]) => pointOf(page, state, block, method, level, cell))
        .sort((a, b) => a.sparsity - b.sparsity),
    }))
    .filter((one) => one.points.length);
}

function pointOf(page, state, block, method, level, cell) {
  const values = valuesOf(page.records, cell, state.metric, state.seed);
  if (!values.length) return [];
  const sparsity = mean(values.map(([, , i]) => page.records.value("sparsity", i)));
  const numbers = bySeed(values);
  const own = level === OWN_CHOICE;
  return [
    {
      own,
      sparsity: own || !Number.isFinite(level) ? sparsity : level,
      mean: mean(numbers),
      low: Math.min(...numbers),
      high: Math.max(...numbers),
      cell: cellId(block, method, level),
    },
  ];
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
  const caption = element(
    "figcaption",
    {},
    "Line: mean over the chosen seeds; bar: from the lowest to the highest of them; star: a sparsity that the method chose; dashed: the dense network. Point at a marker for its numbers, click for its records.",
  );
  return [
    element(
      "figure",
      {},
      element(
        "div",
        { class: "drawing scroll", tabindex: 0, role: "group", "aria-label": `Figure of ${titleOf(block)}` },
        figure,
      ),
      caption,
      element(
        "p",
        { class: "buttons" },
        saveButton(`${metric.name}-${titleOf(block).replace(/[^\w.-]+/g, "-")}`, () => figure),
      ),
    ),
    resultsTable(page, state, block, metric),
  ];
}

/** Means and deviations of a block; every cell is a button that opens its records. */
function resultsTable(page, state, block, metric) {
  const methods = page.cells.get(block);
  const names = [...state.method].filter((method) => methods.has(method));
  const levels = [...new Set(names.flatMap((name) => [...methods.get(name).keys()]))].sort(
    (a, b) => (a === OWN_CHOICE) - (b === OWN_CHOICE) || a - b,
  );
  const first = metric.higher ? "descending" : "ascending";
  const columns = [
    { text: "method" },
    ...levels.map((level) => ({ text: level === OWN_CHOICE ? "own choice" : percent(level), first })),
  ];
  const rows = names.map((name) => [
    methodName(page, page.number(name)),
    ...levels.map((level) => cellButton(page, state, block, name, level, metric)),
  ]);
  const table = element(
    "table",
    {},
    element("caption", {}, `${metric.label}, mean ± standard deviation over the chosen seeds`),
  );
  fillTable(table, columns, rows);
  return element(
    "div",
    { class: "scroll", tabindex: 0, role: "group", "aria-label": `Results of ${titleOf(block)}` },
    table,
  );
}

function cellButton(page, state, block, name, level, metric) {
  const cell = page.cells.get(block).get(name).get(level);
  if (!cell) return NONE;
  const values = bySeed(valuesOf(page.records, cell, metric.name, state.seed));
  const own =
    level === OWN_CHOICE && values.length
      ? ` @ ${percent(mean(cell.map((i) => page.records.value("sparsity", i)).filter(Number.isFinite)))}`
      : "";
  return element(
    "button",
    { type: "button", class: "cell", "data-cell": cellId(block, name, level) },
    values.length ? meanText(values, metric) + own : page.records.value("status", cell[0]),
  );
}
