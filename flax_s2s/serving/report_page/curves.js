/* The pictures: curves over steps, of which those of seeds are a band around their mean, and how sure against how right. */
"use strict";
const PLOTS = [];

/* The series of one number: `{label, x, y, color, dash, width, points, hidden, band}`. */
function seriesOf(name, splits) {
  const found = [], families = REPORT.families, single = families.length === 1;
  families.forEach((family, number) => {
    splits.forEach((split, place) => {
      const ink = single ? place : number, dash = DASHES[splits.length > 1 ? place : single ? 0 : number % DASHES.length];
      const points = split === "valid", kind = splits.length > 1 || single ? split : "";
      const band = (family.bands[split] || {})[name];
      const of = (run) => REPORT.runs[run][split];
      if (band && band.steps.length) {
        const label = [single ? "" : `${runName(family.runs[0])} …`, kind].filter(Boolean).join(" ");
        found.push({ label: `${label} most`, x: band.steps, y: band.high, ink, edge: true });
        found.push({ label: `${label} least`, x: band.steps, y: band.low, ink, edge: true, bandTo: found.length - 1 });
        found.push({ label: `${label} mean`.trim(), x: band.steps, y: band.mean, ink, dash, width: 2, points });
      }
      for (const run of family.runs) {
        const columns = of(run);
        if (!columns[name] || !columns[name].some((value) => value !== null)) continue;
        const label = single && family.runs.length === 1 ? split : [runName(run), kind].filter(Boolean).join(" ");
        found.push({ label, x: columns.step, y: columns[name], ink, dash, width: band ? 0.7 : 1.8, points: points && !band });
      }
    });
  });
  return found;
}

function describeEnds(series, lower) {
  const said = series.filter((one) => !one.edge).slice(0, 3).map((one) => {
    const known = one.y.map((value, i) => [value, one.x[i]]).filter(([value]) => value !== null);
    if (!known.length) return "";
    const best = known.reduce((a, b) => ((lower ? b[0] < a[0] : b[0] > a[0]) ? b : a));
    const last = known[known.length - 1];
    const extreme = lower === undefined || best[1] === last[1] ? "" : `, best ${short(best[0])} at step ${whole(best[1])}`;
    return `${one.label} ${short(last[0])} at step ${whole(last[1])}${extreme}`;
  });
  return said.filter(Boolean).join("; ");
}

function axis(more) {
  return { stroke: () => css("--muted"), grid: { stroke: () => css("--grid"), width: 1 }, ticks: { stroke: () => css("--line"), width: 1 }, font: "12px system-ui, sans-serif", ...more };
}

/* Logarithmic where the numbers span much, and all are positive. */
function isWide(series) {
  const values = series.flatMap((one) => one.y.filter((value) => value !== null));
  const least = Math.min(...values);
  return least > 0 && Math.max(...values) / least > 30;
}

function plot(title, unit, series, { lower, sync = "steps", height = 230, ranges = {}, said, xName = "step", log = isWide(series) } = {}) {
  const text = said || describeEnds(series, lower), live = make("small", { "aria-live": "polite" }, text);
  const holder = make("div", { class: "plot", tabindex: "0", role: "img", "aria-label": `${title}. ${text}. Left and right arrow keys read the values.` });
  const figure = make("figure", {}, make("figcaption", {}, title, make("span", { class: "muted" }, unit ? ` · ${unit}` : ""), live), holder,
    unfold("Numbers", () => numbersOf(series, xName), { class: "small" }));
  const drawn = {
    width: 300, height, legend: { live: true, markers: { dash: (chart, i) => ((chart.series[i].dash || []).length ? "dashed" : "solid") } }, cursor: { sync: { key: sync }, drag: { x: true, y: false, setScale: true }, points: { size: 7 } },
    scales: { x: { time: false, ...(ranges.x ? { range: ranges.x } : {}) }, y: { distr: log ? 3 : 1, ...(ranges.y ? { range: ranges.y } : {}) } },
    axes: [axis({ values: (_, marks) => marks.map((mark) => (mark === null ? "" : short(mark))) }), axis({ size: 58, values: (_, marks) => marks.map((mark) => (mark === null ? "" : short(mark))) })],
    series: [{ label: xName, value: (_, value) => (value === null ? "–" : short(value)) }, ...series.map((one) => ({
      label: one.label, show: true, width: one.edge ? 0 : one.width || 1.6, dash: one.dash || [], stroke: () => (one.edge ? "transparent" : color(one.ink)),
      points: { show: Boolean(one.points), size: 6, fill: () => css("--card") }, value: (_, value) => short(value),
    }))],
    bands: series.flatMap((one, i) => (one.bandTo === undefined ? [] : [{ series: [one.bandTo + 1, i + 1], fill: () => faint(one.ink, 0.2) }])),
  };
  const begin = () => {
    const chart = new uPlot(drawn, uPlot.join(series.map((one) => [one.x, one.y])), holder);
    PLOTS.push(chart);
    new ResizeObserver(() => holder.clientWidth && chart.setSize({ width: holder.clientWidth, height })).observe(holder);
    holder.addEventListener("keydown", (event) => step(chart, event, series, live, text, xName));
  };
  return { figure, begin };
}

function step(chart, event, series, live, text, xName) {
  const last = chart.data[0].length - 1, now = chart.cursor.idx;
  const moves = { ArrowLeft: now === null || now === undefined ? last : Math.max(0, now - 1), ArrowRight: now === null || now === undefined ? 0 : Math.min(last, now + 1), Home: 0, End: last };
  if (event.key === "Escape") live.textContent = text;
  if (!(event.key in moves)) return;
  event.preventDefault();
  const at = moves[event.key];
  chart.setCursor({ left: chart.valToPos(chart.data[0][at], "x"), top: 0 });
  const values = series.map((one, i) => [one.edge, one.label, chart.data[i + 1][at]]).filter(([edge, , value]) => !edge && value !== null && value !== undefined);
  live.textContent = `${xName} ${short(chart.data[0][at])}: ${values.map(([, label, value]) => `${label} ${short(value)}`).join(", ")}`;
}

function numbersOf(series, xName) {
  const shown = series.filter((one) => !one.edge), data = uPlot.join(shown.map((one) => [one.x, one.y]));
  const every = Math.max(1, Math.ceil(data[0].length / 100));
  const rows = data[0].map((x, i) => i).filter((i) => i % every === 0 || i === data[0].length - 1);
  return table([xName, ...shown.map((one) => one.label)], rows.map((i) => data.map((column) => short(column[i]))), data.map((_, i) => i));
}

const LOWER = ["loss", "perplexity", "wer", "cer", "per", "ser", "ter"];

function drawCurves() {
  const has = (split, name) => REPORT.runs.some((run) => run[split][name]);
  const both = (name) => ["train", "valid"].filter((split) => has(split, name));
  const wanted = [["loss", "Loss", "nats per token", both("loss")], ["perplexity", "Perplexity", "", both("perplexity")]];
  const names = new Set(REPORT.runs.flatMap((run) => Object.keys(run.valid)));
  for (const name of names) {
    if (!["step", "loss", "perplexity", "cut_sources", "cut_translations"].includes(name)) wanted.push([name, name, "percent, validation, greedy", ["valid"]]);
  }
  wanted.push(["learning_rate", "Learning rate", "", ["train"]], ["gradient_norm", "Gradient norm", "before clipping", ["train"]], ["tokens_per_sec", "Speed", "tokens/s, both sides", ["train"]]);
  const plots = wanted.filter(([name, , , splits]) => splits.some((split) => has(split, name))).map(([name, title, unit, splits]) =>
    plot(title, unit, seriesOf(name, splits), { lower: LOWER.includes(name) ? true : splits[0] === "valid" ? false : undefined, log: name === "learning_rate" || name === "tokens_per_sec" ? false : undefined }));
  if (!plots.length) return;
  section("curves", "Curves", make("p", { class: "muted small" }, curvesHint()), make("div", { class: "charts" }, plots.map((one) => one.figure)));
  plots.forEach((one) => one.begin());
}

function curvesHint() {
  const banded = REPORT.families.filter((family) => family.runs.length > 1);
  const band = banded.length ? `Runs that differ in their seed alone are drawn as their mean, with a band from the least to the greatest; thin lines are the single runs. ` : "";
  return `${band}Drag over a stretch to look closer, double-click to go back; a click on a name hides its curve. With the keyboard: Tab to a picture, then the arrow keys.`;
}

function drawReliability(test) {
  const series = [{ label: "as sure as right", x: [0, 1], y: [0, 1], ink: 5, dash: [3, 4], width: 1 }];
  test.results.forEach((result, place) => {
    if (!result.calibration) return;
    for (const [which, dash] of [["before", []], ["after", [7, 4]]]) {
      const curve = result.calibration[which], bins = curve.bins.filter((one) => one.tokens);
      const name = test.runs.length > 1 ? `${runName(test.runs[place])} ` : "";
      series.push({ label: `${name}T = ${fixed(curve.temperature, 3)}`, x: bins.map((one) => one.confidence), y: bins.map((one) => one.accuracy), ink: place * 2 + (which === "after"), dash, width: 1.8, points: true });
    }
  });
  return plot("How sure, and how right", "tokens of the reference: probability of the likeliest token, accuracy", series,
    { sync: "none", height: 320, log: false, ranges: { x: [0, 1], y: [0, 1] }, xName: "probability", said: "below the dotted line: surer than right" });
}

function redraw() {
  PLOTS.forEach((chart) => chart.redraw(false, true));
}
for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", redraw);
addEventListener("beforeprint", redraw);
addEventListener("afterprint", redraw);
