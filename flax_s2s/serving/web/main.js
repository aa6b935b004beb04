// The page: asks what is served, then translates what is typed, with every model that is shown.

const DEBOUNCE_SECS = 0.25;
const MOST_LINES = 200;

const notice = (sentence) => {
  byId("notice").textContent = sentence;
  byId("notice").hidden = !sentence;
};

class Page {
  constructor(info) {
    this.history = []; // what may be undone: {column, line, prefix}
    this.timer = null;
    this.alternatives = new Alternatives((sentence, prefix) => sentence.column.choose(sentence, prefix));
    this.columns = info.runs.map((run) => new Column(run, info.runs.length === 1, this));
    byId("runs").append(...this.columns.map(({ element }) => element));
    byId("panels").classList.toggle("several", info.runs.length > 1);
    byId("panels").classList.toggle("two", info.runs.length === 2);
    this.source = new Source((text, now) => this.typed(now), (line, word) => this.sourcePointed(line, word));
    this.features = byId("features");
    this.features.addEventListener("input", () => this.typed(false));
    byId("undo").addEventListener("click", () => this.undo());
    document.addEventListener("keydown", (event) => this.press(event));
    this.nameLanguages(info);
    makeLegend(info);
    this.translate();
    this.source.field.focus();
  }

  nameLanguages(info) {
    byId("served").textContent = info.name.replace("flax_s2s ", "");
    byId("features-row").hidden = !info.runs.some((run) => run.features);
    const sources = new Set(info.runs.map((run) => run.source));
    const [source] = sources;
    if (sources.size !== 1 || !source) return;
    byId("source-heading").textContent = languageName(source);
    byId("source").lang = languageTag(source) ?? "";
  }

  typed(now) {
    this.alternatives.close(false);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.translate(), now ? 0 : DEBOUNCE_SECS * 1000);
  }

  translate() {
    const lines = this.source.text.split("\n");
    const shown = lines.slice(0, MOST_LINES);
    byId("source-hint").textContent =
      lines.length > MOST_LINES ? `Only the first ${MOST_LINES} lines are translated here; for more there is flax-s2s decode.` : "";
    for (const column of this.columns) column.update(shown, this.features.value.trim());
    this.offerUndo();
  }

  // The words of the text are those of the first model that knows where it looked.
  rendered() {
    if (!this.source) return;
    const words = this.source.text.split("\n").map((line, number) => {
      const found = this.columns.map(({ sentences }) => sentences[number]).find((one) => one?.line === line && one.lights.length);
      return found?.sourceWords;
    });
    this.source.showWords(words);
  }

  pointed(line, weights) {
    this.source.dark();
    if (line !== null) this.source.light(line, weights);
  }

  sourcePointed(line, word) {
    for (const column of this.columns) column.lightFrom(line, word ?? null);
  }

  // For who listens: the new translations as one text, without buttons.
  spoke(column) {
    const texts = column.sentences.map(({ answer }) => answer?.error ?? answer?.text).filter(Boolean);
    byId("spoken").textContent = (this.columns.length > 1 ? `${column.run.name}: ` : "") + texts.join("\n");
  }

  changing(column, line, prefix) {
    this.history.push({ column, line, prefix });
    this.offerUndo();
  }

  // Of what can still be seen: a line that is gone has no beginning to take back.
  get undoable() {
    return this.history.filter(({ column, line }) => column.lines.includes(line));
  }

  offerUndo() {
    byId("undo").disabled = this.undoable.length === 0;
  }

  undo() {
    const last = this.undoable.at(-1);
    if (!last) return;
    this.history.splice(this.history.lastIndexOf(last), 1);
    last.column.setPrefix(last.line, last.prefix);
    this.offerUndo();
    if (document.activeElement === document.body) this.source.field.focus(); // the button is off now
  }

  // In a field the keys of undo belong to the field.
  press(event) {
    if (event.key !== "z" || !(event.ctrlKey || event.metaKey) || event.shiftKey || event.target.matches("input, textarea")) return;
    event.preventDefault();
    this.undo();
  }
}

function makeLegend(info) {
  const calibrated = info.runs.every((run) => run.calibrated);
  byId("legend").append(
    make("span", {}, calibrated ? "How sure the model is of a word, calibrated:" : "How sure the model is of a word, not calibrated:"),
    ...LEVELS.map(({ name, words }) => make("span", {}, make("span", { class: `word ${name}` }, words.split(":")[0]), words.slice(words.indexOf(":") + 1))),
    make("span", {}, make("span", { class: "word fixed" }, "yours"), " what you chose to begin with"));
}

async function start() {
  try {
    const info = await ask("v1/info", null, null, notice);
    document.body.classList.add("ready"); // what is not shown cannot have the focus
    return new Page(info);
  } catch (error) {
    notice(error instanceof Refusal ? error.message : `This page failed: ${error.message}`);
    if (!(error instanceof Refusal)) throw error;
    return null;
  }
}

start();
