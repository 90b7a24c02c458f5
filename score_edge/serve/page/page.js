// The page: connects to the server, and gives what it says to cameras, alerts and the question box.

import { addAlert, setAlerts } from "./alerts.js";
import { Ask } from "./ask.js";
import { Cameras } from "./cameras.js";
import { events, json, request } from "./server.js";

const SILENT_MS = 40_000; // the server says something every 15 s
const FIRST_WAIT_MS = 500, LONGEST_WAIT_MS = 15_000;
const connection = document.getElementById("connection");
const ask = new Ask();
const cameras = new Cameras(() => summarise());
let model = "";
let reached = false;
let waitMs = FIRST_WAIT_MS;

function summarise() {
  const states = [...cameras.all.values()].map((camera) => camera.data.state);
  const counts = ["live", "connecting", "lost", "paused"]
    .map((state) => [states.filter((other) => other === state).length, state])
    .filter(([count]) => count)
    .map(([count, state]) => `${count} ${state}`);
  const text = reached ? counts.join(", ") || "ready" : "not connected, trying again";
  if (connection.textContent !== text) connection.textContent = text;
  connection.className = reached ? (states.includes("lost") ? "bad" : "good") : "bad";
  ask.offer(model, [...cameras.all.keys()]);
}

async function watch() {
  const stopping = new AbortController();
  let silent;
  const heard = () => {
    clearTimeout(silent);
    silent = setTimeout(() => stopping.abort(), SILENT_MS);
  };
  try {
    heard();
    const stream = await request("live/events", { signal: stopping.signal });
    const live = await json("live");
    model = live.model;
    reached = true;
    waitMs = FIRST_WAIT_MS;
    connection.title = "";
    document.getElementById("model").textContent = model;
    document.querySelectorAll(".bundle").forEach((place) => (place.textContent = model));
    cameras.set(live.cameras);
    setAlerts((await json("live/alerts")).alerts);
    for await (const [kind, data] of events(stream)) {
      heard();
      if (kind === "camera") cameras.take(JSON.parse(data));
      else if (kind === "alert") {
        const alert = JSON.parse(data);
        addAlert(alert);
        cameras.all.get(alert.camera)?.surprised();
      }
    }
  } finally {
    clearTimeout(silent);
    stopping.abort();
    reached = false;
    cameras.away();
    summarise();
  }
}

function chooseTheme() {
  const button = document.getElementById("theme");
  const themes = ["system", "dark", "light"];
  const show = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const words = { system: "as the system has them", dark: "dark", light: "light" }[theme];
    button.setAttribute("aria-label", `Colours: ${words}`);
    button.title = `Colours: ${words}`;
  };
  let theme = localStorage.getItem("score-edge colours");
  if (!themes.includes(theme)) theme = "system";
  show(theme);
  button.onclick = () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    localStorage.setItem("score-edge colours", theme);
    show(theme);
  };
}

chooseTheme();
for (;;) {
  try {
    await watch();
  } catch (error) {
    connection.title = error.message;
  }
  await new Promise((resolve) => setTimeout(resolve, waitMs));
  waitMs = Math.min(waitMs * 2, LONGEST_WAIT_MS);
}
