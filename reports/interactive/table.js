// Tables that can be sorted by a click or a key on a column's head, those that the page came with and those made here.

/** Gives every head of a table a button; rows are sorted within their section, whose heading stays on top. */
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const next = () => {
      const first = firstDirection(table, column);
      return head.getAttribute("aria-sort") === first ? other(first) : first;
    };
    const button = element("button", { type: "button", onclick: () => sortBy(table, column, next()) });
    button.append(...head.childNodes);
    head.replaceChildren(button);
  });
}

function other(direction) {
  return direction === "ascending" ? "descending" : "ascending";
}

/** Words begin with a, numbers with the largest, places and ranks with the first. */
function firstDirection(table, column) {
  const head = table.tHead.rows[0].cells[column];
  if (head.dataset.first) return head.dataset.first;
  const values = [...table.tBodies].flatMap((body) => sortedRows(body)).map((row) => sortValue(row.cells[column]));
  return values.some((value) => typeof value === "number") ? "descending" : "ascending";
}

function sortBy(table, column, direction) {
  [...table.tHead.rows[0].cells].forEach((head, k) => {
    if (k === column) head.setAttribute("aria-sort", direction);
    else head.removeAttribute("aria-sort");
  });
  const sign = direction === "ascending" ? 1 : -1;
  for (const body of table.tBodies) {
    const rows = sortedRows(body).map((row, k) => ({ row, k, value: sortValue(row.cells[column]) }));
    rows.sort((a, b) => compareValues(a.value, b.value, sign) || a.k - b.k);
    body.append(...rows.map(({ row }) => row));
  }
}

function sortedRows(body) {
  return [...body.rows].filter((row) => !row.cells[0].classList.contains("section"));
}

/** The number a cell begins with, else its text; null where there is neither. */
function sortValue(cell) {
  if (!cell) return null;
  const text = cell.textContent.trim();
  if (!text || text === NONE) return null;
  const number = /^[<>≥≤]?\s*([-−+]?[\d,]*\.?\d+(?:e[-+]?\d+)?)/i.exec(text);
  return number ? Number(number[1].replace(/,/g, "").replace("−", "-")) : text.toLowerCase();
}

/** Numbers before words, and what has no value last, whatever the direction. */
function compareValues(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
}

/** Fills a table anew, keeping its order; columns are {text, left, first}, rows arrays of texts or elements. */
function fillTable(table, columns, rows) {
  const sorted = table.tHead ? [...table.tHead.rows[0].cells].findIndex((head) => head.hasAttribute("aria-sort")) : -1;
  const name = sorted >= 0 ? table.tHead.rows[0].cells[sorted].textContent : "";
  const direction = sorted >= 0 ? table.tHead.rows[0].cells[sorted].getAttribute("aria-sort") : "";
  const style = (k) => (k === 0 || columns[k].left ? { class: "left" } : {});
  const heads = columns.map((column, k) => element("th", { scope: "col", ...style(k), "data-first": column.first }, column.text));
  const body = rows.map((row) => element("tr", {}, ...row.map((cell, k) => element(k ? "td" : "th", { ...style(k), scope: k ? null : "row" }, cell))));
  const caption = table.caption;
  table.replaceChildren(...(caption ? [caption] : []), element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...body));
  sortable(table);
  const again = columns.findIndex((column) => column.text === name);
  if (name && again >= 0) sortBy(table, again, direction);
}
