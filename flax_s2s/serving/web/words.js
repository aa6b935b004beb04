// Words made of tokens, and what is known of each: its probability and where it looked. No elements here.
//
// The server counts characters in code points; so does this file: `points` is Array.from(text).

// Scripts that are written without spaces: there each token is a word.
const UNSPACED = /[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{scx=Thai}\p{scx=Laoo}\p{scx=Khmr}\p{scx=Mymr}\p{scx=Tibt}]/u;
const SPACE = /^\s$/u;

// Words of a text: {start, end, tokens}: code points without the spaces around, and the indices of its tokens.
//
// Tokens without a space between them are one word, where the text has spaces. A token that wrote nothing to see, a lone space, belongs to
// the word after it; the end mark, which comes last, to none.
function groupWords(text, spans) {
  const points = Array.from(text);
  const spaced = points.some((point) => SPACE.test(point));
  const words = [];
  let unseen = [];
  spans.forEach(([from, to], token) => {
    let [start, end] = [from, to];
    while (start < end && SPACE.test(points[start])) start += 1;
    while (end > start && SPACE.test(points[end - 1])) end -= 1;
    if (start === end) {
      unseen.push(token);
      return;
    }
    const last = words.at(-1);
    const joins = last && spaced && last.end === start && !UNSPACED.test(points[start]) && !UNSPACED.test(points[start - 1]);
    if (joins) {
      last.end = end;
      last.tokens.push(...unseen, token);
    } else {
      words.push({ start, end, tokens: [...unseen, token] });
    }
    unseen = [];
  });
  return words;
}

// Code points `start` to `end` of a text.
function cut(text, start, end) {
  return Array.from(text).slice(start, end).join("");
}

// The probability of each token, calibrated where the server says so.
function tokenProbabilities(translation) {
  return translation.token_confidence ?? translation.token_logp?.map(Math.exp) ?? [];
}

// The probability of a word: that of all its tokens; null where none is known.
function wordProbability(word, probabilities) {
  const known = word.tokens.map((token) => probabilities[token]);
  return known.includes(undefined) ? null : known.reduce((product, one) => product * one, 1);
}

const LEVELS = [
  { name: "sure", least: 0.9, words: "sure: 90% and more" },
  { name: "fair", least: 0.6, words: "fairly sure: 60% and more" },
  { name: "unsure", least: 0.3, words: "unsure: 30% and more" },
  { name: "doubtful", least: 0, words: "doubtful: under 30%" },
];

function levelOf(probability) {
  return LEVELS.find((level) => probability >= level.least) ?? LEVELS.at(-1);
}

// How much each word of the translation (rows) looked at each word of the source (columns): a word's tokens share its row.
function attentionByWord(weights, targetWords, sourceWords) {
  return targetWords.map((target) =>
    sourceWords.map((source) => {
      let sum = 0;
      for (const row of target.tokens) for (const column of source.tokens) sum += weights[row]?.[column] ?? 0;
      return sum / target.tokens.length;
    }),
  );
}

// What an alternative writes at its place: the text that it adds to what stands before, and the part of the word that stands already.
function describeAlternative(alternative, before) {
  const start = Array.from(before);
  const added = alternative.prefix.startsWith(before) ? Array.from(alternative.prefix).slice(start.length).join("") : alternative.token;
  const begun = /\S*$/u.exec(before)[0];
  const joins = added !== "" && !/^\s/u.test(added) && begun !== "" && !UNSPACED.test(start.at(-1));
  return { added: added.trim() || alternative.token, begun: joins ? begun : "" };
}

const FLAGS = {
  unknown: "Something in the text is not in the model's vocabulary.",
  repetition: "The translation repeats itself.",
  empty: "The model answered with nothing.",
  copied: "The translation is the text itself.",
  length: "The translation is much longer or much shorter than the text.",
  unmet: "Not everything that was asked for could be met.",
};
const REASONS = {
  limit: "The translation is cut: the model reached its longest length.",
  impossible: "There is no translation that meets what was asked for.",
};

// What looks wrong with a translation, in sentences.
function warnings(translation) {
  const found = (translation.flags ?? []).map((flag) =>
    flag === "unmet" && translation.unmet?.length ? `This could not be met: ${translation.unmet.join(", ")}.` : (FLAGS[flag] ?? flag),
  );
  if (REASONS[translation.reason]) found.push(REASONS[translation.reason]);
  return found;
}
