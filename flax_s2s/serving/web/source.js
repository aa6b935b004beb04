// The text on the left: a field, and behind it the same text as words that light up.
//
// The mirror lies under the field, letter on letter, with transparent text: only the light of its words is seen. It also gives the field its
// height.

const MOVES = new Set(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"]);

class Source {
  // typed(text, now): the text changed; now: at once, it was pasted. pointed(line, word): a word is pointed at, by mouse, tap or cursor;
  // pointed(null): none is any more.
  constructor(typed, pointed) {
    this.field = byId("source");
    this.mirror = byId("mirror");
    this.spans = []; // of each line its words' elements in the mirror
    this.words = []; // of each line its words, see groupWords
    this.pointed = pointed;
    this.at = null;

    this.field.addEventListener("input", (event) => {
      this.point(null);
      this.showWords([]);
      // Half a Chinese or Korean word is no text yet; `compositionend` follows.
      if (!event.isComposing) typed(this.text, event.inputType === "insertFromPaste" || event.inputType === "insertFromDrop");
    });
    this.field.addEventListener("compositionend", () => typed(this.text, false));
    this.field.addEventListener("mousemove", (event) => this.pointAt(event.clientX, event.clientY));
    this.field.addEventListener("mouseleave", () => this.point(null));
    this.field.addEventListener("blur", () => this.point(null));
    this.field.addEventListener("click", () => this.pointAtCursor());
    this.field.addEventListener("keyup", (event) => MOVES.has(event.key) && this.pointAtCursor());
    this.showWords([]);
  }

  get text() {
    return this.field.value;
  }

  // Takes the words of each line; a line without any is shown as it is.
  showWords(words) {
    this.words = words;
    this.spans = [];
    const parts = this.text.split("\n").flatMap((line, number) => {
      const points = Array.from(line);
      let end = 0;
      const inside = (words[number] ?? []).flatMap((word, index) => {
        const between = points.slice(end, word.start).join("");
        end = word.end;
        const span = make("span", { class: "source-word", "data-line": number, "data-word": index }, points.slice(word.start, end).join(""));
        (this.spans[number] ??= []).push(span);
        return [between, span];
      });
      return [...inside, points.slice(end).join(""), "\n"];
    });
    this.mirror.replaceChildren(...parts, "\u200b"); // the last line break needs something after it to take up a line
  }

  // Lights the words of a line by `weights`: {start, end, weight} in code points, of whoever's words.
  light(line, weights) {
    const words = this.words[line] ?? [];
    const shares = words.map((word) => Math.max(0, ...weights.filter((one) => one.start < word.end && one.end > word.start).map((one) => one.weight)));
    lightUp(this.spans[line] ?? [], shares);
  }

  dark() {
    for (const spans of this.spans) lightUp(spans ?? [], []);
  }

  pointAt(x, y) {
    const span = document.elementsFromPoint(x, y).find((element) => element.classList.contains("source-word"));
    this.point(span ? { line: Number(span.dataset.line), index: Number(span.dataset.word) } : null);
  }

  pointAtCursor() {
    const before = this.text.slice(0, this.field.selectionStart).split("\n");
    const [line, at] = [before.length - 1, Array.from(before.at(-1)).length];
    const index = (this.words[line] ?? []).findIndex((word) => word.start <= at && at <= word.end);
    this.point(index < 0 ? null : { line, index });
  }

  point(at) {
    if (this.at?.line === at?.line && this.at?.index === at?.index) return;
    this.at = at;
    this.dark();
    if (!at) {
      this.pointed(null);
      return;
    }
    this.spans[at.line][at.index].classList.add("pointed");
    this.pointed(at.line, this.words[at.line][at.index]);
  }
}

const LEAST_LIT = 0.05; // of attention: less is noise

// Lights elements by how much attention each has; the most attended one is marked by more than color.
function lightUp(elements, shares) {
  const most = Math.max(...shares, LEAST_LIT);
  elements.forEach((element, index) => {
    const share = shares[index] ?? 0;
    const lit = share >= LEAST_LIT;
    element.classList.toggle("lit", lit);
    element.classList.toggle("lit-most", lit && share === most);
    element.classList.remove("pointed");
    if (lit) element.style.setProperty("--light", `${Math.round(45 * (share / most))}%`);
  });
}
