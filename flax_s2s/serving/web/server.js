// Talks to the server. What may pass by itself (no answer, starting, busy) is waited for; the rest is a Refusal of one sentence.
//
// Nothing goes to any other host: all addresses are relative to this page.

class Refusal extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

const KEY_NAME = "flax_s2s key";
const LONGEST_WAIT_SECS = 30;

// Pauses; ends early, with the signal's reason, where what is waited for is no longer wanted.
function pause(secs, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, secs * 1000);
    if (signal?.aborted) stop();
    signal?.addEventListener("abort", stop, { once: true });
  });
}

// What the server answers to a request: an object. `tell(sentence)` says why there is none yet, and tell("") that it goes on.
async function ask(path, body, signal, tell) {
  for (let tries = 0; ; tries += 1) {
    const response = await send(path, body, signal);
    if (response?.ok) {
      tell("");
      return response.json();
    }
    if (!response) {
      await awaitReady("The server does not answer. This page tries again by itself.", signal, tell);
    } else if (response.status === 503) {
      await awaitReady("The server is starting. This page goes on by itself.", signal, tell);
    } else if (response.status === 429) {
      const asked = Number(response.headers.get("Retry-After"));
      const secs = Math.min(LONGEST_WAIT_SECS, asked > 0 ? asked : 2 ** Math.min(tries, 4));
      tell(`The server is busy. The next try is in ${plural(Math.ceil(secs), "second")}.`);
      await pause(secs, signal);
    } else if (response.status === 401) {
      await askForKey(signal);
    } else {
      tell("");
      throw new Refusal(response.status, await sentenceOf(response));
    }
  }
}

// The response, or null where no server answers.
async function send(path, body, signal) {
  const key = sessionStorage.getItem(KEY_NAME);
  const headers = { ...(body ? { "Content-Type": "application/json" } : {}), ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  try {
    return await fetch(path, { method: body ? "POST" : "GET", body: body && JSON.stringify(body), headers, signal, cache: "no-store" });
  } catch (error) {
    signal?.throwIfAborted();
    if (error instanceof TypeError) return null;
    throw error;
  }
}

async function sentenceOf(response) {
  try {
    const { error } = await response.json();
    if (typeof error === "string" && error) return error;
  } catch {
    // A proxy in between may answer with a page of its own.
  }
  if (response.status === 504) return "The translation took longer than the server allows.";
  return `The server refused this with status ${response.status}.`;
}

// Returns when the server says that it is ready.
async function awaitReady(sentence, signal, tell) {
  tell(sentence);
  for (let secs = 1; ; secs = Math.min(secs * 1.5, 5)) {
    await pause(secs, signal);
    const response = await send("health", null, signal);
    if (response?.ok) return;
    tell(response ? "The server is starting. This page goes on by itself." : sentence);
  }
}

let keyAsked = null; // several requests may be refused at once; the user is asked once

function askForKey(signal) {
  keyAsked ??= new Promise((resolve) => {
    const [dialog, form, field] = [byId("key-dialog"), byId("key-form"), byId("key")];
    if (sessionStorage.getItem(KEY_NAME)) byId("key-hint").textContent = "The server did not accept that key. Please check it.";
    const before = document.activeElement;
    field.value = "";
    dialog.addEventListener("cancel", (event) => event.preventDefault()); // there is nothing to do without one
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      dialog.close();
      sessionStorage.setItem(KEY_NAME, field.value.trim());
      keyAsked = null;
      before?.focus();
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return keyAsked.then(() => signal?.throwIfAborted());
}
