// Each kind of chart as Plotly traces and layout, from the rows that pass the filter.

const MOST = { bars: 40, violins: 30 };
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "star", "hexagon"];
const FLAG_COLOUR = { light: "#b00020", dark: "#ff7b88" };
const NEURONS_AS_MARKS = 5000;

function colourOf(names, theme) {
  const { colours, rest } = DATA.palettes[theme];
  const all = [...colours, rest], found = new Map(), kinds = new Set();
  for (const name of names) {
    const kind = name.replace(/^random \d+$/, "random");
    if (!Object.hasOwn(DATA.weightsColour, kind) || kinds.has(kind)) continue;
    kinds.add(kind);
    found.set(name, all[DATA.weightsColour[kind]]);
  }
  const taken = new Set(found.values()), free = colours.filter((colour) => !taken.has(colour));
  return new Map(names.map((name) => [name, found.get(name) ?? free.shift() ?? rest]));
}

function grouped(rows, value) {
  const groups = new Map();
  for (const i of rows) {
    const key = value(i);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(i);
  }
  return groups;
}

/** As long as there is room for: on a narrow screen the weights go to a line of their own. */
function shortened(name, view) {
  const most = view.isNarrow ? 20 : 44;
  const cut = (part) => (part.length <= most ? part : `${part.slice(0, most / 2)}…${part.slice(1 - most / 2)}`);
  const parts = view.isNarrow ? name.split(/ (?=\()/) : [name];
  return parts.map((part) => escaped(cut(part))).join("<br>");
}

/** Text as Plotly shows it: it takes some of HTML for markup. */
function escaped(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");
}

/** Places along the horizontal axis: numbers, or names as they are shown. */
function placed({ chart, frame }) {
  const column = frame.column(chart.x);
  return frame.isText(chart.x) ? (i) => escaped(column(i)) : column;
}

/** Lines of the hover label: what the mark is, its value, its interval, and what else is told. */
function told(view, i) {
  const { chart, frame, measure } = view;
  const names = [chart.series, chart.x, chart.unit, measure.column, measure.low, measure.high, measure.reference, ...chart.hover];
  return unique(names).filter((name) => name && frame.has(name) && shown(frame.column(name)(i)) !== "–")
    .map((name) => `${escaped(title(name))}: <b>${escaped(shown(frame.column(name)(i)))}</b>`).join("<br>");
}

function hover(view, rows) {
  return { customdata: rows.map((i) => told(view, i)), hovertemplate: "%{customdata}<extra></extra>" };
}

function error(view, rows) {
  const { measure, value, frame, ink } = view;
  if (!measure.low || !frame.has(measure.low)) return undefined;
  const low = frame.column(measure.low), high = frame.column(measure.high);
  const above = rows.map((i) => Math.max(0, high(i) - value(i)) || 0);
  if (!above.some(Boolean)) return undefined;
  return { type: "data", symmetric: false, array: above, arrayminus: rows.map((i) => Math.max(0, value(i) - low(i)) || 0), color: ink, thickness: 1.2, width: 0 };
}

function ranked(rows, name, value) {
  const height = (i) => (Number.isNaN(value(i)) ? -Infinity : value(i));
  const groups = [...grouped(rows, name)].map(([key, members]) => [key, Math.max(...members.map(height))]);
  return groups.sort((a, b) => b[1] - a[1]).map(([key]) => key);
}

function named(view, names, extra = {}) {
  return { type: "category", categoryorder: "array", categoryarray: [...names].reverse(), tickmode: "array", tickvals: names, ticktext: names.map((n) => shortened(n, view)), automargin: true, showgrid: false, ...extra };
}

const DRAW = {
  bars(view) {
    const { chart, frame, measure, value, rows, theme } = view;
    const sorted = [...rows].sort((i, j) => value(j) - value(i)).slice(0, MOST.bars);
    const x = frame.column(chart.x), series = frame.column(chart.series);
    const colours = colourOf(unique(sorted.map(series)), theme);
    const data = [...grouped(sorted, series)].map(([name, members]) => ({
      type: "bar", orientation: "h", name: escaped(name), y: members.map(x), x: members.map(value),
      error_x: error(view, members), marker: { color: colours.get(name) }, ...hover(view, members),
    }));
    const reference = measure.reference && frame.has(measure.reference) && frame.column(measure.reference);
    const limited = reference ? sorted.filter((i) => !Number.isNaN(reference(i))) : [];
    if (limited.length) data.push({
      type: "scatter", mode: "markers", name: "√ceiling", y: limited.map(x), x: limited.map(reference),
      marker: { symbol: "line-ns-open", size: 14, color: view.ink, line: { width: 2 } }, hovertemplate: "√ceiling: <b>%{x:.4f}</b><extra></extra>",
    });
    const names = sorted.map(x);
    return {
      data, height: 130 + (view.isNarrow ? 32 : 25) * names.length, note: rows.length > sorted.length ? `the ${sorted.length} highest of ${rows.length}` : "",
      layout: { barmode: "overlay", bargap: 0.25, xaxis: { title: measure.title, zeroline: true }, yaxis: named(view, names) },
    };
  },

  lines(view) {
    const { chart, frame, measure, value, rows, theme } = view;
    const x = placed(view), series = frame.column(chart.series), weights = frame.column("weights_kind");
    const order = ranked(rows, series, value), colours = colourOf(order, theme), { rest } = DATA.palettes[theme];
    const flag = chart.flag ? frame.column(chart.flag) : () => 0;
    const groups = grouped(rows, series), tellsRandom = unique(range(frame.n).map(weights)).length > 1;
    const data = order.map((name, rank) => {
      const members = groups.get(name), colour = colours.get(name);
      return {
        type: "scatter", mode: "lines+markers", name: colour === rest ? "others" : escaped(name), legendgroup: colour === rest ? "others" : name,
        showlegend: order.length > 1 && rank <= DATA.palettes[theme].colours.length, x: members.map(x), y: members.map(value), error_y: error(view, members),
        line: { color: colour, width: colour === rest ? 1 : 2, dash: tellsRandom && members.every((i) => weights(i) === "random") ? "dash" : "solid" },
        marker: {
          size: members.map((i) => (flag(i) ? 11 : 6)), symbol: members.map((i) => (flag(i) ? "x" : SYMBOLS[rank % SYMBOLS.length])),
          color: members.map((i) => (flag(i) ? FLAG_COLOUR[theme] : colour)), opacity: 1,
        },
        ...hover(view, members),
      };
    }).reverse();
    const xaxis = frame.isText(chart.x)
      ? { type: "category", categoryorder: "array", categoryarray: unique(rows.map(x)), tickangle: -45, automargin: true, showgrid: false }
      : { title: chart.x_title };
    const shapes = reference(view, rows);
    return { data, height: 400 + (view.isNarrow ? 20 : 9) * Math.min(order.length, 9), layout: { xaxis, shapes, yaxis: { title: measure.title, type: chart.log_y ? "log" : "linear", rangemode: "tozero", exponentformat: "power", dtick: chart.log_y ? 1 : undefined }, legend: { traceorder: "reversed" } } };
  },

  points(view) {
    const { chart, frame, measure, value, rows, theme } = view;
    const x = placed(view), series = chart.series ? frame.column(chart.series) : () => "";
    const groups = grouped(rows, series), colours = colourOf([...groups.keys()], theme);
    const data = [...groups].map(([name, members]) => ({
      type: "scatter", mode: "markers", name: escaped(name), x: members.map(x), y: members.map(value), error_y: error(view, members),
      marker: { color: colours.get(name) ?? DATA.palettes[theme].colours[0], size: 8, opacity: 0.85 }, ...hover(view, members),
    }));
    const shapes = chart.has_identity_line ? identity(view, rows.map(x), rows.map(value)) : [];
    const xaxis = frame.isText(chart.x) ? { type: "category", automargin: true, showgrid: false } : { title: chart.x_title, type: chart.log_x ? "log" : "linear" };
    const square = chart.has_identity_line ? { scaleanchor: "x", constrain: "domain" } : {};
    return { data, height: square.scaleanchor ? Math.min(520, view.width) : 420, layout: { shapes, xaxis: { ...xaxis, constrain: "domain" }, showlegend: groups.size > 1, yaxis: { title: measure.title, ...square } } };
  },

  violins(view) {
    const { chart, frame, measure, value, rows, theme } = view;
    const middle = [...grouped(rows, frame.column(chart.x))].map(([name, members]) => [name, members, median(members.map(value))]);
    const chosen = middle.sort((a, b) => b[2] - a[2]).slice(0, MOST.violins);
    const total = chosen.reduce((sum, [, members]) => sum + members.length, 0);
    const colour = DATA.palettes[theme].colours[0];
    const data = chosen.map(([name, members]) => ({
      type: "violin", orientation: "h", name: escaped(name), y0: name, x: members.map(value), scalemode: "width", width: 0.9, spanmode: "hard",
      box: { visible: true, width: 0.22 }, points: total <= NEURONS_AS_MARKS ? "all" : false, jitter: 0.6, pointpos: 0,
      marker: { size: 3, opacity: 0.45, color: colour }, line: { color: colour, width: 1 }, fillcolor: `${colour}40`,
      hoveron: "violins+points", text: members.map((i) => told(view, i)), hovertemplate: total <= NEURONS_AS_MARKS ? "%{text}<extra></extra>" : undefined,
    }));
    return {
      data, height: 120 + 40 * chosen.length, note: middle.length > chosen.length ? `the ${chosen.length} highest of ${middle.length}` : "",
      layout: { showlegend: false, xaxis: { title: measure.title, zeroline: true }, yaxis: named(view, chosen.map(([name]) => name)) },
    };
  },

  histogram(view) {
    const { chart, frame, measure, value, rows, theme } = view;
    const values = rows.map(value), mean = values.reduce((sum, v) => sum + v, 0) / values.length;
    const colour = colourOf(unique(rows.map(frame.column(chart.series))), theme).values().next().value;
    const shapes = [{ type: "line", x0: mean, x1: mean, yref: "paper", y0: 0, y1: 1, line: { color: view.ink, width: 2 }, label: { text: `mean ${shown(mean)}`, font: { color: view.ink }, textposition: "end", textangle: 0, xanchor: "left" } }];
    const data = [{ type: "histogram", x: values, nbinsx: Math.min(60, Math.max(8, Math.round(2 * Math.sqrt(values.length)))), marker: { color: colour, line: { color: view.paper, width: 1 } }, hovertemplate: `${measure.title} %{x}<br><b>%{y}</b> neurons<extra></extra>` }];
    return { data, height: 380, note: `${values.length} neurons`, layout: { shapes, showlegend: false, xaxis: { title: measure.title }, yaxis: { title: "neurons" } } };
  },

  pairs(view) {
    const { chart, frame, value, rows, theme, pair } = view;
    const groups = grouped(rows, frame.column(chart.x)), unit = frame.column(chart.unit);
    const [across, up] = pair.map((name) => new Map((groups.get(name) ?? []).map((i) => [unit(i), i])));
    const both = [...across.keys()].filter((name) => up.has(name));
    const x = both.map((name) => value(across.get(name))), y = both.map((name) => value(up.get(name)));
    const difference = y.reduce((sum, v, k) => sum + v - x[k], 0) / both.length;
    const text = both.map((name, k) => `neuron: <b>${escaped(name)}</b><br>${escaped(pair[0])}: <b>${shown(x[k])}</b><br>${escaped(pair[1])}: <b>${shown(y[k])}</b>`);
    const data = [{ type: "scatter", mode: "markers", x, y, customdata: text, hovertemplate: "%{customdata}<extra></extra>", marker: { color: DATA.palettes[theme].colours[0], size: 7, opacity: 0.75 } }];
    const note = both.length ? `${both.length} neurons; mean of vertical − horizontal: ${difference > 0 ? "+" : ""}${shown(difference)}` : "no neuron has both scores";
    const xaxis = { title: escaped(pair[0]), constrain: "domain" }, yaxis = { title: escaped(pair[1]), scaleanchor: "x", constrain: "domain" };
    return { data, height: Math.min(520, view.width), note, layout: { shapes: identity(view, x, y), showlegend: false, xaxis, yaxis } };
  },

  tiles(view) {
    const { chart, frame, measure, value, rows } = view;
    const x = frame.column(chart.x), series = frame.column(chart.series), text = frame.column(chart.text);
    const highest = new Map();
    for (const i of rows) {
      const key = `${series(i)}\u0000${x(i)}`;
      if (!highest.has(key) || value(i) > value(highest.get(key))) highest.set(key, i);
    }
    const cells = [...highest.values()], names = ranked(cells, series, value).slice(0, MOST.bars), columns = unique(cells.map(x));
    const cell = (name, column, say) => { const i = highest.get(`${name}\u0000${column}`); return i === undefined ? null : say(i); };
    const table = (say) => names.map((name) => columns.map((column) => cell(name, column, say)));
    const data = [{
      type: "heatmap", x: columns.map(escaped), y: names, z: table(value), text: table((i) => escaped(text(i))), customdata: table((i) => told(view, i)),
      texttemplate: view.isNarrow ? "" : "%{text}", hovertemplate: "%{customdata}<extra></extra>", colorscale: view.scale, textfont: { color: view.ink }, xgap: 1, ygap: 1, colorbar: { title: { text: measure.title, side: "right" }, thickness: 12 },
    }];
    return { data, height: 150 + 28 * names.length, layout: { yaxis: named(view, names), xaxis: { type: "category", showgrid: false } } };
  },

  matrices(view) {
    const { chart, frame, value, rows, width } = view;
    const x = frame.column(chart.x), other = frame.column(chart.other);
    const groups = [...grouped(rows, frame.column(chart.series))];
    const columns = Math.min(groups.length, width > 860 ? 4 : width > 560 ? 3 : 2), lines = Math.ceil(groups.length / columns);
    const side = (width - 90) / columns, height = lines * (side + 26) + 64, gap = 8, top = 36;
    const layout = { showlegend: false, annotations: [], margin: { l: 8, r: 82, t: 32, b: 8 }, coloraxis: { colorscale: "Cividis", cmin: 0, cmax: 100, colorbar: { title: { text: view.measure.title, side: "right" }, thickness: 12, lenmode: "pixels", len: Math.min(height, 300), y: 1, yanchor: "top" } } };
    const data = groups.map(([name, members], k) => {
      const names = unique([...members.map(x), ...members.map(other)]), place = new Map(names.map((n, p) => [n, p]));
      const z = names.map((_, p) => names.map((__, q) => (p === q ? 0 : null)));
      for (const i of members) z[place.get(x(i))][place.get(other(i))] = z[place.get(other(i))][place.get(x(i))] = value(i);
      const column = k % columns, line = Math.floor(k / columns), suffix = k ? String(k + 1) : "";
      const left = column / columns, right = (column + 1) / columns - gap / (side * columns);
      const upper = 1 - line / lines - top / height, lower = 1 - (line + 1) / lines + gap / height;
      layout[`xaxis${suffix}`] = { domain: [left, right], visible: false, anchor: `y${suffix}` };
      layout[`yaxis${suffix}`] = { domain: [lower, upper], visible: false, anchor: `x${suffix}`, autorange: "reversed", scaleanchor: `x${suffix}`, constrain: "domain" };
      layout.annotations.push({ text: escaped(name).replaceAll("\n", "<br>"), x: (left + right) / 2, y: upper, xref: "paper", yref: "paper", xanchor: "center", yanchor: "bottom", showarrow: false, font: { size: view.isNarrow ? 9 : 11 } });
      const labels = names.map(escaped);
      return { type: "heatmap", z, x: labels, y: labels, xaxis: `x${suffix}`, yaxis: `y${suffix}`, coloraxis: "coloraxis", hovertemplate: "%{y} · %{x}<br>percentile <b>%{z:.1f}</b><extra></extra>" };
    });
    return { data, height, layout };
  },
};

function reference(view, rows) {
  const { measure, frame } = view;
  if (!measure.reference || !frame.has(measure.reference)) return [];
  const values = rows.map(frame.column(measure.reference)).filter((v) => !Number.isNaN(v));
  if (!values.length) return [];
  const y = median(values);
  return [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: view.ink, width: 1.5, dash: "dot" }, label: { text: `√ceiling ${shown(y)}`, textposition: "end", yanchor: "top", font: { color: view.ink } } }];
}

function identity(view, x, y) {
  const all = [...x, ...y].filter((v) => !Number.isNaN(v));
  if (!all.length) return [];
  const low = all.reduce((a, b) => Math.min(a, b)), high = all.reduce((a, b) => Math.max(a, b));
  return [{ type: "line", x0: low, y0: low, x1: high, y1: high, line: { color: view.ink, width: 1, dash: "dot" } }];
}
