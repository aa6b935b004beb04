/* The table of sentences: sorted by a click, and of some what the model looked at, what else it might have said, and where the beam lost the reference. */
"use strict";
const ROWS_AT_ONCE = 50;

function gap(sentence) {
  const scores = sentence.runs.map((run) => run.chrf);
  return Math.max(...scores) - Math.min(...scores);
}

function meanOf(sentence, name) {
  return sentence.runs.reduce((sum, run) => sum + run[name], 0) / sentence.runs.length;
}

/* What can be sorted by: name, head of the column, value, whether the greatest come first, whether narrow screens leave it out. */
function ordersOf(test) {
  const orders = [
    { name: "number", head: "#", title: "Place in the split", value: (one) => one.number, digits: 0 },
    { name: "worst", head: "chrF", title: "Sentence chrF, in percent", value: (one) => meanOf(one, "chrf"), digits: 1 },
    { name: "unsure", head: "sure", title: "Confidence: the mean probability of a token", value: (one) => Math.min(...one.runs.map((run) => run.confidence)), digits: 3 },
    { name: "longest", head: "tokens", title: "Tokens of the source", value: (one) => one.length, digits: 0, down: true, extra: true },
  ];
  if (test.runs.length > 1) orders.push({ name: "different", head: "differ", title: "Between the best and the worst run, chrF", value: gap, digits: 1, down: true, extra: true });
  return orders;
}

function drawSentences() {
  if (!REPORT.tests.some((test) => test.sentences.length)) return;
  const place = make("div");
  const chooser = REPORT.tests.length > 1 && make("label", {}, "Test set of ", make("select", { onchange: (event) => show(event.target.value) },
    REPORT.tests.map((test, i) => make("option", { value: i }, test.runs.map(runName).join(", ")))));
  const show = (i) => place.replaceChildren(...sentenceTable(REPORT.tests[i]));
  section("sentences", "Sentences", chooser && make("div", { class: "tools" }, chooser), place);
  show(0);
}

function sentenceTable(test) {
  const orders = ordersOf(test), state = { order: orders[1], down: false, text: "", wrong: false, inside: false, most: ROWS_AT_ONCE };
  const body = make("tbody"), count = make("span", { class: "muted", "aria-live": "polite" }), more = make("p", { class: "more" });
  const heads = orders.map((order) => make("th", { scope: "col", class: `n ${order.extra ? "extra" : ""}`, title: order.title },
    make("button", { onclick: () => sort(order) }, order.head)));
  const inside = Object.keys(test.details).length;
  const refresh = () => {
    const chosen = test.sentences.filter((one) => matches(test, one, state));
    const sign = state.down ? -1 : 1;
    chosen.sort((a, b) => sign * (state.order.value(a) - state.order.value(b)) || a.number - b.number);
    body.replaceChildren(...chosen.slice(0, state.most).flatMap((one) => sentenceRow(test, one, orders)));
    heads.forEach((head, i) => (orders[i] === state.order ? head.setAttribute("aria-sort", state.down ? "descending" : "ascending") : head.removeAttribute("aria-sort")));
    const all = test.sentences.length < test.total ? ` (the file holds ${whole(test.sentences.length)} of ${whole(test.total)})` : "";
    count.textContent = `${whole(Math.min(state.most, chosen.length))} of ${whole(chosen.length)} sentences${all}`;
    more.replaceChildren(...(chosen.length > state.most ? [make("button", { onclick: () => { state.most += ROWS_AT_ONCE; refresh(); } }, `Show ${ROWS_AT_ONCE} more`)] : []));
  };
  const sort = (order) => {
    state.down = state.order === order ? !state.down : Boolean(order.down);
    state.order = order;
    state.most = ROWS_AT_ONCE;
    refresh();
  };
  const box = (name, text) => make("label", {}, make("input", { type: "checkbox", onchange: (event) => { state[name] = event.target.checked; refresh(); } }), text);
  const quick = { worst: "Worst", unsure: "Least sure", longest: "Longest", different: "Most different" };
  const buttons = orders.filter((order) => order.name in quick).map((order) =>
    make("button", { "data-order": order.name, onclick: () => { state.order = null; sort(order); } }, quick[order.name]));
  const search = make("input", { type: "search", placeholder: "contains …", "aria-label": "Only sentences that contain", oninput: (event) => { state.text = event.target.value.toLowerCase(); refresh(); } });
  refresh();
  return [
    make("div", { class: "tools" }, buttons, search, box("wrong", "only wrong"), inside > 0 && box("inside", `with attention (${inside})`), count),
    make("p", { class: "muted small" }, inside > 0
      ? "Point at a token, or Tab to a line and use the arrow keys: what it looked at is shaded in the source, with what else was likely. Dotted: below 0.9; colored line: below 0.5."
      : "These sentences come without attention."),
    make("table", { class: "sentences" }, make("thead", {}, make("tr", {}, heads, make("th", { scope: "col" }, "source, reference, translation"))), body), more,
  ];
}

function matches(test, one, state) {
  if (state.wrong && one.runs.every((run) => run.right)) return false;
  if (state.inside && !test.details[one.number - 1]) return false;
  return !state.text || [one.source, ...one.references, ...one.runs.map((run) => run.text)].some((text) => text.toLowerCase().includes(state.text));
}

function sentenceRow(test, one, orders) {
  const cells = orders.map((order) => make("td", { class: `n ${order.extra ? "extra" : ""}` }, order.name === "number" ? String(one.number) : fixed(order.value(one), order.digits)));
  const details = test.details[one.number - 1], lines = make("dl", { class: "lines" });
  const told = make("div", { class: "told", "aria-live": "polite" });
  const first = details && details.find((detail) => detail.source);
  const source = first ? tokenLine(first.source, "source") : null;
  const tags = [one.family, one.features].filter(Boolean).map((text) => make("span", { class: "tag" }, text));
  lines.append(make("dt", {}, "source"), make("dd", {}, source ? source.line : one.source, " ", tags));
  const traced = details && details.find((detail) => detail.reference);
  const reference = traced ? referenceLine(traced, source, told) : one.references.join(" | ");
  lines.append(make("dt", {}, one.references.length > 1 ? "references" : "reference"), make("dd", {}, reference, traced && one.references.length > 1 ? ` | ${one.references.slice(1).join(" | ")}` : ""));
  one.runs.forEach((run, place) => {
    const detail = details && details[place] && details[place].target ? details[place] : null;
    const text = detail ? targetLine(detail, source, told) : run.text || make("span", { class: "muted" }, "(empty)");
    const marks = [run.right ? "✓ right" : "✗ differs", run.cut && "cut at the length limit", test.runs.length > 1 && `chrF ${fixed(run.chrf, 1)}, sure ${fixed(run.confidence, 3)}`].filter(Boolean);
    lines.append(make("dt", {}, test.runs.length > 1 ? runName(test.runs[place]) : "translation"), make("dd", {}, text, " ", marks.map((mark) => make("span", { class: "tag" }, mark))));
  });
  if (details) lines.append(told);
  return make("tr", { "data-number": one.number }, cells, make("td", {}, lines));
}

function pieceText(piece, first) {
  if (piece === "</s>") return "end";
  const text = piece.replaceAll("▁", " ");
  return first ? text.trimStart() : text;
}

/* A piece by itself. */
function quoted(piece) {
  return `“${pieceText(piece, true) || "␣"}”`;
}

/* A line of tokens, each an element; with the keyboard one stop, inside of which arrows go on. */
function tokenLine(pieces, name, on) {
  const tokens = pieces.map((piece, i) => make("span", { class: piece === "</s>" ? "tok end" : "tok" }, piece === "</s>" ? " ⏎" : pieceText(piece, i === 0)));
  const line = make("span", { class: "tokens", ...(on ? { tabindex: "0", role: "group", "aria-label": `${name}, ${pieces.length} tokens; arrow keys go through them` } : {}) }, tokens);
  if (!on) return { line, tokens };
  let now = -1;
  const go = (to) => {
    tokens.forEach((token) => token.classList.remove("now"));
    now = to;
    if (now >= 0) tokens[now].classList.add("now");
    on(now);
  };
  line.addEventListener("mouseover", (event) => tokens.includes(event.target) && go(tokens.indexOf(event.target)));
  line.addEventListener("click", (event) => tokens.includes(event.target) && go(tokens.indexOf(event.target)));
  line.addEventListener("mouseleave", () => go(-1));
  line.addEventListener("blur", () => go(-1));
  line.addEventListener("keydown", (event) => {
    const to = { ArrowRight: Math.min(tokens.length - 1, now + 1), ArrowLeft: Math.max(0, now - 1), Home: 0, End: tokens.length - 1, Escape: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    go(to);
  });
  return { line, tokens };
}

function shade(source, weights) {
  source.tokens.forEach((token, i) => { token.style.backgroundColor = weights && weights[i] ? `rgba(${css("--mark")}, ${(0.85 * weights[i]).toFixed(3)})` : ""; });
}

function unpack(text, columns) {
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  return Array.from({ length: bytes.length / columns }, (_, row) => Array.from(bytes.subarray(row * columns, (row + 1) * columns), (byte) => byte / 255));
}

function targetLine(detail, source, told) {
  const weights = detail.attention && unpack(detail.attention, detail.source.length);
  const made = tokenLine(detail.target, "translation", (now) => {
    shade(source, now >= 0 && weights ? weights[now] : null);
    told.replaceChildren(...(now < 0 ? [] : tellToken(detail, now, weights)));
  });
  detail.probability.forEach((probability, i) => { if (probability < 0.9) made.tokens[i].classList.add(probability < 0.5 ? "doubt" : "unsure"); });
  return made.line;
}

function tellToken(detail, now, weights) {
  const said = [make("b", {}, quoted(detail.target[now])), ` p ${fixed(detail.probability[now], 3)}`];
  if (weights) {
    const top = weights[now].map((weight, i) => [weight, i]).sort((a, b) => b[0] - a[0]).slice(0, 3).filter(([weight]) => weight >= 0.05);
    said.push(" · looks at ", top.map(([weight, i]) => `${quoted(detail.source[i])} ${fixed(weight)}`).join(", "));
  }
  if (detail.copied && detail.copied[now] >= 0.05) said.push(` · copied ${fixed(detail.copied[now])}`);
  if (detail.alternatives) said.push(" · instead: ", tellAlternatives(detail.alternatives[now], detail.target[now]));
  return said;
}

function tellAlternatives(alternatives, piece) {
  return alternatives.filter(([other]) => other !== piece).slice(0, 5).map(([other, probability]) => `${quoted(other)} ${fixed(probability, 3)}`).join(", ") || "nothing";
}

/* The reference as the model reads it: how likely each token was, and where the beam had none of its hypotheses begin so any more. */
function referenceLine(detail, source, told) {
  const { pieces, probability, alternatives, fell, live } = detail.reference;
  const made = tokenLine(pieces, "reference", (now) => {
    shade(source, null);
    if (now < 0) return told.replaceChildren();
    const lost = fell === null ? "" : now >= fell ? " · out of the beam" : " · in the beam";
    const beside = now === fell && live.length ? ` · the beam had: ${live.map((text) => `“${text}”`).join(", ")}` : "";
    told.replaceChildren(make("b", {}, quoted(pieces[now])), ` p ${fixed(probability[now], 3)}${lost} · likeliest: ${tellAlternatives(alternatives[now], null)}${beside}`);
  });
  probability.forEach((one, i) => { if (one < 0.9) made.tokens[i].classList.add(one < 0.5 ? "doubt" : "unsure"); });
  if (fell !== null) {
    made.tokens.slice(fell).forEach((token) => token.classList.add("lost"));
    made.line.insertBefore(make("span", { class: "fell", title: "From here on no hypothesis of the beam begins as the reference" }, "✂ out of the beam"), made.tokens[fell]);
  }
  return made.line;
}
