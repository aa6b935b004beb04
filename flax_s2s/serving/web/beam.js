// The beam as a tree: a column for each step, in it the live hypotheses, the best on top; a line from each to the one that it continues.
//
// It is asked for when it is opened, and drawn as a picture that scrolls. The same as a list of steps is there for who cannot see it.

const ROW_HEIGHT = 34;
const GAP = 26; // between columns: room for the lines
const PADDING = 12;

class Beam {
  constructor(sentence, panel) {
    this.panel = panel;
    this.aborting = new AbortController();
    this.load(sentence);
  }

  stop() {
    this.aborting.abort();
  }

  async load(sentence) {
    const said = make("p", { class: "small", role: "status" }, "The beam is searched again, to be drawn…");
    this.panel.replaceChildren(said);
    try {
      const steps = await sentence.column.askBeam(sentence, this.aborting.signal, (words) => (said.textContent = words));
      this.panel.replaceChildren(...(steps?.length ? drawBeam(steps) : [make("p", { class: "small" }, "There is no beam: nothing was searched.")]));
    } catch (error) {
      if (!this.aborting.signal.aborted) said.textContent = error.message;
    }
  }
}

function drawBeam(steps) {
  const picture = drawTree(steps);
  const scroller = make("div", { class: "tree-scroll", tabindex: "0", role: "region", "aria-label": "The beam as a tree; it scrolls" }, picture);
  const hint = make("p", { class: "small" }, `${plural(steps.length, "step")}, up to ${plural(Math.max(...steps.map((step) => step.length)), "hypothesis", "hypotheses")}. `,
    "The thick line is the translation. Point at a token for its log-probability.");
  return [hint, scroller, make("details", {}, make("summary", {}, "The beam as text"), listSteps(steps))];
}

// A token as it is drawn: the mark of a word's beginning is a space, the end mark a square.
function tokenLabel(token) {
  if (token === "</s>") return "■ end";
  return token.replaceAll("▁", " ").trim() || "␣";
}

function drawTree(steps) {
  const measure = document.createElement("canvas").getContext("2d");
  measure.font = "14px system-ui, sans-serif";
  const widths = steps.map((step) => Math.max(...step.map(({ token }) => measure.measureText(tokenLabel(token)).width), 10) + 2 * PADDING);
  const lefts = [];
  let right = GAP;
  for (const width of widths) {
    lefts.push(right);
    right += width + GAP;
  }
  const rows = Math.max(...steps.map((step) => step.length));
  const height = (rows + 1) * ROW_HEIGHT;
  const middle = (index) => ROW_HEIGHT * (index + 1.5);

  const lines = [];
  const nodes = [];
  steps.forEach((step, number) => {
    nodes.push(draw("text", { class: "tree-step", x: lefts[number] + widths[number] / 2, y: ROW_HEIGHT / 2 }, `${number + 1}`));
    step.forEach((branch, index) => {
      const from = number === 0 ? [4, middle(0)] : [lefts[number - 1] + widths[number - 1], middle(branch.parent)];
      lines.push(drawLine(from, [lefts[number], middle(index)], branch.kept));
      nodes.push(drawNode(branch, index, { x: lefts[number], y: middle(index), width: widths[number] }));
    });
  });
  lines.sort((one, other) => one.classList.contains("kept") - other.classList.contains("kept")); // the thick line lies on top
  const label = `The beam: ${plural(steps.length, "step")}. The same as text is below.`;
  return draw("svg", { class: "tree", width: right, height, viewBox: `0 0 ${right} ${height}`, role: "img", "aria-label": label }, ...lines, ...nodes);
}

function drawLine([fromX, fromY], [toX, toY], kept) {
  const bend = (fromX + toX) / 2;
  return draw("path", { class: kept ? "branch kept" : "branch", d: `M${fromX} ${fromY}C${bend} ${fromY} ${bend} ${toY} ${toX} ${toY}` });
}

function drawNode(branch, index, { x, y, width }) {
  return draw("g", { class: branch.kept ? "node kept" : "node" },
    draw("title", {}, describeBranch(branch, index)),
    draw("rect", { x, y: y - 12, width, height: 24, rx: 6 }),
    draw("text", { x: x + width / 2, y: y + 5 }, tokenLabel(branch.token)));
}

function describeBranch(branch, index) {
  return `${branch.text || "(nothing)"}: hypothesis ${index + 1}, log-probability ${decimal(branch.logp)}${branch.kept ? ", part of the translation" : ""}`;
}

function listSteps(steps) {
  return make("ol", { class: "steps" }, ...steps.map((step) =>
    make("li", {}, make("ol", {}, ...step.map((branch, index) => make("li", { class: branch.kept ? "kept" : null, dir: "auto" }, describeBranch(branch, index)))))));
}
