// The table and the figure of average ranks of whoever is shown.

/** Average ranks over blocks, with intervals over seeds, and what the test of all methods says. */
function showRanks(place, found, page, state) {
  const [table, note, drawing, buttons] = [".scroll table", ".note", ".drawing", ".buttons"].map((name) =>
    place.querySelector(name),
  );
  if (!found) {
    fillTable(table, [{ text: "method" }], []);
    drawing.replaceChildren();
    buttons.replaceChildren();
    note.textContent = "";
    return;
  }
  const baseline = page.baseline === undefined ? "magnitude" : page.labels[page.baseline];
  const columns = [
    { text: "method" },
    { text: "mean rank", first: "ascending" },
    { text: "area relative to dense (%)" },
    { text: "IQM (%)" },
    { text: `P(better than ${baseline})` },
  ];
  const rows = found.standings.map((s) => [
    methodName(page, s.method),
    intervalText(s.rank, 1, 2),
    intervalText(s.area, 100, 1),
    intervalText(s.iqm, 100, 1),
    s.improvement ? intervalText(s.improvement, 1, 2) : NONE,
  ]);
  fillTable(table, columns, rows);
  const figure = ranksFigure(found, page);
  drawing.replaceChildren(figure);
  buttons.replaceChildren(saveButton("ranks", () => figure));
  note.textContent =
    `Over ${counted(found.blocks.length, "block")} (${blockNames(found.blocks)}), ${span(found.blocks.map((block) => block.seeds.length))} seeds in each, sparsities ${sparsitiesOf(found.blocks)}. ` +
    `Brackets: 95 % bootstrap intervals over seeds, blocks held fixed. ${testText(found)} ${leftOut(page, state, new Set(found.methods))}`;
}

function testText({ statistic, p, criticalDifference, standings, blocks }) {
  if (blocks.length < 2) return "With a single block no test of the ranks is possible.";
  if (!Number.isFinite(p)) return "All methods tie in every block.";
  const test =
    standings.length > 2
      ? `Friedman’s test over blocks: chi-squared ${fixed(statistic, 2)}, ${pText(p)}`
      : `Exact two-sided sign test over blocks: ${pText(p)}`;
  const finding = p <= ALPHA ? "a difference is found" : "no difference is found";
  const near = Number.isFinite(criticalDifference)
    ? ` Nemenyi critical difference (5 %): ${fixed(criticalDifference, 2)} ranks.`
    : "";
  return `${test}: ${finding}.${near}`;
}
