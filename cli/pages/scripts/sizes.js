// The treemap: areas as bytes, a group for each role and within it a part for each layer, coloured by bits per weight.

const MAP_HEIGHT = 360;
/** Groups that are drawn apart; the rest are one. */
const MOST_GROUPS = 40;
/** Parts of a group; where there would be more, it has none. */
const MOST_PARTS = 256;

class Sizes {
  constructor(tensors, table) {
    this.tensors = tensors;
    this.table = table;
    const groups = [...tensors.places()].map(([role, layers]) => this.group(tensors.roles[role], [...layers.values()]));
    groups.sort((a, b) => b.bytes - a.bytes);
    const small = groups.splice(MOST_GROUPS);
    if (small.length) groups.push(this.group(`${small.length} smaller roles`, [small.flatMap((one) => one.indices)]));
    this.groups = groups.filter((group) => group.bytes > 0);
    if (!this.groups.length) return;
    byId("sizes").hidden = false;
    this.total = this.groups.reduce((sum, group) => sum + group.bytes, 0);
    byId("sizes-status").textContent = "areas are bytes, colours bits per weight; a click lists the tensors";
    whenResized(byId("sizes-map"), () => this.draw());
  }

  group(name, parts) {
    const indices = parts.flat();
    const drawn = parts.length > MOST_PARTS ? [indices] : parts;
    return { name, parts: drawn, indices, bytes: this.tensors.sum("bytes", indices) };
  }

  draw() {
    const width = byId("sizes-map").clientWidth;
    if (!width || width === this.width) return;
    this.width = width;
    const svg = element("svg:svg", { width, height: MAP_HEIGHT, role: "group", "aria-labelledby": "sizes-title" });
    const areas = squarified(
      this.groups.map((group) => group.bytes),
      { x: 0, y: 0, width, height: MAP_HEIGHT },
    );
    this.groups.forEach((group, i) => svg.append(this.drawn(group, areas[i])));
    byId("sizes-map").replaceChildren(svg);
    roving(svg);
  }

  drawn(group, area) {
    const said = this.said(group);
    const tell = () => (byId("sizes-status").textContent = said);
    const choose = () => this.table.choose({ label: group.name, indices: group.indices });
    const press = (event) => {
      if (!["Enter", " "].includes(event.key)) return;
      event.preventDefault();
      choose();
    };
    const acts = { onfocus: tell, onmouseover: tell, onclick: choose, onkeydown: press };
    const drawn = element("svg:g", { role: "button", "aria-label": said, tabindex: -1, ...acts });
    const { bits } = this.tensors.column;
    const bytes = group.parts.map((part) => this.tensors.sum("bytes", part));
    squarified(bytes, area).forEach((rectangle, i) => {
      const [fill] = colours(bits, this.tensors.measure(bits, group.parts[i]));
      drawn.append(element("svg:rect", { ...rectangle, fill: fill || "gray", class: "part" }));
    });
    drawn.append(element("svg:rect", { ...area, class: "group" }), ...this.label(group, area));
    return drawn;
  }

  said(group) {
    const share = `${((100 * group.bytes) / this.total).toFixed(1)} %`;
    const count = group.indices.length;
    const tensors = `${counted.format(count)} tensor${count > 1 ? "s" : ""}`;
    return `${group.name}: ${[sized(group.bytes), share, tensors, this.tensors.types(group.indices)].join(", ")}`;
  }

  /** The name, where it fits. */
  label(group, area) {
    const bits = this.tensors.measure(this.tensors.column.bits, group.indices);
    const lines = [group.name, `${sized(group.bytes)}, ${bits?.toFixed(2) ?? "no"} bits`];
    return lines.flatMap((line, i) => {
      const fits = area.width > 7 * line.length + 10 && area.height > 20 + 16 * i;
      const place = {
        x: area.x + 6,
        y: area.y + 17 + 16 * i,
        fill: colours(this.tensors.column.bits, bits)[1],
        class: i ? "small" : "",
      };
      return fits ? [element("svg:text", place, line)] : [];
    });
  }
}

/** Rectangles of these areas in a rectangle, as square as may be (Bruls, Huizing, van Wijk 2000); largest first. */
function squarified(values, area) {
  const total = values.reduce((sum, value) => sum + value, 0);
  const places = new Array(values.length).fill({ x: 0, y: 0, width: 0, height: 0 });
  if (!total) return places;
  const scale = (area.width * area.height) / total;
  const order = [...values.keys()].filter((i) => values[i] > 0).sort((a, b) => values[b] - values[a]);
  let { x, y, width, height } = area;
  for (let start = 0; start < order.length;) {
    const side = Math.min(width, height);
    let [end, sum, worst] = [start, 0, Infinity];
    while (end < order.length) {
      const grown = sum + values[order[end]] * scale;
      const [most, least] = [values[order[start]] * scale, values[order[end]] * scale];
      const ratio = Math.max((side ** 2 * most) / grown ** 2, grown ** 2 / (side ** 2 * least));
      if (ratio > worst) break;
      [sum, worst] = [grown, ratio];
      end += 1;
    }
    const depth = sum / side || 0;
    let along = 0;
    for (const i of order.slice(start, end)) {
      const length = (values[i] * scale) / depth || 0;
      places[i] =
        width >= height
          ? { x, y: y + along, width: depth, height: length }
          : { x: x + along, y, width: length, height: depth };
      along += length;
    }
    if (width >= height) [x, width] = [x + depth, width - depth];
    else [y, height] = [y + depth, height - depth];
    start = end;
  }
  return places;
}

/** The arrow keys go from child to child; together they are one stop of the Tab key. */
function roving(parent) {
  const children = [...parent.children];
  let at = 0;
  children[0].setAttribute("tabindex", 0);
  parent.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const next = children[at + by];
    if (!next) return;
    event.preventDefault();
    children[at].setAttribute("tabindex", -1);
    at += by;
    next.setAttribute("tabindex", 0);
    next.focus();
  });
}
