/* What the page is built of: elements, numbers as text, colors, tables. Text of a corpus only ever becomes the text of a node. */
"use strict";
const REPORT = JSON.parse(document.getElementById("data").textContent);
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]];

function make(tag, named, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(named || {})) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...inside.flat(3).filter((one) => one !== null && one !== undefined && one !== false));
  return made;
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function color(number) {
  return css(`--c${number % 6}`);
}

function faint(number, share) {
  const [red, green, blue] = color(number).match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16));
  return `rgba(${red}, ${green}, ${blue}, ${share})`;
}

function whole(value) {
  return value === null || value === undefined ? "–" : Math.round(value).toLocaleString("en-US");
}

function short(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  if (size >= 0.0001 || size === 0) return String(Number(value.toPrecision(4)));
  return value.toExponential(2);
}

function fixed(value, digits = 2) {
  return typeof value === "number" ? value.toFixed(digits) : "–";
}

function duration(seconds) {
  const whole = Math.round(seconds), hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

/* A cell is text or a node; numbers are columns that stand right; narrow screens leave the column `extra` out. */
function table(heads, rows, numbers = [], named = {}, extra = -1) {
  const kind = (place) => (numbers.includes(place) ? "n" : "") + (place === extra ? " extra" : "");
  const head = heads.map((text, place) => make("th", { scope: "col", class: kind(place) }, text));
  const body = rows.map((row) =>
    make("tr", {}, row.map((cell, place) => (place ? make("td", { class: kind(place) }, cell) : make("th", { scope: "row" }, cell)))));
  return make("div", { class: "scroll" }, make("table", named, make("thead", {}, make("tr", {}, head)), make("tbody", {}, body)));
}

function unfold(title, build, named = {}) {
  const box = make("details", named, make("summary", {}, title));
  box.addEventListener("toggle", () => box.open && box.childElementCount === 1 && box.append(...[build()].flat()), { once: false });
  return box;
}

/* A section with its place in the list of sections; nothing where it has nothing to show. */
function section(id, title, ...inside) {
  const shown = inside.flat(3).filter(Boolean);
  if (!shown.length) return;
  document.getElementById("contents").append(make("a", { href: `#${id}` }, title));
  document.getElementById("content").append(make("section", { "aria-labelledby": id }, make("h2", { id }, title), shown));
}

function runName(number) {
  return REPORT.runs[number].name;
}
