// The figure of average ranks.

/** Average ranks with their intervals; shaded: within the critical difference of the best. */
function ranksFigure(found, page) {
  const { standings, criticalDifference } = found;
  const names = standings.map((s) => shortened(page.labels[s.method], 44));
  const left = 30 + 7.1 * Math.max(...names.map((name) => name.length));
  const [width, row] = [Math.max(560, left + 380), 20];
  const bottom = 14 + row * standings.length;
  const x = scaleOf(0.7, standings.length + 0.3, left, width - 16);
  const best = standings[0];
  const title = `Average ranks of ${counted(standings.length, "method")} over ${counted(found.blocks.length, "block")}`;
  const svg = canvas(
    width,
    bottom + 44,
    title,
    `Best: ${page.labels[best.method]}, rank ${intervalText(best.rank, 1, 2)}. The table of average ranks has all numbers.`,
  );
  if (Number.isFinite(criticalDifference)) {
    const to = Math.min(best.rank.value + criticalDifference, standings.length + 0.3);
    svg.append(
      drawn("rect", {
        x: x(best.rank.value),
        y: 6,
        width: x(to) - x(best.rank.value),
        height: bottom - 6,
        fill: "#999999",
        "fill-opacity": 0.18,
      }),
    );
  }
  for (const tick of ticksOf(1, standings.length, 10).filter(Number.isInteger)) {
    svg.append(
      line(x(tick), 6, x(tick), bottom, { stroke: GRID }),
      label(x(tick), bottom + 16, tick, { "text-anchor": "middle" }),
    );
  }
  standings.forEach((s, k) => {
    const [y, look] = [18 + row * k, page.looks[page.labels[s.method]]];
    svg.append(label(left - 12, y + 4, names[k], { "text-anchor": "end" }));
    if (Number.isFinite(s.rank.low))
      svg.append(line(x(s.rank.low), y, x(s.rank.high), y, { stroke: look.color, "stroke-width": 2 }));
    svg.append(markerAt(x(s.rank.value), y, look, 10));
  });
  const shaded = Number.isFinite(criticalDifference) ? "; shaded: within the critical difference of the best" : "";
  svg.append(label(width - 16, bottom + 36, `average rank (1 is best)${shaded}`, { "text-anchor": "end" }));
  return svg;
}
