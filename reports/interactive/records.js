// The records of the page: columns by name, and cells, the records that differ in their seed alone.

/** Columns as they lie in the page, read by `value(column, record)`; `null` where a record has none. */
function recordsOf(columns) {
  const names = Object.keys(columns);
  const count = columns.key.length;
  const value = (name, record) => {
    const column = columns[name];
    if (!column) return null;
    return Array.isArray(column) ? column[record] : column.values[column.codes[record]];
  };
  return { names, count, value };
}

const OWN_CHOICE = "own";

/** Cells by block and method: Map of block id to Map of label to Map of sparsity (or OWN_CHOICE) to record numbers. */
function cellsOf(records) {
  const blocks = new Map();
  for (let i = 0; i < records.count; i++) {
    const block = blockId(records.value("dataset", i), records.value("architecture", i), records.value("units", i));
    const target = records.value("target", i);
    const methods = within(blocks, block, () => new Map());
    const levels = within(methods, records.value("label", i), () => new Map());
    within(levels, target === null || target === undefined ? OWN_CHOICE : target, () => []).push(i);
  }
  return blocks;
}

function within(map, key, fresh) {
  if (!map.has(key)) map.set(key, fresh());
  return map.get(key);
}

function blockId(dataset, architecture, units) {
  return JSON.stringify([dataset, architecture, units]);
}

/** Blocks in which anything was pruned, in the order of their names. */
function blocksOf(cells) {
  const pruned = [...cells].filter(([, methods]) => [...methods.keys()].some((method) => method !== "dense"));
  return pruned.map(([id]) => id).sort().map((id) => {
    const [dataset, architecture, units] = JSON.parse(id);
    return { id, dataset, architecture, units };
  });
}

/** Values of a metric, one for each of the seeds that has any, as [seed, value, record]. */
function valuesOf(records, cell, metric, seeds) {
  return cell
    .filter((i) => records.value("status", i) === "done" && seeds.has(records.value("seed", i)))
    .map((i) => [records.value("seed", i), records.value(metric, i), i])
    .filter(([, value]) => Number.isFinite(value));
}

/** The mean for each seed: a cell that ran in several ways counts once. */
function bySeed(values) {
  const found = new Map();
  for (const [seed, value] of values) within(found, seed, () => []).push(value);
  return [...found.values()].map(mean);
}

/** The unpruned network's metric over seeds; empty where no record says it. */
function denseValues(records, methods, metric, seeds) {
  const bySeed = new Map();
  for (const [label, levels] of methods) {
    for (const cell of levels.values()) {
      for (const i of cell) {
        const value = label === "dense" ? records.value(metric, i) : records.value(`dense_${metric}`, i);
        const plain = String(records.value("inference", i) || "").startsWith("MAP");
        const rank = label === "dense" ? 2 : plain ? 1 : 0;
        const seed = records.value("seed", i);
        if (!Number.isFinite(value) || !seeds.has(seed)) continue;
        const known = bySeed.get(seed);
        if (!known || known.rank < rank) bySeed.set(seed, { rank, value });
      }
    }
  }
  return [...bySeed.values()].map(({ value }) => value);
}

/** What recomputes the cell of a record: a matrix of this cell alone; null where the record does not say. */
function commandOf(records, i) {
  const run = (name) => records.value(`run_${name}`, i);
  if (!run("settings")) return null;
  const lists = {
    datasets: run("dataset"), architectures: run("architecture"), methods: run("method"), sparsity: run("sparsity"),
    seeds: records.value("seed", i), units: JSON.stringify(records.value("units", i)),
  };
  const lines = Object.entries(lists).map(([name, text]) => `"${name}":[${text}]`);
  const settings = run("settings").slice(1, -1);
  const matrix = `{${[...lines, ...(settings ? [settings] : [])].join(",\n ")}}`;
  return `cat > cell.yaml <<'END'\n${matrix}\nEND\nbayesprune run cell.yaml --out recomputed`;
}
