// Talking to the server: the key, requests, server-sent events. Paths are relative, so a proxy may put it anywhere.

const dialog = document.getElementById("key");
const STORED = "score-edge key";
let asking = null;

export class Failed extends Error {}

function headers(more = {}) {
  const key = sessionStorage.getItem(STORED);
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

// Ask for the key, once for all requests that wait for it.
function askForKey(wrong) {
  asking ??= new Promise((resolve) => {
    document.getElementById("key-wrong").textContent = wrong ? "This is not the key." : "";
    const form = dialog.querySelector("form");
    const field = document.getElementById("key-text");
    field.value = "";
    dialog.oncancel = (event) => event.preventDefault();
    dialog.onclose = () => asking && !dialog.open && dialog.showModal(); // a second Escape closes it all the same
    form.onsubmit = (event) => {
      event.preventDefault();
      const key = field.value.trim();
      field.value = "";
      if (!/^[!-~]+$/.test(key)) { // no header carries it
        document.getElementById("key-wrong").textContent = "This is not the key.";
        return;
      }
      sessionStorage.setItem(STORED, key);
      asking = null;
      dialog.close();
      resolve();
    };
    dialog.showModal();
  });
  return asking;
}

// A response that is all right; asks for the key where one is wanted. Throws Failed with words for people.
export async function request(path, options = {}) {
  for (;;) {
    const sent = sessionStorage.getItem(STORED);
    let response;
    try {
      response = await fetch(path, { ...options, headers: headers(options.headers), cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failed("The server cannot be reached.");
    }
    if (response.status === 401) {
      if (sent === sessionStorage.getItem(STORED)) await askForKey(Boolean(sent));
      continue;
    }
    if (response.ok) return response;
    const body = await response.json().catch(() => ({}));
    const failed = new Failed(body.error?.message ?? `The server says ${response.status}.`);
    failed.status = response.status;
    throw failed;
  }
}

export const json = async (path) => (await request(path)).json();

export const send = (method, path, body = {}) =>
  request(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

// A picture as an address for <img>; whoever gets it revokes it.
export const picture = async (path) => URL.createObjectURL(await (await request(path)).blob());

// The events of a response, as [name, data].
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value.replaceAll("\r", "");
      let end;
      while ((end = text.indexOf("\n\n")) >= 0) {
        const lines = text.slice(0, end).split("\n");
        text = text.slice(end + 2);
        const field = (name) =>
          lines.filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trimStart());
        const data = field("data").join("\n");
        if (data) yield [field("event")[0] ?? "message", data];
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
