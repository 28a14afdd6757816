// Tables, the filter, and which layer of each network is the best that passes it.

const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array, f8: Float64Array };

class Frame {
  constructor(raw, results) {
    this.n = raw.n;
    this.raw = raw.columns;
    this.results = results;
    this.read = new Map();
  }

  has(name) {
    return name in this.raw || (this.results !== undefined && this.results.has(name));
  }

  /** A function from row number to value: a number (NaN if missing), a text or null. */
  column(name) {
    if (!this.read.has(name)) this.read.set(name, this.reader(name));
    return this.read.get(name);
  }

  reader(name) {
    if (!(name in this.raw)) {
      const row = this.column("row"), there = this.results.column(name);
      return (i) => there(row(i));
    }
    const { type, data, values } = this.raw[name];
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const numbers = new ARRAYS[type](bytes.buffer);
    return values ? (i) => values[numbers[i]] : (i) => numbers[i];
  }

  isText(name) {
    return name in this.raw ? this.raw[name].is_text : this.results.isText(name);
  }
}

const DATA = JSON.parse(document.getElementById("data").textContent);
const { identity: IDENTITY, titles: TITLES } = DATA;
const RESULTS = new Frame(DATA.frames.results);
const FRAMES = Object.fromEntries(
  Object.entries(DATA.frames).map(([name, raw]) => [
    name, name === "results" ? RESULTS : new Frame(raw, "row" in raw.columns ? RESULTS : undefined),
  ]),
);

const filter = {
  hidden: new Map(DATA.filters.map((name) => [name, new Set()])),
  visible: new Uint8Array(RESULTS.n).fill(1),
  best: new Uint8Array(RESULTS.n),
  listeners: [],

  update() {
    const tests = [...this.hidden].filter(([, values]) => values.size)
      .map(([name, values]) => [RESULTS.column(name), values]);
    for (let i = 0; i < RESULTS.n; i++) this.visible[i] = tests.every(([value, values]) => !values.has(value(i) ?? ""));
    this.findBest();
    this.listeners.forEach((listener) => listener());
  },

  findBest() {
    const keys = DATA.bestOf.map((name) => RESULTS.column(name)), score = RESULTS.column("score");
    const bestOf = new Map();
    for (let i = 0; i < RESULTS.n; i++) {
      if (!this.visible[i] || Number.isNaN(score(i))) continue;
      const key = keys.map((value) => value(i)).join("\u0000");
      if (!bestOf.has(key) || score(i) > score(bestOf.get(key))) bestOf.set(key, i);
    }
    this.best.fill(0);
    for (const i of bestOf.values()) this.best[i] = 1;
  },
};

function range(n) {
  return Array.from({ length: n }, (_, i) => i);
}

function unique(values) {
  return [...new Set(values)];
}

function median(values) {
  const sorted = Float64Array.from(values).sort();
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function title(name) {
  return TITLES[name] ?? name.replaceAll("_", " ");
}

/** Four significant digits, whole numbers as they are. */
function shown(value) {
  if (value === null || value === undefined || value === "" || Number.isNaN(value)) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en").replaceAll(",", " ");
  const size = Math.abs(value);
  return size < 1 && size >= 0.0001 ? value.toFixed(4) : String(Number(value.toPrecision(size >= 1e4 ? 5 : 4)));
}

function csv(columns, rows) {
  const quoted = (value) => {
    if (value === null || value === undefined || Number.isNaN(value)) return "";
    const text = String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = rows.map((i) => columns.map(({ value }) => quoted(value(i))).join(","));
  return [columns.map(({ name }) => quoted(name)).join(","), ...lines].join("\n") + "\n";
}

function save(name, url) {
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
}

function saveText(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  save(name, url);
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}
