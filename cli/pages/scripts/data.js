// The tensors of the page: columns of values, and what is drawn of them. Everything foreign becomes text, never markup.

"use strict";

/** Whether a button would do anything; one that would not keeps the focus, which `disabled` would take from it. */
const enable = (id, able) => byId(id).setAttribute("aria-disabled", !able);

/** An element with attributes and children; strings become text. */
function element(tag, attributes = {}, ...children) {
  const made = tag.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4))
    : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

const byId = (id) => document.getElementById(id);

/** Call `act` now and whenever the element gets another width; returns what stops that. */
function whenResized(watched, act) {
  const observer = new ResizeObserver(() => requestAnimationFrame(act));
  observer.observe(watched);
  return () => observer.disconnect();
}

/** NaN and the infinities are words in JSON. */
const numberOf = (value) =>
  value === null || typeof value === "number" ? value : { nan: NaN, inf: Infinity, "-inf": -Infinity }[value];

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** Columns by their keys, and the tensors' places; a tensor is its index. */
class Tensors {
  constructor(content) {
    Object.assign(this, content);
    for (const column of this.columns)
      if (["count", "bytes", "number"].includes(column.kind)) column.values = column.values.map(numberOf);
    this.column = Object.fromEntries(this.columns.map((column) => [column.key, column]));
    this.count = this.layers.length;
  }

  value(key, index) {
    return this.column[key].values[index];
  }

  /** Indices of the tensors of each layer (null for those of none) and role: Map role -> Map layer -> indices. */
  places() {
    const found = new Map();
    this.layers.forEach((layer, index) => {
      const role = this.roleOf[index];
      if (!found.has(role)) found.set(role, new Map());
      const layers = found.get(role);
      if (!layers.has(layer)) layers.set(layer, []);
      layers.get(layer).push(index);
    });
    return found;
  }

  sum(key, indices) {
    return indices.reduce((total, index) => total + this.value(key, index), 0);
  }

  /** A measure of several tensors: bits of all their numbers, or the worst of their errors; null if none has one. */
  measure(column, indices) {
    if (column.key === "bits") return (8 * this.sum("bytes", indices)) / this.sum("parameters", indices) || null;
    const known = indices.map((index) => column.values[index]).filter((value) => value !== null);
    if (!known.length) return null;
    return known.some(Number.isNaN) ? NaN : known.reduce((worst, value) => Math.max(worst, value));
  }

  types(indices) {
    const counts = new Map();
    for (const index of indices) {
      const type = this.value("type", index);
      counts.set(type, (counts.get(type) ?? 0) + 1);
    }
    return [...counts].map(([type, count]) => (counts.size > 1 ? `${count} × ${type}` : type)).join(", ");
  }
}

const counted = new Intl.NumberFormat("en");

function sized(bytes) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (bytes < 999.5) return `${unit === "B" ? bytes : bytes.toPrecision(3)} ${unit}`;
    bytes /= 1000;
  }
  return `${bytes.toPrecision(3)} TB`;
}

/** A value of a column, as people read it. */
function shown(column, value) {
  if (value === null || value === undefined) return "";
  switch (column.kind) {
    case "shape":
      return value.join(" × ") || "scalar";
    case "bytes":
    case "count":
      return counted.format(value);
    case "number":
      return Number.isFinite(value) ? digits(value, column.digits) : String(value).replace("Infinity", "∞");
    default:
      return value;
  }
}

/** A column's title over a chart. */
const headline = (column) => column.title.replace("/", " per ").replace(/^./, (letter) => letter.toUpperCase());

/** So many digits after the point; of smaller and of huge numbers a power of ten. */
function digits(value, places) {
  const size = Math.abs(value);
  const tiny = size > 0 && size < 10 ** -places;
  return tiny || size >= 1e9 ? value.toExponential(2) : value.toFixed(places);
}

// Colours: the same for the same bits on every page.

const BITS = [1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 8.5, 16, 32];
const OF_BITS = ["#ffe08a", "#fbc05c", "#cfd165", "#7cc77f", "#3fb391", "#2a97a3", "#2f75ad", "#3b52a0", "#4a3579"];
const ERRORS = [1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1];
const OF_ERRORS = ["#e8f1d8", "#fdf0c9", "#fdd49e", "#fc9f6a", "#ec6448", "#b8202a", "#5c0a1c"];
const OF_RANKS = ["#f3e9f5", "#dfc3e4", "#c79bd2", "#a974bf", "#874fa6", "#632f86", "#3f1561"];

/** Stops and their colours; of a rank, what a sixth, two sixths, ... of the column's values lie below. */
function scaleOf(column) {
  if (column.scale === "bits") return { stops: BITS, palette: OF_BITS, place: Math.log };
  if (column.scale === "error") return { stops: ERRORS, palette: OF_ERRORS, place: Math.log };
  column.stops ??= quantiles(column.values.filter(Number.isFinite));
  return { stops: column.stops, palette: OF_RANKS, place: (value) => value };
}

function quantiles(values) {
  if (!values.length) return [];
  values.sort((a, b) => a - b);
  return OF_RANKS.map((_, i) => values[Math.round((i * (values.length - 1)) / (OF_RANKS.length - 1))]);
}

/** The colour of a value of a column, and of text upon it. */
function colours(column, value) {
  if (value === null || value === undefined) return ["", ""];
  if (Number.isNaN(value)) return ["#d400d4", "#fff"];
  const { stops, palette, place } = scaleOf(column);
  const next = stops.findIndex((stop) => value < stop);
  let mixed;
  if (next === 0) mixed = channels(palette[0]);
  else if (next === -1) mixed = channels(palette.at(-1));
  else {
    const [low, high] = [place(stops[next - 1]), place(stops[next])];
    const part = (place(value) - low) / (high - low);
    const [from, to] = [channels(palette[next - 1]), channels(palette[next])];
    mixed = from.map((channel, i) => Math.round(channel + part * (to[i] - channel)));
  }
  return [`rgb(${mixed.join(",")})`, luminance(mixed) > 0.179 ? "#000" : "#fff"];
}

const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function luminance(rgb) {
  const [r, g, b] = rgb.map((c) => ((c /= 255), c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
