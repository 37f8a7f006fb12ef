// The heat map: a row for each role, a column for each layer, and one at the left for what is in no layer.

/** Roles and layers that are drawn; models whose names say nothing have as many as tensors. */
const MOST_ROLES = 60;
const MOST_LAYERS = 256;

class Layers {
  constructor(tensors, table) {
    this.tensors = tensors;
    this.table = table;
    this.measures = tensors.columns.filter((column) => column.scale);
    const places = [...tensors.places()].map(([role, layers]) => ({ role, layers, bytes: bytesOf(tensors, layers) }));
    const largest = new Set(places.toSorted((a, b) => b.bytes - a.bytes).slice(0, MOST_ROLES));
    this.places = places.filter((place) => largest.has(place));
    const layers = [...new Set(this.places.flatMap((place) => [...place.layers.keys()]))];
    this.layers = layers.sort((a, b) => (a ?? -1) - (b ?? -1)).slice(0, MOST_LAYERS);
    if (!layers.some((layer) => layer !== null)) return;
    const left = [
      [places.length - this.places.length, "roles"],
      [new Set(tensors.layers).size - this.layers.length, "layers"],
    ];
    const more = left.filter(([count]) => count).map(([count, what]) => `${counted.format(count)} more ${what}`);
    this.hint = [
      "arrow keys go from cell to cell, Enter or a click lists the tensors",
      ...(more.length ? [`${more.join(" and ")} are only in the table`] : []),
    ].join("; ");
    const choice = byId("measure-choice");
    choice.append(...this.measures.map((column) => element("option", { value: column.key }, column.title)));
    if (this.measures.some((column) => column.key === tensors.order)) choice.value = tensors.order;
    choice.addEventListener("input", () => this.draw());
    byId("measure").hidden = this.measures.length < 2;
    this.draw();
    byId("layers").hidden = false;
  }

  draw() {
    const column = this.tensors.column[byId("measure-choice").value];
    const head = element("tr", {}, element("td"));
    for (const layer of this.layers) head.append(element("th", { scope: "col" }, layer === null ? "none" : `${layer}`));
    const grid = element(
      "table",
      { role: "grid", class: "heat", "aria-labelledby": "layers-title" },
      element("thead", {}, head),
    );
    const body = grid.createTBody();
    for (const { role, layers } of this.places) {
      const row = body.insertRow();
      row.append(element("th", { scope: "row", class: "name" }, this.tensors.roles[role]));
      for (const layer of this.layers) row.append(this.cell(column, role, layer, layers.get(layer)));
    }
    grid.style.maxWidth = `${200 + 44 * this.layers.length}px`;
    byId("layers-grid").replaceChildren(grid);
    byId("layers-status").textContent = this.hint;
    byId("layers-title").textContent = `${headline(column)} by layer and role`;
    this.legend(column);
    walk(grid, (cell) => this.say(cell));
  }

  cell(column, role, layer, indices) {
    if (!indices) return element("td", { role: "gridcell", "aria-disabled": "true" });
    const value = this.tensors.measure(column, indices);
    const text = value === null ? column.absent : brief(column, value);
    const cell = element("td", { role: "gridcell", class: "place" }, text);
    [cell.style.background, cell.style.color] = colours(column, value);
    const where = layer === null ? "in no layer" : `layer ${layer}`;
    cell.label = `${where}, ${this.tensors.roles[role]}`;
    const told = value === null ? column.absent : `${shown(column, value)} ${column.title}`;
    const several = indices.length > 1 ? `${counted.format(indices.length)} tensors, ` : "";
    cell.said = [told, this.tensors.types(indices), `${several}${sized(this.tensors.sum("bytes", indices))}`];
    cell.setAttribute("aria-label", `${cell.label}: ${cell.said.filter(Boolean).join(", ")}`);
    cell.choose = () => this.table.choose({ label: cell.label, indices });
    return cell;
  }

  say(cell) {
    byId("layers-status").textContent = `${cell.label}: ${cell.said.filter(Boolean).join(" · ")}`;
  }

  legend(column) {
    const marks = [...new Set(scaleOf(column).stops)].map((stop) => {
      const mark = element("span", {}, `${Number(stop.toPrecision(2))}`);
      [mark.style.background, mark.style.color] = colours(column, stop);
      return mark;
    });
    byId("layers-legend").replaceChildren(...marks);
  }
}

const bytesOf = (tensors, layers) => tensors.sum("bytes", [...layers.values()].flat());

/** A number that fits a cell. */
function brief(column, value) {
  if (!Number.isFinite(value)) return shown(column, value);
  const size = Math.abs(value);
  if (column.scale === "bits") return value.toFixed(size >= 9.95 ? 0 : 1);
  if (value === 0 || size >= 0.1 || size < 0.001) return `${Number(value.toPrecision(size >= 0.1 ? 2 : 1))}`;
  return value.toFixed(3).replace("0.", ".");
}

/** Arrow keys, Home and End go through the cells of a grid, Enter and Space choose; it is one stop of the Tab key. */
function walk(grid, tell) {
  const rows = [...grid.tBodies[0].rows].map((row) => [...row.cells].slice(1));
  let [y, x] = [
    0,
    Math.max(
      0,
      rows[0].findIndex((cell) => cell.choose),
    ),
  ];
  const go = (toY, toX) => {
    if (!rows[toY]?.[toX]) return;
    rows[y][x].tabIndex = -1;
    [y, x] = [toY, toX];
    rows[y][x].tabIndex = 0;
    rows[y][x].focus();
  };
  rows[y][x].tabIndex = 0;
  const moves = {
    ArrowUp: () => go(y - 1, x),
    ArrowDown: () => go(y + 1, x),
    ArrowLeft: () => go(y, x - 1),
    ArrowRight: () => go(y, x + 1),
    Home: () => go(y, 0),
    End: () => go(y, rows[y].length - 1),
    Enter: () => rows[y][x].choose?.(),
    " ": () => rows[y][x].choose?.(),
  };
  grid.addEventListener("keydown", (event) => {
    if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    moves[event.key]();
  });
  const about = (act) => (event) => event.target.choose && act(event.target);
  grid.addEventListener("focusin", about(tell));
  grid.addEventListener("mouseover", about(tell));
  grid.addEventListener(
    "click",
    about((cell) => cell.choose()),
  );
}
