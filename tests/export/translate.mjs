// A host in JavaScript: the model by onnxruntime-node, vocabulary and beam here. See GRAPHS.md of an exported folder.
//
//     npm install onnxruntime-node
//     node translate.mjs FOLDER < in.txt      a line in, its score, a tab and its translation out
//
// Lines of models with features begin with them (without brackets) and a tab. Where the vocabulary is a SentencePiece model, tokens are given and answered, by their numbers.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";

const ort = createRequire(join(process.cwd(), "here.js"))("onnxruntime-node");
const [BOS, EOS, UNK, SPACE] = [1, 2, 3, "\u2581"];
const folder = process.argv[2];
const about = JSON.parse(readFileSync(join(folder, "model.json"), "utf8"));
const { beam_size: size, length_penalty: alpha, max_length_ratio: ratio, max_length_extra: extra, max_source_tokens: most } = about.decoding;
const { source, target, features, features_from: featuresFrom, target_size: targetSize } = about.vocabularies;
const [encoder, step] = [await open("encoder.onnx"), await open("step.onnx")];
const states = step.inputNames.filter((name) => /^(hidden_|cell_|feed)/.test(name));
const memory = step.inputNames.filter((name) => ![...states, "parents", "last", "ranks", "count"].includes(name));
const [sourcePieces, targetPieces] = [read(source), read(target)];

function open(name) {
  return ort.InferenceSession.create(join(folder, name), { intraOpNumThreads: 1 });
}

function read(side) {
  return side.kind === "sentencepiece" ? null : JSON.parse(readFileSync(join(folder, side.file), "utf8"));
}

function ints(numbers, shape = [numbers.length]) {
  return new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), shape);
}

function split(line) {
  const stripped = source.unknown === "apart" ? line.replace(/^ +| +$/g, "") : line;
  const text = SPACE + (source.unicode_form === "given" ? stripped : stripped.normalize(source.unicode_form)).replaceAll(" ", SPACE);
  if (source.kind === "word") return text.match(/\u2581[^\u2581]*/gu);
  const longer = sourcePieces.slice(UNK + 1).filter((piece) => [...piece].length > 1).sort((a, b) => b.length - a.length);
  const escaped = longer.map((piece) => piece.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return text.match(new RegExp([...escaped, "."].join("|"), "gsu"));
}

// Tokens of a line, and what of it the vocabulary lacks, which a model that copies numbers after all others.
function encode(line) {
  if (!sourcePieces) return [line.split(" ").map(Number), []];
  const known = new Map(sourcePieces.map((piece, id) => [piece, id]).slice(UNK + 1));
  const pieces = split(line);
  const lacking = about.model.copy ? [...new Set(pieces.filter((piece) => !known.has(piece)))] : [];
  const beyond = featuresFrom + features.length;
  const ids = pieces.map((piece) => known.get(piece) ?? (about.model.copy ? beyond + lacking.indexOf(piece) : UNK));
  return [ids.filter((id, place) => id !== UNK || source.unknown === "apart" || ids[place - 1] !== UNK), lacking];
}

function decode(ids, lacking) {
  if (!targetPieces) return ids.join(" ");
  const text = ids.filter((id) => id > UNK).map((id) => targetPieces[id] ?? lacking[id - targetSize]).join("").replaceAll(SPACE, " ");
  return (text.startsWith(" ") ? text.slice(1) : text).normalize(target.unicode_form === "given" ? undefined : "NFC");
}

function penalty(length) {
  return Math.fround(((5 + length) / 6) ** alpha);
}

async function search(ids, lacking) {
  const width = targetSize + lacking.length;
  const limit = Math.floor(ids.length * ratio) + extra + 1;
  const given = { tokens: ints(ids, [1, ids.length]), lengths: ints([ids.length]) };
  if (about.model.copy) given.width = ints([width]);
  const read = await encoder.run(given);
  const kept = Object.fromEntries(memory.map((name) => [name, read[name]]));
  const count = Math.min(2 * size, about.model.copy ? width : targetSize);
  let now = states.map((name) => read[name]);
  let live = [{ ids: [], last: BOS, rank: 0, parent: 0 }];
  let greedy = size > 1 ? 0 : -1;
  let ended = [];
  for (let length = 1; length <= limit; length += 1) {
    const feeds = { ...kept, parents: ints(live.map((one) => one.parent)), last: ints(live.map((one) => one.last)), count: ints([count]) };
    feeds.ranks = new ort.Tensor("float32", Float32Array.from(live, (one) => one.rank), [live.length]);
    states.forEach((name, place) => (feeds[name] = now[place]));
    const found = await step.run(feeds);
    now = states.map((name) => found[`next_${name}`]);
    const all = Array.from(found.totals.data, (total, place) => ({ total, place, row: Math.floor(place / count), token: Number(found.chosen.data[place]) }));
    const first = greedy >= 0 ? all[greedy * count] : null; // where greedy search goes on, which is never dropped
    let order = [...all].sort((a, b) => b.total - a.total || a.place - b.place).slice(0, 2 * size).filter((one) => Number.isFinite(one.total));
    if (first && !order.includes(first)) order = [...order, first];
    order.forEach((one, turn) => {
      if (one.token !== EOS || (turn >= size && one !== first)) return;
      ended.push({ ids: live[one.row].ids, score: Math.fround(one.total / penalty(length)) });
    });
    ended = ended.sort((a, b) => b.score - a.score).slice(0, size);
    if (size === 1 && ended.length) break;
    const others = order.filter((one) => one.token !== EOS);
    let next = others.slice(0, size);
    if (others.slice(size).includes(first)) next = [...next.slice(0, size - 1), first];
    if (!next.length) break;
    greedy = next.indexOf(first);
    live = next.map((one) => ({ ids: [...live[one.row].ids, one.token], last: one.token, rank: one.total, parent: one.row }));
    if (ended.length && Math.fround(Math.max(...live.map((one) => one.rank)) / penalty(limit)) <= ended[0].score) break;
  }
  if (ended.length) return ended[0];
  const best = live.reduce((a, b) => (b.rank > a.rank ? b : a));
  return { ids: best.ids, score: Math.fround(best.rank / penalty(limit)) };
}

for await (const line of createInterface({ input: process.stdin })) {
  const tab = features.length ? line.lastIndexOf("\t") : -1;
  if (!line.slice(tab + 1).trim()) {
    console.log("0\t");
    continue;
  }
  const bundle = line.slice(0, Math.max(tab, 0)).split(/[;|\s]+/).filter(Boolean);
  const [words, lacking] = encode(line.slice(tab + 1));
  const names = bundle.map((name) => (features.includes(name) ? featuresFrom + features.indexOf(name) : UNK));
  const best = await search([...[...names, ...words].slice(0, most - 1), EOS], lacking);
  console.log(`${best.score}\t${decode(best.ids, lacking)}`);
}
