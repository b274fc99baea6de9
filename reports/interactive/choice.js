// What the reader has chosen: read from the address, kept in it, and changed by check boxes.

const LISTS = ["dataset", "architecture", "method", "seed"];
const PREFIX = "#compare?";

/** Everything, of the kind of units that comes first. */
function everything(page) {
  const state = { units: page.options.units[0], metric: page.firstMetric, record: "" };
  for (const name of LISTS) state[name] = new Set(page.options[name]);
  return state;
}

/** The choice that an address holds; names that the page does not have are passed over, and what is not said is all. */
function fromAddress(hash, page) {
  const state = everything(page);
  if (!hash.startsWith(PREFIX)) return state;
  const said = new URLSearchParams(hash.slice(PREFIX.length));
  const one = (name, known) => (known.includes(said.get(name)) ? said.get(name) : null);
  state.units = one("units", page.options.units) || state.units;
  state.metric = one("metric", page.metrics.map((metric) => metric.name)) || state.metric;
  state.record = one("record", page.keys) || "";
  for (const name of LISTS) {
    if (!said.has(name)) continue;
    const asked = new Set(said.getAll(name));
    state[name] = new Set(page.options[name].filter((value) => asked.has(String(value))));
  }
  return state;
}

/** The address of a choice; what is at its default is not in it, and an empty list is one empty name. */
function toAddress(state, page) {
  const start = everything(page);
  const said = new URLSearchParams();
  for (const name of ["units", "metric", "record"]) if (state[name] !== start[name]) said.set(name, state[name]);
  for (const name of LISTS) {
    if (state[name].size === page.options[name].length) continue;
    if (!state[name].size) said.append(name, "");
    for (const value of state[name]) said.append(name, value);
  }
  return PREFIX + said;
}

/** The choice as ranking and leaderboard ask for it: methods as numbers of labels. */
function choiceOf(state, page) {
  return {
    methods: new Set([...state.method].map(page.number)),
    seeds: state.seed,
    hasBlock: (block) => block.units === state.units && state.dataset.has(block.dataset) && state.architecture.has(block.architecture),
  };
}

const TITLES = { units: "Units", dataset: "Data sets", architecture: "Architectures", method: "Methods", seed: "Seeds" };

/** Fills the form; `changed(state)` is called with each new choice. */
function showChoice(form, state, page, changed) {
  const radios = page.options.units.map((units) => box("radio", "units", units, state.units === units, null, () => changed({ ...state, units })));
  const groups = page.options.units.length > 1 ? [fields("units", radios)] : [];
  for (const name of LISTS) {
    const boxes = page.options[name].map((value) => {
      const swatch = name === "method" && page.looks[value] ? swatchOf(page.looks[value]) : null;
      return box("checkbox", name, value, state[name].has(value), swatch, (on) => changed({ ...state, [name]: toggled(state[name], value, on, page.options[name]) }));
    });
    const all = (label, values) => element("button", { type: "button", "data-all": `${name}-${label}`, onclick: () => changed({ ...state, [name]: new Set(values) }) }, label);
    const buttons = boxes.length > 2 ? [element("span", { class: "all" }, all("all", page.options[name]), all("none", []))] : [];
    groups.push(fields(name, boxes, buttons));
  }
  const reset = element("button", { type: "button", "data-all": "reset", onclick: () => changed(everything(page)) }, "Reset the choice");
  const focused = document.activeElement && form.contains(document.activeElement) ? nameOf(document.activeElement) : null;
  form.replaceChildren(...groups, element("p", { class: "buttons" }, reset));
  if (focused) [...form.querySelectorAll("input, button")].find((one) => nameOf(one) === focused)?.focus();
}

function nameOf(control) {
  return `${control.name || ""} ${control.value || ""} ${control.dataset.all || ""}`;
}

function toggled(set, value, on, order) {
  return new Set(order.filter((other) => (other === value ? on : set.has(other))));
}

function fields(name, boxes, buttons = []) {
  return element("fieldset", { class: `choose ${name}` }, element("legend", {}, TITLES[name], ...buttons), element("div", { class: "boxes" }, ...boxes));
}

function box(type, name, value, checked, swatch, changed) {
  const input = element("input", { type, name, value, onchange: () => changed(input.checked) });
  input.checked = checked;
  return element("label", {}, input, swatch, element("span", {}, String(value)));
}
