// What else could stand at a place of the translation: a list under the word, by probability. Choosing one translates again with it.
//
// A word of several tokens has several places; the buttons above the list, or the left and right arrow keys, go from one to the next.

class Alternatives {
  // chosen(sentence, prefix): the user wants the translation to begin with `prefix`.
  constructor(chosen) {
    this.chosen = chosen;
    this.sentence = null; // whose word it is; null: closed
    this.box = make("div", { class: "alternatives", role: "dialog", hidden: true });
    this.list = make("ul", { role: "listbox", tabindex: "0", onkeydown: (event) => this.press(event) });
    document.body.append(this.box);
    document.addEventListener("pointerdown", (event) => {
      if (this.sentence && !this.box.contains(event.target) && !this.place.element.contains(event.target)) this.close(false);
    });
    this.box.addEventListener("keydown", (event) => event.key === "Escape" && this.close(true));
    document.addEventListener("focusin", (event) => {
      if (!this.box.contains(event.target)) this.close(false);
    });
    window.addEventListener("resize", () => this.sentence && this.moveToWord());
  }

  open(sentence, index) {
    const place = sentence.places[index];
    if (this.sentence === sentence && this.place === place) {
      this.close(true);
      return;
    }
    this.close(false);
    sentence.column.pointed(sentence, index);
    Object.assign(this, { sentence, place, index, token: place.tokens[0] });
    place.element.setAttribute("aria-expanded", "true");
    this.box.hidden = false;
    this.show();
    this.list.focus({ preventScroll: true });
    this.box.scrollIntoView({ block: "nearest" });
  }

  close(givesFocusBack) {
    if (!this.sentence) return;
    const { sentence, place, index } = this;
    this.sentence = null;
    this.box.hidden = true;
    place.element.removeAttribute("aria-expanded");
    sentence.column.pointed(null);
    if (givesFocusBack) sentence.focus(index);
  }

  // Where a sentence is written anew, the focus goes back to the word first, so that it is not lost.
  closeIf(sentence) {
    if (this.sentence === sentence) this.close(this.box.contains(document.activeElement));
  }

  // The alternatives at the place of `this.token`, the token that stands there among them.
  show() {
    const { text, spans, tokens, alternatives, token_confidence: confidences } = this.sentence.answer;
    const before = cut(text, 0, spans[this.token][0]);
    const found = [...alternatives[this.token]];
    this.current = found.findIndex(({ token }) => token === tokens[this.token]);
    if (this.current < 0) {
      const probability = confidences[this.token];
      this.current = found.push({ token: tokens[this.token], probability, prefix: cut(text, 0, spans[this.token][1]) }) - 1;
    }
    const { run } = this.sentence.column;
    this.options = found.map((one, index) => ({ ...one, element: this.option(one, before, index) }));
    this.list.replaceChildren(...this.options.map(({ element }) => element));
    this.list.lang = languageTag(run.target) ?? "";
    const word = this.place.element.textContent;
    const heading = word ? `Instead of “${word}”` : "Instead of the end";
    this.list.setAttribute("aria-label", `${heading}: ${run.calibrated ? "calibrated " : ""}probabilities`);
    this.box.setAttribute("aria-label", heading);
    this.box.replaceChildren(make("p", { class: "small" }, heading), ...this.pieces(), this.list);
    this.activate(this.current);
    this.moveToWord();
  }

  option(alternative, before, index) {
    const ends = this.ends(alternative);
    const { added, begun } = describeAlternative(alternative, before);
    const words = ends ? [make("i", {}, "the translation ends here")] : [begun ? make("span", { class: "begun" }, begun) : null, added];
    const bar = make("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", `${(100 * alternative.probability).toFixed(1)}%`);
    // An end cannot be asked for: a translation that begins with all of this one may go on.
    return make("li", { role: "option", id: `alternative-${index}`, "aria-selected": String(index === this.current), "aria-disabled": String(ends),
      onclick: () => this.choose(index), onmousemove: () => this.activate(index) },
      make("span", { class: "option-text", dir: "auto" }, ...words), make("span", { class: "option-share" }, percent(alternative.probability)), bar);
  }

  ends({ token }) {
    return token === "</s>";
  }

  // The tokens of the word, one button each; nothing where it is one token.
  pieces() {
    const { tokens } = this.place;
    if (tokens.length < 2) return [];
    const { text, spans } = this.sentence.answer;
    const buttons = tokens.map((token) =>
      make("button", { type: "button", tabindex: "-1", "aria-pressed": String(token === this.token), onclick: () => this.goTo(token) },
        cut(text, ...spans[token]).trim() || "space"));
    return [make("div", { class: "pieces", role: "group", "aria-label": "Pieces of the word", dir: "auto" }, ...buttons)];
  }

  goTo(token) {
    if (!this.place.tokens.includes(token)) return;
    this.token = token;
    this.show();
    this.list.focus({ preventScroll: true });
  }

  activate(index) {
    this.active = Math.max(0, Math.min(index, this.options.length - 1));
    this.options.forEach(({ element }, other) => element.classList.toggle("active", other === this.active));
    this.list.setAttribute("aria-activedescendant", this.options[this.active].element.id);
  }

  press(event) {
    const moves = {
      ArrowDown: () => this.activate(this.active + 1),
      ArrowUp: () => this.activate(this.active - 1),
      Home: () => this.activate(0),
      End: () => this.activate(this.options.length - 1),
      ArrowLeft: () => this.goTo(this.token - 1),
      ArrowRight: () => this.goTo(this.token + 1),
      Enter: () => this.choose(this.active),
      " ": () => this.choose(this.active),
      Tab: () => this.close(true),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  }

  choose(index) {
    const option = this.options[index];
    if (this.ends(option)) return;
    const { sentence } = this;
    this.close(true);
    this.chosen(sentence, option.prefix);
  }

  // Below the word, and inside the window.
  moveToWord() {
    const word = this.place.element.getBoundingClientRect();
    const margin = 8;
    const room = document.documentElement.clientWidth - this.box.offsetWidth - margin;
    this.box.style.left = `${Math.max(margin, Math.min(word.left, room)) + window.scrollX}px`;
    this.box.style.top = `${word.bottom + 8 + window.scrollY}px`;
  }
}
