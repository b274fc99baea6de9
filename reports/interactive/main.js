// Begins when the page is there: tables of the file become sortable, its figures can be saved, and choices open.

for (const table of document.querySelectorAll(".scroll > table")) if (table.tHead && table.tHead.rows.length) sortable(table);

for (const image of document.querySelectorAll("figure > img[data-name]")) {
  const text = () => new TextDecoder().decode(Uint8Array.from(atob(image.src.split(",")[1]), (character) => character.charCodeAt(0)));
  const save = () => download(`${image.dataset.name}.svg`, text(), "image/svg+xml");
  image.after(element("p", { class: "buttons" }, element("button", { type: "button", class: "save", onclick: save }, "Save as SVG")));
}

const embedded = document.getElementById("records");
/** What the page can be asked for, by a console or a test. */
globalThis.bayesprune = { svgText, tQuantile, twoSidedP, chiSquaredTail };
if (embedded) Object.assign(globalThis.bayesprune, start(pageOf(JSON.parse(embedded.textContent))));
