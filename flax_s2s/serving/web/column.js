// One model's translations of the text: what is asked of the server, what came back, and how it is shown.
//
// Lines are asked for once: an answer is kept for its line, prefix and features, so while one line is typed only that line is sent. Of two
// requests only the newer counts; the older is given up.

const LINES_PER_REQUEST = 32;
const MOST_ANSWERS = 1000; // that are kept
const REFUSED_LINES = new Set([400, 413, 422, 504]); // one line of a list may be the reason, so the others are asked for without it

class Column {
  // run: as in /v1/info. alone: no other model is shown. page: {alternatives, spoke, pointed}, see main.js.
  constructor(run, alone, page) {
    Object.assign(this, { run, alone, alternatives: page.alternatives, page });
    this.answers = new Map(); // the newest last
    this.prefixes = new Map(); // line -> what its translation must begin with
    this.sentences = [];
    this.lines = [];
    this.features = "";
    this.aborting = new AbortController();

    const heading = `run-${encodeURIComponent(run.name)}`;
    this.list = make("div", { class: "sentences" });
    this.said = make("p", { class: "notice", role: "status", hidden: true });
    this.detail = make("p", { class: "detail small" });
    const about = [run.name, run.step === undefined ? null : `step ${run.step.toLocaleString("en")}`].filter(Boolean).join(", ");
    const title = run.target ? languageName(run.target) : "Translation";
    this.element = make("section", { class: "panel run", "aria-labelledby": heading },
      make("h2", { id: heading }, alone ? title : run.name, make("span", { class: "small about" }, alone ? about : about.replace(run.name, title))),
      this.said, this.list, this.detail);
    this.describe("");
  }

  holds(name) {
    return this.run.holds.includes(name);
  }

  // Shows the translations of `lines`, and asks for those that are not known.
  async update(lines, features) {
    this.aborting.abort(new DOMException("There is newer text.", "AbortError"));
    this.aborting = new AbortController();
    const { signal } = this.aborting;
    Object.assign(this, { lines, features, failures: new Map() });
    this.tell("");
    this.render();
    try {
      const missing = [...new Set(lines)].filter((line) => line.trim() && !this.answers.has(this.key(line)));
      this.element.classList.toggle("busy", missing.length > 0);
      for (const [prefix, group] of this.byPrefix(missing)) {
        for (let start = 0; start < group.length; start += LINES_PER_REQUEST) {
          await this.translate(group.slice(start, start + LINES_PER_REQUEST), prefix, signal);
        }
      }
      this.element.classList.remove("busy");
      if (missing.length) this.page.spoke(this);
    } catch (error) {
      if (signal.aborted) return;
      this.element.classList.remove("busy");
      this.fail(error);
    }
  }

  // A request has one prefix for all its lines.
  byPrefix(lines) {
    const groups = new Map();
    for (const line of lines) {
      const prefix = this.prefixes.get(line) ?? "";
      groups.set(prefix, [...(groups.get(prefix) ?? []), line]);
    }
    return groups;
  }

  async translate(lines, prefix, signal) {
    try {
      const { translations } = await ask("v1/translate", this.request(lines, prefix), signal, (sentence) => this.tell(sentence));
      signal.throwIfAborted(); // it came, but too late
      translations.forEach((translation, index) => this.keep(lines[index], translation));
      this.render();
    } catch (error) {
      if (!(error instanceof Refusal) || !REFUSED_LINES.has(error.status)) throw error;
      if (lines.length === 1) {
        this.failures.set(this.key(lines[0]), { error: error.message });
        this.render();
        return;
      }
      const half = lines.length >> 1;
      await this.translate(lines.slice(0, half), prefix, signal);
      await this.translate(lines.slice(half), prefix, signal);
    }
  }

  // Only what this model can do is asked of it.
  request(lines, prefix) {
    const most = this.run.limits?.n_best ?? 1;
    return {
      source: lines,
      run: this.run.name,
      ...(this.run.features ? { features: this.features } : {}),
      ...(prefix ? { prefix } : {}),
      ...(this.holds("n_best") ? { n_best: Math.min(5, most) } : {}),
      ...(this.holds("attention") ? { attention: true } : {}),
      ...(this.holds("alternatives") ? { alternatives: 6 } : {}),
    };
  }

  async askBeam(sentence, signal, tell) {
    const body = { ...this.request([sentence.line], sentence.prefix), alternatives: 0, attention: false, beam: true };
    const { translations } = await ask("v1/translate", body, signal, tell);
    return translations[0].beam;
  }

  key(line) {
    return JSON.stringify([line, this.prefixes.get(line) ?? "", this.run.features ? this.features : ""]);
  }

  keep(line, translation) {
    this.answers.set(this.key(line), translation);
    if (this.answers.size > MOST_ANSWERS) this.answers.delete(this.answers.keys().next().value);
  }

  render() {
    while (this.sentences.length > this.lines.length) this.sentences.pop().element.remove();
    while (this.sentences.length < this.lines.length) {
      const sentence = new Sentence(this, this.sentences.length);
      this.sentences.push(sentence);
      this.list.append(sentence.element);
    }
    this.sentences.forEach((sentence, number) => {
      const line = this.lines[number];
      const key = this.key(line);
      sentence.show(line, this.answers.get(key) ?? this.failures.get(key) ?? null, this.prefixes.get(line) ?? "");
    });
    this.list.classList.toggle("many", this.lines.filter((line) => line.trim()).length > 1);
    this.list.classList.toggle("empty", this.lines.every((line) => !line.trim()));
    this.page.rendered();
  }

  // Lets a sentence begin with `prefix`; "" takes that away.
  choose(sentence, prefix) {
    const { line } = sentence;
    this.page.changing(this, line, this.prefixes.get(line) ?? "");
    this.setPrefix(line, prefix);
  }

  setPrefix(line, prefix) {
    if (prefix) this.prefixes.set(line, prefix);
    else this.prefixes.delete(line);
    this.update(this.lines, this.features);
  }

  // Says one sentence above the translations; "" takes it away.
  tell(sentence) {
    this.said.replaceChildren(sentence);
    this.said.hidden = !sentence;
  }

  fail(error) {
    this.tell(error instanceof Refusal ? error.message : `This page failed: ${error.message}`);
    this.said.append(" ", make("button", { type: "button", class: "quiet", onclick: () => this.update(this.lines, this.features) }, "Try again"));
    if (!(error instanceof Refusal)) console.error(error);
  }

  get hint() {
    const told = this.holds("attention") ? "where it looked" : "how sure the model is of it";
    return `Point at a word to see ${told}${this.holds("alternatives") ? "; choose it for alternatives" : ""}.`;
  }

  describe(words) {
    this.detail.textContent = words || this.hint;
  }

  // A word of a sentence is pointed at; null: none is any more, but one whose alternatives are shown stays.
  pointed(sentence, index) {
    if (this.alternatives.sentence?.column === this) return;
    if (sentence === null) {
      this.describe("");
      this.page.pointed(null);
    } else {
      this.describe(sentence.describe(index));
      this.page.pointed(sentence.number, sentence.lightOf(index));
    }
  }

  // Lights what looked at a word of the source in line `number`; word null: nothing.
  lightFrom(number, word) {
    const said = this.sentences.map((sentence) => sentence.lightFrom(sentence.number === number ? word : null));
    this.describe(said[number] ?? "");
  }
}
