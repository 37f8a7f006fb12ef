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

/** Each tensor's error, in file order, a series for each type. */
function errorChart(tensors, detail) {
  const column = tensors.columns.find((one) => one.scale === "error");
  if (!column?.values.some((value) => value > 0)) return;
  const types = [...new Set(column.values.flatMap((value, i) => (value > 0 ? [tensors.value("type", i)] : [])))];
  const apart = types.length <= OF_SERIES.length ? types : ["all types"];
  const series = apart.map((type, i) => ({
    label: type,
    stroke: OF_SERIES[i],
    paths: () => null,
    points: { show: true, size: 5, stroke: OF_SERIES[i], fill: OF_SERIES[i] },
    value: (_, value) => (value === null ? "" : shown(column, value)),
  }));
  const finite = (value) => (value > 0 && Number.isFinite(value) ? value : null);
  const of = (type) => column.values.map((value, i) => (apart.length < types.length || tensors.value("type", i) === type ? finite(value) : null));
  byId("errors-title").textContent = headline(column);
  byId("errors").hidden = false;
  const said = byId("errors-status");
  said.textContent = "in the order of the file; a click shows the tensor, a drag enlarges, a double click shows all. The table has the same numbers.";
  const plot = chart(
    byId("errors-plot"),
    {
      scales: { x: { time: false }, y: { distr: 3 } },
      series: [{ label: "tensor", value: (_, index) => (index === null ? "" : `${index}`) }, ...series],
      axes: [{}, { size: 64, values: (_, values) => values.map((value) => (value === null ? "" : `${Number(value.toPrecision(3))}`)) }],
      hooks: { setCursor: [(u) => u.cursor.idx !== null && (said.textContent = `${tensors.value("name", u.cursor.idx)}: ${shown(column, column.values[u.cursor.idx]) || "not rounded"}`)] },
    },
    [[...column.values.keys()], ...apart.map(of)],
  );
  plot.over.addEventListener("click", () => plot.cursor.idx !== null && !plot.select.width && detail.open(plot.cursor.idx, [...column.values.keys()]));
}

/** The histogram of one tensor's values, where they were looked at: bars as wide as their bins. */
function histogram(parent, tensors, index) {
  const found = tensors.histograms[index];
  if (!found?.counts.length) return null;
  const edges = found.edges.map(numberOf);
  const bars = (u) => {
    const path = new Path2D();
    found.counts.forEach((count, i) => {
      const [left, right] = [u.valToPos(edges[i], "x", true), u.valToPos(edges[i + 1], "x", true)];
      const [top, bottom] = [u.valToPos(count, "y", true), u.valToPos(0, "y", true)];
      path.rect(left, top, Math.max(1, right - left - 1), bottom - top);
    });
    return { fill: path, stroke: null };
  };
  const beyond = found.below + found.above;
  const note = element("p", { class: "status" }, `${counted.format(found.below)} outliers lie below, ${counted.format(found.above)} above`);
  parent.replaceChildren(...(beyond ? [note] : []));
  return chart(
    parent,
    {
      scales: { x: { time: false, range: () => [edges[0], edges.at(-1)] }, y: { range: (_, __, most) => [0, most || 1] } },
      series: [
        { label: "value", value: (_, value) => (value === null ? "" : value.toPrecision(3)) },
        { label: "how many", stroke: OF_SERIES[0], fill: OF_SERIES[0], paths: bars, points: { show: false }, value: (_, value) => (value === null ? "" : counted.format(value)) },
      ],
      axes: [{}, { size: 84, values: (_, values) => values.map((value) => counted.format(value)) }],
    },
    [found.counts.map((_, i) => (edges[i] + edges[i + 1]) / 2), found.counts],
  );
}
