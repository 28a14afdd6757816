// The page: its tables, its filter, its figures, and their controls.

const DARK = matchMedia("(prefers-color-scheme: dark)");

function theme() {
  return document.documentElement.dataset.theme || (DARK.matches ? "dark" : "light");
}

function finished(layout, view) {
  const { ink, grid, paper, isNarrow } = view;
  const base = { automargin: true, gridcolor: grid, zerolinecolor: grid, linecolor: grid, fixedrange: false };
  const made = {
    font: { color: ink, family: "system-ui, sans-serif", size: isNarrow ? 11 : 13 }, paper_bgcolor: paper, plot_bgcolor: paper,
    margin: { l: 60, r: 16, t: 36, b: 50 }, dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", hoverlabel: { align: "left" },
    legend: { orientation: "h", y: -0.18, yanchor: "top" }, ...layout,
  };
  made.legend = { orientation: "h", yref: "container", y: 0, yanchor: "bottom", ...layout.legend };
  for (const [name, axis] of Object.entries(layout)) {
    if (/^[xy]axis/.test(name)) made[name] = { ...base, ...axis, title: { text: typeof axis.title === "string" ? axis.title : "" } };
  }
  return made;
}

class ChartView {
  constructor(chart) {
    this.chart = chart;
    this.frame = FRAMES[chart.frame];
    this.figure = document.getElementById(`chart-${chart.name}`);
    this.plot = this.figure.querySelector(".plot");
    this.note = this.figure.querySelector(".note");
    this.measure = chart.measures[0];
    this.chosenPanel = null;
    this.chosenPair = [null, null];
    this.isStale = true;
    this.isSeen = false;
    this.drawnWidth = 0;
    this.makeControls();
  }

  makeControls() {
    const choose = (label) => element("select", { "aria-label": `${this.chart.title}: ${label}` });
    const labelled = (label, select) => element("label", {}, `${label} `, select);
    this.measureMenu = choose("quantity");
    this.panelMenu = choose("shown");
    this.pairMenus = [choose("horizontal"), choose("vertical")];
    this.measureMenu.append(...this.chart.measures.map((m, k) => element("option", { value: k }, m.title)));
    this.measureMenu.onchange = () => { this.measure = this.chart.measures[this.measureMenu.value]; this.redraw(); };
    this.panelMenu.onchange = () => { this.chosenPanel = this.panelMenu.value; this.redraw(); };
    this.pairMenus.forEach((menu, k) => { menu.onchange = () => { this.chosenPair[k] = menu.value; this.redraw(); }; });
    const button = (text, label, act) => element("button", { type: "button", "aria-label": `${this.chart.title}: ${label}`, onclick: act }, text);
    const controls = this.figure.querySelector(".controls");
    if (this.chart.measures.length > 1) controls.append(labelled("Show", this.measureMenu));
    if (this.chart.panel) controls.append(labelled(this.chart.measures.length > 1 ? "of" : "Show", this.panelMenu));
    if (this.chart.kind === "pairs") controls.append(...this.pairMenus.map((menu, k) => labelled(k ? "against" : "Compare", menu)));
    controls.append(element("span", { class: "buttons" },
      button("PNG", "download as PNG", () => this.saveImage("png")), button("SVG", "download as SVG", () => this.saveImage("svg")),
      button("CSV", "download the numbers as CSV", () => saveText(`${this.chart.name}.csv`, csv(this.columns(), this.rows()))),
      button("Numbers", "show the numbers as a table", () => this.toggleNumbers())));
  }

  /** Rows that pass the filter and have a value, of all panels. */
  candidates() {
    const row = this.frame === RESULTS ? (i) => i : this.frame.has("row") ? this.frame.column("row") : null;
    const passes = this.chart.best_only ? filter.best : filter.visible, value = this.frame.column(this.measure.column);
    const mark = this.chart.mark ? this.frame.column(this.chart.mark) : () => null, atEdge = (i) => DATA.marks[mark(i)]?.[1];
    return range(this.frame.n).filter((i) => (row === null || passes[row(i)]) && (!Number.isNaN(value(i)) || atEdge(i)));
  }

  rows() {
    const rows = this.candidates();
    if (!this.chart.panel) return rows;
    const panel = this.frame.column(this.chart.panel);
    const all = this.frame.has("score") ? ranked(rows, panel, this.frame.column("score")) : unique(rows.map(panel));
    const panels = this.chart.kind === "pairs" ? this.withPairs(rows, panel, all) : all;
    this.panel = panels.includes(this.chosenPanel) ? this.chosenPanel : panels[0];
    fill(this.panelMenu, panels, this.panel);
    this.panelMenu.parentElement.hidden = panels.length < 2;
    return rows.filter((i) => panel(i) === this.panel);
  }

  /** Panels of two networks or more, if there are any. */
  withPairs(rows, panel, panels) {
    const network = this.frame.column(this.chart.x), of = grouped(rows, panel);
    const several = panels.filter((name) => of.get(name).some((i) => network(i) !== network(of.get(name)[0])));
    return several.length ? several : panels;
  }

  choosePair(rows) {
    const names = ranked(rows, this.frame.column(this.chart.x), this.frame.column("score"));
    const [across, up] = this.chosenPair.map((name) => (names.includes(name) ? name : null));
    const highestBut = (other) => names.find((name) => name !== other) ?? names[0];
    this.pair = [across ?? highestBut(up ?? names[0]), up ?? highestBut(across)];
    this.pairMenus.forEach((menu, k) => fill(menu, names, this.pair[k]));
  }

  build(rows, chosenTheme, width) {
    const style = DATA.palettes[chosenTheme];
    const view = { chart: this.chart, frame: this.frame, measure: this.measure, value: this.frame.column(this.measure.column), rows, pair: this.pair, theme: chosenTheme, width, isNarrow: width < 560, ...style };
    const { data, layout, height, note } = DRAW[this.chart.kind](view);
    return { data, layout: { ...finished(layout, view), height }, note: note ?? "" };
  }

  redraw() {
    this.isStale = false;
    const rows = this.rows();
    if (this.chart.kind === "pairs") this.choosePair(rows);
    if (!rows.length) {
      Plotly.purge(this.plot);
      this.note.textContent = "Nothing passes the filter.";
      return;
    }
    this.drawnWidth = this.plot.clientWidth;
    this.plot.style.minHeight = 0;
    const { data, layout, note } = this.build(rows, theme(), this.drawnWidth);
    this.note.textContent = note;
    this.plot.setAttribute("aria-label", `${this.chart.title}: ${this.measure.title}${this.panel ? `, ${this.panel}` : ""}. ${this.chart.caption} ${rows.length} values; the button Numbers shows them as a table.`);
    Plotly.react(this.plot, data, layout, { displaylogo: false, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d"]] });
    if (this.numbers) this.numbers.draw();
  }

  invalidate() {
    this.isStale = true;
    if (this.isSeen) this.redraw();
  }

  async saveImage(format) {
    const width = 900, { data, layout } = this.build(this.rows(), "light", width);
    save(`${this.chart.name}.${format}`, await Plotly.toImage({ data, layout: { ...layout, width } }, { format, width, height: layout.height, scale: format === "png" ? 3 : 1 }));
  }

  columns() {
    const { chart, frame } = this, measures = chart.measures.flatMap((m) => [m.column, m.low, m.high, m.reference]);
    const own = [chart.panel, chart.series, chart.x, chart.other, chart.unit, chart.text, ...measures, chart.flag, ...chart.hover];
    return unique([...(frame.has("row") || frame === RESULTS ? IDENTITY : []), ...own]).filter((name) => name && frame.has(name)).map((name) => ({ name, title: title(name), value: this.frame.column(name), isText: this.frame.isText(name) }));
  }

  toggleNumbers() {
    const host = this.figure.querySelector(".numbers");
    host.hidden = !host.hidden;
    if (!this.numbers) this.numbers = new SortedTable(host, this.chart.name, this.columns(), () => this.rows());
  }
}

function fill(menu, names, chosen) {
  if (menu.length !== names.length || names.some((name, k) => menu[k].value !== name)) {
    menu.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
  }
  menu.value = chosen;
}

function makeFilter(name) {
  const values = unique(range(RESULTS.n).map(RESULTS.column(name)).map((value) => value ?? "")).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const hidden = filter.hidden.get(name), count = element("span");
  const boxes = values.map((value) => element("input", { type: "checkbox", checked: true, value }));
  const labels = boxes.map((box) => element("label", {}, box, ` ${box.value || "(none)"}`));
  const changed = () => {
    hidden.clear();
    boxes.forEach((box) => box.checked || hidden.add(box.value));
    count.textContent = hidden.size ? ` ${values.length - hidden.size} of ${values.length}` : ` ${values.length}`;
    filter.update();
  };
  const matching = () => boxes.filter((_, k) => !labels[k].hidden);
  const find = element("input", { type: "search", placeholder: "Find", "aria-label": `Find ${title(name)}`, oninput: () => {
    labels.forEach((label, k) => { label.hidden = !boxes[k].value.toLowerCase().includes(find.value.toLowerCase()); });
  } });
  const set = (checked) => { matching().forEach((box) => { box.checked = checked; }); changed(); };
  boxes.forEach((box) => box.addEventListener("change", changed));
  count.textContent = ` ${values.length}`;
  return element("details", { class: "filter", "data-filter": name }, element("summary", {}, title(name), count),
    element("div", { class: "options" }, find,
      element("span", { class: "buttons" }, element("button", { type: "button", onclick: () => set(true) }, "all"), element("button", { type: "button", onclick: () => set(false) }, "none")),
      element("div", { class: "list" }, ...labels)));
}

function tableColumns(frame, names) {
  return names.filter((name) => frame.has(name))
    .map((name) => ({ name, title: title(name), value: frame.column(name), isText: frame.isText(name) }))
    .filter(({ value }) => range(frame.n).some((i) => value(i) !== null && value(i) !== "" && !Number.isNaN(value(i))));
}

function makeTable(id, frame, names, rows, open) {
  const host = document.getElementById(id);
  if (!host) return null;
  const columns = tableColumns(frame, names);
  if (open) columns[0].open = open;
  return new SortedTable(host, id, columns, rows);
}

function start() {
  const everything = document.getElementById("everything");
  const rowsWhere = (passes) => () => range(RESULTS.n).filter((i) => passes[i]);
  filter.findBest();
  const score = RESULTS.column("score"), r = RESULTS.column("r_mean"), network = RESULTS.column("network");
  const all = makeTable("results", RESULTS, DATA.tables.results, rowsWhere(filter.visible));
  const headline = makeTable("headline", RESULTS, DATA.tables.headline, () => rowsWhere(filter.best)().sort((i, j) => Number.isNaN(r(i)) - Number.isNaN(r(j)) || score(j) - score(i)), (i) => {
    all.search.value = network(i);
    all.draw();
    everything.open = true;
    everything.scrollIntoView();
  });
  for (const name of ["unfinished", "compared"]) {
    if (FRAMES[name]) makeTable(name, FRAMES[name], DATA.tables[name], () => range(FRAMES[name].n));
  }
  const views = DATA.charts.map((chart) => new ChartView(chart));
  const seen = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
    const view = views.find((one) => one.plot === target);
    view.isSeen = isIntersecting;
    if (isIntersecting && view.isStale) view.redraw();
  }), { rootMargin: "400px" });
  views.forEach((view) => seen.observe(view.plot));

  const filters = document.getElementById("filters");
  filters.append(...DATA.filters.map(makeFilter));
  document.addEventListener("click", ({ target }) => filters.querySelectorAll("details[open]").forEach((open) => { if (!open.contains(target)) open.open = false; }));
  filters.addEventListener("keydown", ({ key }) => { if (key === "Escape") filters.querySelectorAll("details[open]").forEach((open) => { open.open = false; open.querySelector("summary").focus(); }); });
  filter.listeners.push(() => { headline.draw(); all.draw(); views.forEach((view) => view.invalidate()); });

  const redrawAll = () => views.forEach((view) => view.invalidate());
  const resized = new ResizeObserver((entries) => entries.forEach(({ target }) => {
    const view = views.find((one) => one.plot === target);
    if (Math.abs(target.clientWidth - view.drawnWidth) > 8) view.invalidate();
  }));
  views.forEach((view) => resized.observe(view.plot));
  DARK.addEventListener("change", redrawAll);
  addEventListener("beforeprint", () => views.forEach((view) => view.isStale && view.redraw()));
  document.getElementById("theme").onclick = () => {
    document.documentElement.dataset.theme = theme() === "dark" ? "light" : "dark";
    redrawAll();
  };
}

start();
