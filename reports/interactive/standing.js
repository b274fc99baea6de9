// The table of places, bounds and groups of whoever is shown, and what is said of every comparison.

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
  return [...new Set(blocks.flatMap((block) => block.sparsities))]
    .sort((a, b) => a - b)
    .map(percent)
    .join(", ");
}

function methodName(page, k) {
  const name = page.labels[k];
  return element("span", { class: "method" }, swatchOf(page.looks[name]), name);
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
    { text: "method" },
    { text: "place", first: "ascending" },
    { text: "may be", first: "ascending" },
    { text: "group", first: "ascending" },
    { text: "score (%)" },
    { text: "behind the first (points)", first: "ascending" },
    { text: "mean rank", first: "ascending" },
    { text: "moves between halves", first: "ascending" },
  ];
  const letters = !board.standings.some((s) => /\d/.test(s.group));
  const rows = board.standings.map((s) => [
    methodName(page, s.entrant),
    String(s.place),
    s.best < s.worst ? `${s.best}–${s.worst}` : String(s.best),
    letters ? s.group : `like ${alike(board, s)}`,
    fixed(100 * s.score, 1),
    behind(s),
    fixed(s.meanRank, 1),
    fixed(s.moved, 1),
  ]);
  fillTable(table, columns, rows);
  const seeds = span(board.blocks.map((block) => block.seeds.length));
  note.textContent =
    `Over ${counted(board.blocks.length, "block")} (${blockNames(board.blocks)}), ${seeds} seeds in each, sparsities ${sparsitiesOf(board.blocks)}. ` +
    "Methods that share a letter are not told apart, and ‘may be’ holds all places at once with 95 %: paired t tests over seeds on the same test examples, Holm’s procedure over all pairs of those shown. " +
    `Brackets: 95 % intervals of the gap to the first, one by one. Kendall’s tau of the orders of two halves: ${fixed(board.agreement, 2)} over ${counted(board.splits, "split")}. ` +
    (Number(seeds[0]) < 2 && seeds.length === 1 ? "With one seed nothing can be told apart. " : "") +
    leftOut(page, state, new Set(board.entrants));
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
