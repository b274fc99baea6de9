// A cell looked at closely: a hover says its numbers; a click opens its records, their commands and its figure.

/** Texts of a cell for a hover: what it is, and its value under each seed. */
function hoverText(cell, page, state) {
  const metric = page.metric(state.metric);
  const values = valuesOf(page.records, cell.records, metric.name, state.seed);
  const seeds = values.map(([seed, value]) => `seed ${seed}: ${fixed(metric.scale * value, metric.digits + 1)}`);
  return [cell.title, `${metric.label}: ${meanText(bySeed(values), metric)}`, ...seeds];
}

/** One hover for all that names a cell in `data-cell`, for pointer and keyboard; Escape hides it. */
function showHovers(place, hover, textOf) {
  let target = null;
  const hide = () => (hover.hidden = true);
  const show = (event) => {
    target = event.target.closest && event.target.closest("[data-cell]");
    if (!target || !place.contains(target)) return hide();
    hover.replaceChildren(...textOf(target.dataset.cell).map((text) => element("div", {}, text)));
    hover.hidden = false;
    return beside(hover, target);
  };
  const follow = () => (!hover.hidden && target === document.activeElement ? beside(hover, target) : hide());
  place.addEventListener("pointerover", show);
  place.addEventListener("focusin", show);
  place.addEventListener("pointerleave", hide);
  place.addEventListener("focusout", hide);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.addEventListener("scroll", follow, { passive: true, capture: true });
}

/** Below its target, or above where there is no room, and never beyond the window. */
function beside(hover, target) {
  const box = target.getBoundingClientRect();
  const fitsBelow = box.bottom + 8 + hover.offsetHeight < window.innerHeight;
  hover.style.left = `${Math.max(4, Math.min(box.left, window.innerWidth - hover.offsetWidth - 8))}px`;
  hover.style.top = `${fitsBelow ? box.bottom + 8 : Math.max(4, box.top - hover.offsetHeight - 8)}px`;
}

/** Fills and opens the dialog with the records of a cell. */
function openCell(dialog, cell, page, figure) {
  const done = cell.records;
  const head = element("div", { class: "dialog-head" }, element("h2", { id: "cell-title" }, cell.title),
    element("button", { type: "button", onclick: () => dialog.close() }, "Close"));
  const links = page.figures.filter((one) => document.getElementById(`figure-${one.name}`)).slice(0, 12);
  dialog.replaceChildren(head,
    ...(figure ? [element("figure", {}, element("div", { class: "drawing" }, figure))] : []),
    ...done.map((i) => recordOf(page.records, i, done.length === 1)),
    ...(links.length ? [element("p", { class: "note" }, "Figures of this page: ", ...links.flatMap((one, k) => [k ? ", " : "", element("a", { href: `#figure-${one.name}`, onclick: () => dialog.close() }, one.title)]))] : []));
  if (!dialog.open) dialog.showModal();
}

function recordOf(records, i, open) {
  const command = commandOf(records, i);
  const fields = records.names.filter((name) => !name.startsWith("run_")).map((name) => [name, records.value(name, i)]);
  const shown = fields.filter(([, value]) => value !== null && value !== "");
  const list = shown.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]);
  return element("details", { class: "record", open },
    element("summary", {}, `Seed ${records.value("seed", i)}: ${records.value("status", i)}`),
    ...(command
      ? [element("p", {}, "Recompute this cell: ", copyButton(command)), element("pre", { tabindex: 0, "aria-label": "Command" }, command)]
      : [element("p", { class: "note" }, "The record does not say with which settings it was run, so there is no command.")]),
    element("dl", {}, ...list));
}
