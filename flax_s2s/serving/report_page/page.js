/* The page, section by section, out of the document that it holds. */
"use strict";

function scoreText(score) {
  return `${fixed(score.score)}${score.signature.includes("|bs:") ? ` ± ${fixed(score.ci)}` : ""}`;
}

/* Of each run the result of its evaluation, if it has one. */
function resultOf(number) {
  const test = REPORT.tests.find((one) => one.runs.includes(number));
  return test ? { test, result: test.results[test.runs.indexOf(number)] } : null;
}

function tile(value, text) {
  return make("div", { class: "tile" }, make("b", {}, value), make("span", {}, text));
}

function drawTop() {
  const runs = REPORT.runs, one = runs[0], top = document.getElementById("top");
  const title = runs.length === 1 ? one.name : `${runs.length} runs: ${runs.map((run) => run.name).join(", ")}`;
  document.title = `${title} · flax_s2s report`;
  top.append(make("h1", {}, title));
  if (runs.length === 1) {
    top.append(make("p", { class: "muted" }, `${stateOf(one)} · seed ${one.seed}`), make("div", { class: "tiles" }, tilesOf(0)));
  } else {
    top.append(runTable());
  }
  const notes = runs.flatMap((run) => run.notes.map((note) => (runs.length > 1 ? `${run.name}: ${note}` : note)));
  if (notes.length) top.append(make("div", { class: "notes", role: "note" }, make("ul", {}, notes.map((note) => make("li", {}, note)))));
}

function stateOf(run) {
  if (run.step >= run.steps) return `trained ${whole(run.step)} steps`;
  const left = run.left_secs ? `, about ${duration(run.left_secs)} left as it was last said` : "";
  return run.step ? `at step ${whole(run.step)} of ${whole(run.steps)}${left}` : "no step is logged yet";
}

function tilesOf(number) {
  const run = REPORT.runs[number], found = resultOf(number), speeds = (run.train.tokens_per_sec || []).filter((one) => one !== null).sort((a, b) => a - b);
  const scores = found ? Object.entries(found.result.metrics).map(([name, score]) => tile([fixed(score.score), score.signature.includes("|bs:") ? make("small", {}, ` ± ${fixed(score.ci)}`) : ""], `${name}, ${found.test.split}, beam ${found.result.beam_size}`)) : [];
  const facts = [["parameters", run.facts.parameters], ["training pairs", (run.facts.train || "").split(" ")[0]]].filter(([, value]) => value);
  const losses = (run.valid.loss || []).filter((one) => one !== null);
  return [...scores, losses.length > 0 && tile(short(Math.min(...losses)), "best validation loss, nats per token"), ...facts.map(([name, value]) => tile(value, name)),
    speeds.length > 0 && tile(whole(speeds[Math.floor(speeds.length / 2)]), "tokens/s, median")];
}

function runTable() {
  const metrics = [...new Set(REPORT.tests.flatMap((test) => test.results.flatMap((result) => Object.keys(result.metrics))))];
  const rows = REPORT.runs.map((run, number) => {
    const found = resultOf(number);
    const scores = metrics.map((name) => (found && found.result.metrics[name] ? scoreText(found.result.metrics[name]) : "–"));
    const losses = (run.valid.loss || []).filter((one) => one !== null);
    return [run.name, String(run.seed), `${whole(run.step)} of ${whole(run.steps)}`, losses.length ? short(Math.min(...losses)) : "–", ...scores];
  });
  for (const family of REPORT.families.filter((one) => one.runs.length > 1)) {
    const found = family.runs.map(resultOf).filter(Boolean);
    if (found.length < 2) continue;
    rows.push([`mean of ${found.length} seeds`, "", "", "", ...metrics.map((name) => meanAndDeviation(found.map((one) => (one.result.metrics[name] || {}).score)))]);
  }
  return table(["run", "seed", "step", "best validation loss", ...metrics], rows, [1, 2, 3, ...metrics.map((_, i) => i + 4)]);
}

function meanAndDeviation(values) {
  if (values.some((value) => typeof value !== "number")) return "–";
  const mean = values.reduce((a, b) => a + b) / values.length;
  const deviation = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1));
  return `${fixed(mean)} ± ${fixed(deviation)} (sd)`;
}

/* Rows of which each run has a text; one column where they all have the same. */
function beside(rows, head = "") {
  const equal = rows.every(([, values]) => values.every((value) => value === values[0]));
  const heads = equal ? [head, ""] : [head, ...REPORT.runs.map((run) => run.name)];
  return table(heads, rows.map(([name, values]) => [name, ...(equal ? [values[0]] : values)]));
}

function drawData() {
  const names = [...new Set(REPORT.runs.flatMap((run) => Object.keys(run.facts)))];
  const rows = names.map((name) => [name, REPORT.runs.map((run) => run.facts[name] || "–")]);
  if (REPORT.runs.some((run) => run.origin)) rows.unshift(["origin", REPORT.runs.map((run) => run.origin || "–")]);
  const overlaps = [...new Set(REPORT.runs.flatMap((run) => run.overlap))];
  const lacks = REPORT.runs.filter((run) => !Object.keys(run.facts).length).map((run) => run.name);
  section("data", "What was trained on what", rows.length > 0 && beside(rows),
    lacks.length > 0 && make("p", { class: "muted" }, `${lacks.join(", ")}: sizes, vocabulary and shapes were not kept when training began (summary.json).`),
    overlaps.length > 0 && [make("h3", {}, "What of the held-out splits is in training, too"), make("ul", {}, overlaps.map((line) => make("li", {}, line)))]);
}

function drawScores() {
  const blocks = REPORT.tests.map((test) => {
    const names = Object.keys(test.results[0].metrics), several = test.runs.length > 1;
    const rows = names.map((name) => [name, ...test.results.map((result) => scoreText(result.metrics[name])), make("span", { class: "sign" }, test.results[0].metrics[name].signature)]);
    const first = test.results[0], about = `${whole(first.pairs)} pairs, ${whole(first.sources)} sources, beam ${first.beam_size}, checkpoint ${test.results.map((result) => result.checkpoint).join(", ")}`;
    const heads = several ? test.runs.map(runName) : ["score"];
    return [make("h3", {}, `${test.split}${REPORT.tests.length > 1 ? ` of ${test.runs.map(runName).join(", ")}` : ""}`), make("p", { class: "muted small" }, `${about}. ± is half of the 95% confidence interval by bootstrap.`),
      table(["metric", ...heads, "signature"], rows, heads.map((_, i) => i + 1)), drawParts(test)];
  });
  section("scores", "Scores", blocks);
}

function drawParts(test) {
  const first = test.results[0], found = [];
  if (Object.keys(first.families).length) {
    found.push(partsOf("By family", "exact match", Object.keys(first.families), test, (result, part) => ({ score: result.families[part], ci: 0, signature: "" })));
  }
  for (const by of Object.keys(first.by || {})) {
    const parts = Object.keys(first.by[by]);
    for (const name of Object.keys(first.metrics)) {
      found.push(partsOf(`By ${by}`, name, parts.slice(0, 20), test, (result, part) => ((result.by[by] || {})[part] || { metrics: {} }).metrics[name], (part) => first.by[by][part].sources,
        parts.length > 20 ? `and ${whole(parts.length - 20)} rarer ones` : ""));
    }
  }
  return make("div", { class: "charts" }, found);
}

/* Bars with whiskers: one for each part and run. */
function partsOf(title, metric, parts, test, scoreOf, sourcesOf = null, more = "") {
  const scores = parts.flatMap((part) => test.results.map((result) => scoreOf(result, part))).filter(Boolean);
  const most = Math.max(100, ...scores.map((one) => one.score + one.ci));
  const rows = parts.map((part) => {
    const own = test.results.map((result) => scoreOf(result, part));
    return [part || "(none)", ...(sourcesOf ? [whole(sourcesOf(part))] : []), own.map((one) => make("div", {}, one ? scoreText(one) : "–")), own.map((one, run) => bar(one, most, run))];
  });
  const heads = [title.slice(3), ...(sourcesOf ? ["sources"] : []), metric, ""];
  const figure = make("figure", { class: "parts" }, make("figcaption", {}, title, make("span", { class: "muted" }, ` · ${metric}, percent`)), table(heads, rows, sourcesOf ? [1, 2] : [1], {}, sourcesOf ? 1 : -1),
    test.runs.length > 1 && make("p", { class: "small muted" }, "from the top: ", test.runs.map(runName).join(", ")), more && make("p", { class: "small muted" }, more));
  figure.querySelectorAll("td:last-child").forEach((cell) => cell.classList.add("wide"));
  return figure;
}

function bar(score, most, run) {
  const made = make("span", { class: `bar k${run % 4}`, "aria-hidden": "true" });
  if (!score) return made;
  const fill = make("i");
  fill.style.width = `${(100 * Math.max(0, score.score)) / most}%`;
  made.append(fill);
  if (score.signature.includes("|bs:")) {
    const whisker = make("u"), low = Math.max(0, score.score - score.ci);
    whisker.style.left = `${(100 * low) / most}%`;
    whisker.style.width = `${(100 * (Math.min(most, score.score + score.ci) - low)) / most}%`;
    made.append(whisker);
  }
  return made;
}

function drawCalibration() {
  const tests = REPORT.tests.filter((test) => test.results.some((result) => result.calibration)), begin = [];
  const blocks = tests.map((test) => {
    const drawn = drawReliability(test), rows = [], groups = [];
    begin.push(drawn.begin);
    test.results.forEach((result, place) => {
      if (!result.calibration) return;
      const name = runName(test.runs[place]), { before, after, sentences } = result.calibration;
      for (const [which, curve] of [["as trained", before], ["fitted on valid", after]]) {
        rows.push([`${test.runs.length > 1 ? `${name}, ` : ""}${which}`, fixed(curve.temperature, 3), fixed(curve.ece, 4), fixed(curve.accuracy, 4), fixed(curve.confidence, 4), fixed(curve.nll, 4)]);
      }
      groups.push(groupsOf(name, sentences));
    });
    return [make("div", { class: "charts" }, drawn.figure, make("div", {}, table(["", "temperature", "ECE", "accuracy", "probability", "nats/token"], rows, [1, 2, 3, 4, 5]), groups))];
  });
  section("calibration", "Calibration", tests.length > 0 && make("p", { class: "muted small" }, "How often a token that is held for likely is the reference's, before and after the logits are divided by a temperature T; and how good translations of a given confidence are."), blocks);
  begin.forEach((one) => one());
}

function groupsOf(name, sentences) {
  const qualities = sentences.groups.length ? Object.keys(sentences.groups[0].quality) : [];
  return unfold(`Translations of ${name} by confidence (rank correlation with chrF ${fixed(sentences.spearman_chrf, 3)})`, () =>
    table(["confidence", "translations", ...qualities], sentences.groups.map((one) => [`${fixed(one.low, 3)} to ${fixed(one.high, 3)}`, whole(one.sentences), ...qualities.map((quality) => fixed(one.quality[quality]))]), [1, 2, 3]));
}

function drawBad() {
  const found = REPORT.runs.flatMap((run) => run.bad.map((bad) => [run, bad]));
  if (!found.length) return;
  const rows = found.map(([run, bad]) => [REPORT.runs.length > 1 ? `${run.name} ${whole(bad.step)}` : whole(bad.step), bad.why, short(bad.loss), short(bad.usual_loss), short(bad.gradient_norm),
    bad.sentences ? unfold(`${whole(bad.pairs)} pairs`, () => [
      make("p", { class: "small" }, `largest norms: ${bad.norms.map(([name, norm]) => `${name} ${short(norm)}`).join(", ")}`),
      make("ul", { class: "small" }, bad.sentences.map(([source, target]) => make("li", {}, `${source} → ${target}`))),
      make("p", { class: "small muted" }, `all of them: reports/${bad.file}`)]) : bad.file]);
  section("bad", "Bad updates", make("p", { class: "muted small" }, "Updates that were skipped, since their loss or gradient was not finite, or a spike."), table(["step", "why", "loss", "usual", "gradient norm", "sentences"], rows, [2, 3, 4]));
}

function drawConfig() {
  const rows = (chosen) => chosen.map((row) => [make("code", {}, row.name), row.values.map((value) => (value === "" ? "(empty)" : value))]);
  const differ = REPORT.config.filter((row) => row.values.some((value) => value !== row.values[0]));
  const set = REPORT.config.filter((row) => row.set && !differ.includes(row)), others = REPORT.config.filter((row) => !row.set && !differ.includes(row));
  const packages = [...new Set(REPORT.runs.flatMap((run) => Object.keys(run.versions)))];
  const saved = REPORT.runs.map((run) => run.checkpoints.map((one) => `${one.step}${one.score === null ? "" : ` (${one.metric} ${short(one.score)}${one.best ? ", best" : ""})`}`).join(", ") || "none");
  const hashes = ["state", "corpus", "vocabulary"].filter((name) => REPORT.runs.some((run) => run.hashes[name]));
  section("config", "Configuration and versions", differ.length > 0 && [make("h3", {}, "What differs"), beside(rows(differ))], set.length > 0 && [make("h3", {}, "Other than the default"), beside(rows(set))],
    unfold(`${others.length} fields with their default`, () => beside(rows(others))),
    make("h3", {}, "Checkpoints and versions"), beside([["checkpoints", saved], ...packages.map((name) => [name, REPORT.runs.map((run) => run.versions[name] || "–")]),
      ...hashes.map((name) => [`sha256 of the ${name}`, REPORT.runs.map((run) => (run.hashes[name] || "–").slice(0, 16))])]));
}

document.getElementById("content").replaceChildren();
drawTop();
drawScores();
drawCurves();
drawSentences();
drawCalibration();
drawData();
drawBad();
drawConfig();
document.getElementById("foot").append(`flax_s2s ${REPORT.version} · charts by uPlot (MIT License, text in this file) · this file fetches nothing`);
