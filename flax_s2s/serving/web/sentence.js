// One line's translation: its words, what is known of them, and what may be done with it.

class Sentence {
  // column: the run that it belongs to, see column.js. number: of the line, from 0.
  constructor(column, number) {
    this.column = column;
    this.number = number;
    this.line = "";
    this.answer = null;
    this.places = []; // {element, tokens, start, end}: the words and, last, the end mark
    this.lights = []; // rows: words of the translation; columns: of the source
    this.open = new Map(); // "others", "beam": open or closed, once the user has said so
    this.element = make("article", { class: "sentence" });
  }

  // Shows the answer to a line: a translation, {error}, or null while there is none yet: then the old one stays, in gray.
  show(line, answer, prefix) {
    this.element.classList.toggle("stale", !answer && line.trim() !== "");
    if (answer === this.answer && line === this.line && prefix === this.prefix && this.element.hasChildNodes()) return;
    if (!answer && line.trim()) return;
    const focus = this.focusedToken();
    this.column.alternatives.closeIf(this);
    Object.assign(this, { line, answer, prefix, places: [], lights: [], sourceWords: [] });
    this.beam?.stop();
    this.beam = null;
    this.element.replaceChildren(...(answer ? this.parts().filter(Boolean) : []));
    this.refocus(focus);
  }

  parts() {
    if (this.answer.error) return [this.echo(), this.failure(), this.chip()];
    this.sourceWords = groupWords(this.line, this.answer.source_spans ?? []);
    const text = this.text();
    return [this.echo(), text, this.warnings(), this.tools(), this.panel("beam"), this.panel("others")];
  }

  // The line itself, where there are several: which is whose.
  echo() {
    return make("p", { class: "echo small", dir: "auto", "aria-hidden": "true" }, this.line);
  }

  failure() {
    return make("p", { class: "warning" }, this.answer.error);
  }

  // The words, each a button; the spaces between them as they are.
  text() {
    const { text, spans, abstained } = this.answer;
    const { run } = this.column;
    const keys = this.answer.alternatives ? " The arrow keys move between its words, Enter shows the alternatives of one." : "";
    const label = `Translation of line ${this.number + 1}.${keys}`;
    const container = make("div", { class: "translation", dir: "auto", lang: languageTag(run.target), role: "group", "aria-label": label });
    if (abstained || !spans) {
      container.append(text);
      return container;
    }
    const probabilities = tokenProbabilities(this.answer);
    const points = Array.from(text);
    const given = Array.from(this.prefix).length;
    let end = 0;
    for (const word of groupWords(text, spans)) {
      const element = this.word(points.slice(word.start, word.end).join(""), wordProbability(word, probabilities));
      element.classList.toggle("fixed", word.end <= given);
      container.append(points.slice(end, word.start).join(""), element);
      this.places.push({ ...word, element });
      end = word.end;
    }
    container.append(points.slice(end).join(""));
    if (this.answer.attention) this.lights = attentionByWord(this.answer.attention, this.places, this.sourceWords);
    if (this.answer.reason === "end" && this.answer.alternatives) this.addEnd(container, points.length, probabilities.at(-1));
    this.makeReachable();
    return container;
  }

  word(text, probability) {
    const level = probability === null ? null : levelOf(probability);
    const role = this.answer.alternatives ? "button" : null;
    return make("span", { class: `word ${level?.name ?? ""}`, role, tabindex: "-1", "aria-description": level && percent(probability) }, text);
  }

  addEnd(container, at, probability) {
    const element = this.word("", probability);
    element.classList.add("end-mark"); // its text is the style's, so that copying leaves it out
    element.setAttribute("aria-label", "end of the translation");
    container.append(element);
    this.places.push({ element, tokens: [this.answer.tokens.length - 1], start: at, end: at });
  }

  // One stop of the Tab key for a sentence; arrow keys move inside it.
  makeReachable() {
    const hasAlternatives = Boolean(this.answer.alternatives);
    this.places.forEach(({ element }, index) => {
      if (index === 0) element.tabIndex = 0;
      if (hasAlternatives) element.setAttribute("aria-haspopup", "listbox");
      const point = () => this.column.pointed(this, index);
      const leave = () => this.column.pointed(null);
      element.addEventListener("mouseenter", point);
      element.addEventListener("focus", point);
      element.addEventListener("mouseleave", leave);
      element.addEventListener("blur", leave);
      element.addEventListener("click", () => document.getSelection().isCollapsed && this.openAlternatives(index));
      element.addEventListener("keydown", (event) => this.press(event, index));
    });
  }

  press(event, index) {
    const forwards = getComputedStyle(event.target.parentElement).direction === "rtl" ? "ArrowLeft" : "ArrowRight";
    const steps = { Home: -index, End: this.places.length - 1 - index, ArrowLeft: -1, ArrowRight: -1, [forwards]: 1 };
    if (event.key === "Enter" || event.key === " ") this.openAlternatives(index);
    else if (event.key in steps && !event.ctrlKey && !event.metaKey && !event.altKey) this.focus(index + steps[event.key]);
    else return;
    event.preventDefault();
  }

  focus(index) {
    if (!this.places[index]) return;
    this.places.forEach(({ element }, other) => (element.tabIndex = other === index ? 0 : -1));
    this.places[index].element.focus();
  }

  openAlternatives(index) {
    if (this.answer.alternatives) this.column.alternatives.open(this, index);
  }

  // The token that the focused word begins with, so that the focus stays at its place when the translation changes.
  focusedToken() {
    return this.places.find(({ element }) => element === document.activeElement)?.tokens[0] ?? null;
  }

  refocus(token) {
    if (token === null) return;
    const index = this.places.findIndex(({ tokens }) => tokens.at(-1) >= token);
    this.focus(index < 0 ? this.places.length - 1 : index);
  }

  // What a word is like, in words; for the line below the translations.
  describe(index) {
    const { element, tokens } = this.places[index];
    const probability = wordProbability({ tokens }, tokenProbabilities(this.answer));
    const parts = [`${element.textContent || "The end"}: `];
    if (probability !== null) parts.push(`${percent(probability)} ${this.column.run.calibrated ? "confidence" : "probability"}`);
    const looked = this.looked(index);
    if (looked) parts.push(`, looked at ${looked}`);
    const copied = Math.max(0, ...tokens.map((token) => this.answer.copied?.[token] ?? 0));
    if (copied >= LEAST_LIT) parts.push(`, ${percent(copied)} copied from the text`);
    return parts.join("");
  }

  // The words of the source that a word looked at most, as words; what is left went to the end mark. "" where it is not known.
  looked(index) {
    const weights = this.lights[index];
    if (!weights) return "";
    const rest = 1 - weights.reduce((sum, weight) => sum + weight, 0);
    const words = this.sourceWords.map((word) => cut(this.line, word.start, word.end));
    return listMost([...words, "the end of the text"], [...weights, rest]);
  }

  // {start, end, weight} of the source's words, for Source.light.
  lightOf(index) {
    return this.sourceWords.map((word, source) => ({ ...word, weight: this.lights[index]?.[source] ?? 0 }));
  }

  // Lights the words that looked at a word of the source, {start, end}, and says which; null: none.
  lightFrom(word) {
    const columns = word ? this.sourceWords.flatMap((own, index) => (own.start < word.end && own.end > word.start ? [index] : [])) : [];
    const shares = this.lights.map((row) => columns.reduce((sum, column) => sum + row[column], 0));
    lightUp(this.places.map(({ element }) => element), shares);
    const most = listMost(this.places.map(({ element }) => element.textContent || "the end"), shares);
    return most && `${cut(this.line, word.start, word.end)}: looked at by ${most}`;
  }

  warnings() {
    const found = warnings(this.answer);
    if (this.answer.abstained) found.unshift(`The model abstains: its confidence, ${percent(this.answer.confidence)}, is below the limit.`);
    return found.length ? make("ul", { class: "warnings" }, ...found.map((sentence) => make("li", { class: "warning" }, sentence))) : null;
  }

  chip() {
    if (!this.prefix) return null;
    const remove = make("button", { type: "button", "aria-label": "Remove this beginning", onclick: () => this.column.choose(this, "") }, "×");
    return make("span", { class: "chip" }, "begins with ", make("bdi", {}, `“${this.prefix}”`), remove);
  }

  tools() {
    const { others, confidence } = this.answer;
    const tools = make("div", { class: "tools" }, this.chip());
    if (confidence !== undefined) tools.append(make("span", { class: "small" }, `confidence ${percent(confidence)}`));
    if (navigator.clipboard) tools.append(make("button", { type: "button", class: "quiet", onclick: (event) => this.copy(event.target) }, "Copy"));
    if (others?.length) tools.append(this.opener("others", plural(others.length, "other")));
    if (this.column.holds("beam")) tools.append(this.opener("beam", "Beam"));
    return tools;
  }

  async copy(button) {
    try {
      await navigator.clipboard.writeText(this.answer.text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not allowed";
    }
  }

  // A button that opens and closes a panel; the other hypotheses are open from the start where there is one sentence.
  opener(name, words) {
    const isOpen = this.isOpen(name);
    return make("button", { type: "button", class: "quiet opens", "aria-expanded": String(isOpen), "data-panel": name, onclick: () => this.toggle(name) }, words);
  }

  isOpen(name) {
    return this.open.get(name) ?? (name === "others" && this.column.sentences.length === 1 && this.column.alone);
  }

  toggle(name) {
    this.open.set(name, !this.isOpen(name));
    this.element.querySelector(`.opens[data-panel=${name}]`).setAttribute("aria-expanded", String(this.isOpen(name)));
    const panel = this.element.querySelector(`.panel-${name}`);
    panel.replaceWith(this.panel(name));
  }

  panel(name) {
    const panel = make("div", { class: `panel-${name}`, hidden: !this.isOpen(name) });
    if (!this.isOpen(name)) return panel;
    if (name === "others" && this.answer.others?.length) panel.append(makeOthers(this.answer, this.column.run));
    if (name === "beam") {
      this.beam?.stop();
      this.beam = new Beam(this, panel);
    }
    return panel;
  }
}

// The three words with most weight: "men 68%, Two 16%".
function listMost(words, weights) {
  const pairs = words.map((text, index) => ({ text, weight: weights[index] ?? 0 })).filter(({ weight }) => weight >= LEAST_LIT);
  return pairs.sort((one, other) => other.weight - one.weight).slice(0, 3).map(({ text, weight }) => `${text} ${percent(weight)}`).join(", ");
}

// The n-best list, the best first.
function makeOthers(answer, run) {
  const rows = [answer, ...answer.others].map((one) =>
    make("li", {},
      make("span", { class: "hypothesis", dir: "auto", lang: languageTag(run.target) }, one.text || "(nothing)"),
      make("span", { class: "scores" }, `score ${decimal(one.score)}, log-probability ${decimal(one.logp)}`)));
  return make("ol", { class: "others", "aria-label": "The best hypotheses" }, ...rows);
}
