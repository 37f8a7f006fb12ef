// The table of tensors: sorted by its heads, searched, cut into pages, so that 30,000 rows cost no more than 100.

class Table {
  constructor(tensors, detail) {
    this.tensors = tensors;
    this.detail = detail;
    this.key = tensors.order;
    this.descending = true;
    this.page = 0;
    this.place = null; // {label, indices}, of a cell that was chosen
    this.columns = tensors.columns.filter((column) => !column.aside);
    this.lower = tensors.column.name.values.map((name) => name.toLowerCase());
    this.heads();
    this.controls();
    this.update();
  }

  heads() {
    const row = element("tr");
    for (const column of this.columns) {
      const button = element("button", { type: "button", onclick: () => this.sort(column.key) }, column.title);
      row.append(element("th", { scope: "col", "data-key": column.key, class: rightly(column) }, button));
    }
    byId("tensor-table").tHead.append(row);
  }

  controls() {
    const types = [...new Set(this.tensors.column.type.values)].sort();
    byId("type-choice").append(...types.map((type) => element("option", { value: type }, type)));
    byId("search").addEventListener("submit", (event) => event.preventDefault());
    for (const id of ["query", "type-choice", "rows"]) byId(id).addEventListener("input", () => this.update());
    byId("place").addEventListener("click", () => this.choose(null));
    byId("first").addEventListener("click", () => this.turn(0));
    byId("previous").addEventListener("click", () => this.turn(this.page - 1));
    byId("next").addEventListener("click", () => this.turn(this.page + 1));
    byId("last").addEventListener("click", () => this.turn(Infinity));
    for (const id of ["search", "pager"]) byId(id).hidden = false;
  }

  /** By another column; by the same one the other way round. Numbers begin with the largest, text with A. */
  sort(key) {
    const numeric = !["text", "choice"].includes(this.tensors.column[key].kind);
    this.descending = this.key === key ? !this.descending : numeric;
    this.key = key;
    this.update();
  }

  /** Show only these tensors; null for all. */
  choose(place) {
    this.place = place;
    this.update();
    if (place) byId("tensors").scrollIntoView({ block: "start" });
    else byId("query").focus();
  }

  /** Search, sort, and go back to the first page. */
  update() {
    const words = byId("query").value.toLowerCase().split(/\s+/).filter(Boolean);
    const type = byId("type-choice").value;
    const all = this.place ? this.place.indices : this.lower.keys();
    this.found = [...all].filter(
      (index) =>
        words.every((word) => this.lower[index].includes(word)) &&
        (!type || this.tensors.value("type", index) === type),
    );
    if (this.key) this.found.sort(this.order());
    byId("place").hidden = !this.place;
    byId("place").textContent = this.place ? `${this.place.label} ✕` : "";
    byId("place").setAttribute("aria-label", this.place ? `Only ${this.place.label}; show all` : "");
    for (const head of byId("tensor-table").tHead.rows[0].cells) {
      const sorted = head.dataset.key === this.key;
      head.setAttribute("aria-sort", sorted ? (this.descending ? "descending" : "ascending") : "none");
    }
    byId("found").textContent = `${counted.format(this.found.length)} of ${counted.format(this.tensors.count)}`;
    this.turn(0);
  }

  order() {
    const { kind, values } = this.tensors.column[this.key];
    const keyOf = kind === "shape" ? (shape) => shape.reduce((product, size) => product * size, 1) : (value) => value;
    const sign = this.descending ? -1 : 1;
    return (one, other) => {
      const [a, b] = [keyOf(values[one]), keyOf(values[other])];
      if (a === null || b === null) return (a === null) - (b === null) || one - other;
      if (typeof a === "string") return sign * COLLATOR.compare(a, b) || one - other;
      return sign * rank(a, b) || one - other;
    };
  }

  turn(page) {
    const rows = Number(byId("rows").value);
    const pages = Math.max(1, Math.ceil(this.found.length / rows));
    this.page = Math.min(Math.max(0, page), pages - 1);
    this.fill(this.found.slice(this.page * rows, (this.page + 1) * rows));
    byId("position").textContent = `page ${this.page + 1} of ${pages}`;
    for (const id of ["first", "previous"]) enable(id, this.page > 0);
    for (const id of ["next", "last"]) enable(id, this.page < pages - 1);
  }

  fill(indices) {
    const rows = indices.map((index) => element("tr", {}, ...this.columns.map((one) => this.cell(one, index))));
    byId("tensor-table").tBodies[0].replaceChildren(...rows);
  }

  cell(column, index) {
    const text = shown(column, column.values[index]);
    if (column.key === "name") {
      const open = () => this.detail.open(index, this.found);
      const button = element("button", { type: "button", class: "link", onclick: open }, text);
      return element("th", { scope: "row", class: "name" }, button);
    }
    const cell = element("td", { class: rightly(column) }, text);
    if (column.scale && column.values[index] !== null) {
      const patch = element("i", { class: "patch" });
      patch.style.background = colours(column, column.values[index])[0];
      cell.prepend(patch);
    }
    return cell;
  }

  /** For a printer: as many rows as one reads on paper. */
  print(rows = 1000) {
    this.fill(this.found.slice(0, rows));
    const left = this.found.length - rows;
    byId("position").textContent = left > 0 ? `${counted.format(left)} more are not printed` : "";
  }
}

const COLLATOR = new Intl.Collator("en", { numeric: true });

/** NaN is worse than any number. */
const rank = (a, b) => (Number.isNaN(a) ? !Number.isNaN(b) : Number.isNaN(b) ? -1 : a - b);

const rightly = (column) => (["count", "bytes", "number"].includes(column.kind) ? "right" : null);
