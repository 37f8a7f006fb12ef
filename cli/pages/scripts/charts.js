// What uPlot draws: errors of all tensors, and the histogram of one.

/** Colours of the page as they are now, light or dark; a canvas knows no variables of CSS. */
const ofText = () => getComputedStyle(document.body).color;
const ofLines = () => getComputedStyle(byId("tensors")).borderTopColor;

const OF_SERIES = ["#2f75ad", "#d9722e", "#3d9950", "#b3408f", "#8a6fd1", "#b59b1d", "#1f9aa0", "#8c6d5a"];

/** Charts that are there now, to be drawn again in other colours. */
const charts = new Set();

function chart(parent, options, data) {
  const axis = { stroke: ofText, grid: { stroke: ofLines, width: 1 }, ticks: { show: false } };
  options.axes = options.axes.map((one) => ({ ...axis, ...one }));
  const size = () => ({ width: Math.max(240, parent.clientWidth), height: 260 });
  const made = new uPlot({ ...size(), ...options }, data, parent);
  const stop = whenResized(parent, () => made.width !== size().width && made.setSize(size()));
  charts.add(made);
  made.hooks.destroy = [() => (stop(), charts.delete(made))];
  return made;
}

/** Each tensor's error, in the order of the file, a series for each type. */
class Errors {
  constructor(tensors, detail) {
    this.tensors = tensors;
    this.column = tensors.columns.find((one) => one.scale === "error");
    const { values } = this.column ?? { values: [] };
    this.known = [...values.keys()].filter((index) => values[index] > 0 && Number.isFinite(values[index]));
    if (!this.known.length) return;
    byId("errors").hidden = false;
    byId("errors-title").textContent = headline(this.column);
    byId("errors-status").textContent = ERRORS_HINT;
    this.plot = this.drawn();
    const all = [...values.keys()];
    onClick(this.plot.over, () => detail.open(this.nearest(), all));
  }

  drawn() {
    const { values } = this.column;
    const types = [...new Set(this.known.map((index) => this.tensors.value("type", index)))];
    const apart = types.length <= OF_SERIES.length;
    const seriesOf = (type) => {
      const points = new Array(values.length).fill(null);
      for (const index of this.known)
        if (!apart || this.tensors.value("type", index) === type) points[index] = values[index];
      return points;
    };
    const labels = apart ? types : ["all types"];
    const short = (value) => (value === null ? "" : `${Number(value.toPrecision(3))}`);
    const options = {
      scales: { x: { time: false }, y: { distr: 3 } },
      series: [{ label: "tensor", value: (_, index) => index ?? "" }, ...labels.map(pointSeries)],
      axes: [{}, { size: 64, values: (_, ticks) => ticks.map(short) }],
      hooks: { setCursor: [() => this.tell()] },
    };
    return chart(byId("errors-plot"), options, [[...values.keys()], ...labels.map(seriesOf)]);
  }

  /** The tensor whose point is nearest to the mouse. */
  nearest() {
    const { left, top } = this.plot.cursor;
    const distance = (index) =>
      (this.plot.valToPos(index, "x") - left) ** 2 + (this.plot.valToPos(this.column.values[index], "y") - top) ** 2;
    let [found, least] = [this.known[0], Infinity];
    for (const index of this.known) {
      const far = distance(index);
      if (far < least) [found, least] = [index, far];
    }
    return found;
  }

  tell() {
    if (!this.plot || this.plot.cursor.left < 0) return;
    const index = this.nearest();
    const name = this.tensors.value("name", index);
    byId("errors-status").textContent = `${name}: ${shown(this.column, this.column.values[index])}`;
  }
}

const ERRORS_HINT =
  "in the order of the file; a click shows the tensor, a drag enlarges, a double click shows all; " +
  "the table has the same numbers";

const pointSeries = (label, i) => ({
  label,
  stroke: OF_SERIES[i],
  paths: () => null,
  points: { show: true, size: 5, stroke: OF_SERIES[i], fill: OF_SERIES[i] },
  value: (_, value) => (value === null ? "" : digits(value, 5)),
});

/** A click is where the mouse was pressed; what ends elsewhere was a drag. */
function onClick(target, act) {
  let pressed = null;
  target.addEventListener("mousedown", (event) => (pressed = [event.clientX, event.clientY]));
  target.addEventListener("click", (event) => {
    const moved = pressed && Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]);
    if (moved < 4) act();
  });
}

/** The histogram of one tensor's values, where they were looked at: bars as wide as their bins. */
function histogram(parent, tensors, index) {
  const found = tensors.histograms[index];
  if (!found?.counts.length) return null;
  const edges = found.edges.map(numberOf);
  const [below, above] = [found.below, found.above].map((count) => counted.format(count));
  if (found.below + found.above)
    parent.append(element("p", { class: "status" }, `${below} outliers lie below, ${above} above`));
  const count = (_, value) => (value === null ? "" : counted.format(value));
  const bars = {
    label: "how many",
    stroke: OF_SERIES[0],
    fill: OF_SERIES[0],
    paths: (u) => ({ fill: barsOf(u, edges, found.counts), stroke: null }),
    points: { show: false },
    value: count,
  };
  const options = {
    scales: {
      x: { time: false, range: () => [edges[0], edges.at(-1)] },
      y: { range: (_, __, most) => [0, most || 1] },
    },
    series: [{ label: "value", value: (_, value) => (value === null ? "" : value.toPrecision(3)) }, bars],
    axes: [{}, { size: 84, values: (_, ticks) => ticks.map((tick) => counted.format(tick)) }],
  };
  const middles = found.counts.map((_, i) => (edges[i] + edges[i + 1]) / 2);
  return chart(parent, options, [middles, found.counts]);
}

function barsOf(u, edges, counts) {
  const path = new Path2D();
  counts.forEach((count, i) => {
    const [left, right] = [u.valToPos(edges[i], "x", true), u.valToPos(edges[i + 1], "x", true)];
    const [top, bottom] = [u.valToPos(count, "y", true), u.valToPos(0, "y", true)];
    path.rect(left, top, Math.max(1, right - left - 1), bottom - top);
  });
  return path;
}
