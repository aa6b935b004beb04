// Elements of the page, and numbers in words.
//
// make(tag, settings, ...children): an element; text becomes text nodes, never markup.

const byId = (id) => document.getElementById(id);

function make(tag, settings = {}, ...children) {
  return fill(document.createElement(tag), settings, children);
}

// The same for the elements of a drawing.
function draw(tag, settings = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), settings, children);
}

// A setting is an attribute; `on...` a function that is called at the event; true an attribute without value; false and null none.
function fill(element, settings, children) {
  for (const [name, value] of Object.entries(settings)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// 0.934 -> "93%"; what is nearly certain, or nearly impossible, is not called certain or impossible.
function percent(share) {
  const whole = Math.round(share * 100);
  if (whole === 100 && share < 0.9995) return "over 99%";
  if (whole === 0 && share > 0) return "under 1%";
  return `${whole}%`;
}

// A minus sign, not a hyphen: -0.25 -> "−0.25".
function decimal(number) {
  return number.toFixed(2).replace("-", "−");
}

function plural(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

// "de" -> "German"; what is no language tag stays as it is.
function languageName(tag) {
  try {
    return new Intl.DisplayNames(["en"], { type: "language" }).of(tag);
  } catch {
    return tag;
  }
}

// For the attribute `lang`: null where the name is no language tag.
function languageTag(name) {
  try {
    return Intl.getCanonicalLocales(name)[0] ?? null;
  } catch {
    return null;
  }
}
