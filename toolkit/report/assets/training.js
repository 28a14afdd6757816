// Charts of trainings: learning curves, and the trials of searches.

const EDGES = { lower: 0.03, upper: 0.97 };
// Fractional parts of its multiples are spread evenly, however many they are.
const GOLDEN = 0.618, SPREAD = 0.5;

/** Whether values are positive, and differ by a factor of ten or more. */
function spansDecades(values) {
  const known = values.filter((v) => !Number.isNaN(v)), low = Math.min(...known);
  return low > 0 && Math.max(...known) >= 10 * low;
}

/** A trace for each kind of mark; those without a place on the axis are at its edge. */
function markTraces(view, x, colour, rest) {
  const { chart, frame, measure, value, rows, theme } = view;
  const mark = frame.column(chart.mark), place = new Map(rows.map((i, k) => [i, x[k]]));
  const edge = measure.lower_is_better ? EDGES.upper : EDGES.lower;
  return [...grouped(rows.filter((i) => mark(i) !== null), mark)].map(([kind, members]) => {
    const [symbol, atEdge] = DATA.marks[kind];
    const colours = members.map((i) => (kind === "diverged" ? FLAG_COLOUR[theme] : colour(i)));
    return {
      type: "scatter", mode: "markers", name: kind, legendgroup: kind, legendrank: 2000, x: members.map((i) => place.get(i)), y: members.map((i) => (atEdge ? edge : value(i))),
      yaxis: atEdge ? "y2" : "y", cliponaxis: false, marker: { symbol, color: colours, size: kind === "winner" ? 16 : colours.map((one) => (one === rest ? 4 : 9)), line: { color: colours, width: 1.5 } }, ...hover(view, members),
    };
  });
}

const EDGE_AXIS = { overlaying: "y", range: [0, 1], visible: false, fixedrange: true };

Object.assign(DRAW, {
  curves(view) {
    const { chart, frame, measure, value, rows, theme } = view;
    const x = frame.column(chart.x), series = frame.column(chart.series), colourName = frame.column(chart.colour), faint = frame.column(chart.faint), mark = frame.column(chart.mark);
    const first = chart.measures[0], decisive = frame.column(first.column);
    const order = ranked(rows, colourName, first.lower_is_better ? (i) => -decisive(i) : decisive);
    const colours = colourOf(order, theme), { rest } = DATA.palettes[theme];
    const lines = [...grouped(rows, series)], showsFaint = lines.length <= DATA.palettes[theme].colours.length, listed = new Set();
    const isRest = ([, members]) => colours.get(colourName(members[0])) === rest;
    const drawn = lines.sort((a, b) => isRest(b) - isRest(a)).flatMap(([, members]) => [...grouped(members.filter((i) => !DATA.marks[mark(i)]?.[1]), faint)].map(([isFaint, part]) => ({ isFaint, part })));
    const data = drawn.filter(({ isFaint }) => showsFaint || !isFaint).map(({ isFaint, part }) => {
      const name = colourName(part[0]), colour = colours.get(name), label = colour === rest ? "others" : name;
      const showlegend = !isFaint && !listed.has(label);
      if (showlegend) listed.add(label);
      return {
        type: "scatter", mode: "lines", name: escaped(label), legendgroup: label, showlegend, opacity: colour === rest ? 0.6 : 1, legendrank: label === "others" ? 1500 : 1000 + order.indexOf(name), x: part.map(x), y: part.map(value),
        line: { color: colour, width: isFaint || colour === rest ? 1 : 2, dash: isFaint ? "dot" : "solid" }, ...hover(view, part),
      };
    });
    data.push(...markTraces(view, rows.map(x), (i) => colours.get(colourName(i)), rest));
    const values = rows.map(value).filter((v) => !Number.isNaN(v)), low = Math.min(...values), high = Math.max(...values);
    const isCut = measure.floor !== null && low < measure.floor;
    const yaxis = { title: measure.title, type: measure.lower_is_better && spansDecades(values) ? "log" : "linear", range: isCut ? [measure.floor, high + 0.05 * (high - measure.floor)] : undefined };
    const lastEpoch = Math.max(...rows.map(x));
    return { data, height: 420 + (view.isNarrow ? 20 : 9) * Math.min(order.length, 9), layout: { xaxis: { title: chart.x_title, dtick: lastEpoch < 12 ? 1 : undefined }, yaxis, yaxis2: EDGE_AXIS, showlegend: true } };
  },

  trials(view) {
    const { chart, frame, measure, value, rows, theme } = view;
    const text = frame.column(chart.x), series = frame.column(chart.series), mark = frame.column(chart.mark);
    const numbers = rows.map((i) => (text(i) === "" ? NaN : Number(text(i)))), isNamed = numbers.some(Number.isNaN), names = unique(rows.map(text)).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const x = isNamed ? rows.map((i, k) => names.indexOf(text(i)) + (((k * GOLDEN) % 1) - 0.5) * SPREAD) : numbers;
    const place = new Map(rows.map((i, k) => [i, x[k]]));
    const groups = grouped(rows, series), colours = colourOf(unique(range(frame.n).map(series)), theme);
    const data = [...groups].map(([name, members]) => {
      const plain = members.filter((i) => mark(i) === null);
      return { type: "scatter", mode: "markers", name: escaped(name), x: plain.map((i) => place.get(i)), y: plain.map(value), marker: { color: colours.get(name), size: 8, opacity: 0.7 }, ...hover(view, plain) };
    });
    data.push(...markTraces(view, x, (i) => colours.get(series(i)), null));
    const field = frame.column(chart.text)(rows[0]);
    const axis = isNamed
      ? { tickmode: "array", tickvals: names.map((_, k) => k), ticktext: names.map((name) => shortened(name, view)), range: [-0.6, names.length - 0.4], showgrid: false, zeroline: false }
      : { type: spansDecades(numbers) ? "log" : "linear", exponentformat: "power" };
    return { data, height: 440, note: `${rows.length} scores of ${unique(rows.map(frame.column("trial"))).length} trials`, layout: { xaxis: { title: escaped(field), ...axis }, yaxis: { title: measure.title }, yaxis2: EDGE_AXIS, showlegend: data.length > 1 } };
  },
});
