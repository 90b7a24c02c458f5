// What surprised the cameras, newest first.

import { Failed, picture } from "./server.js";
import { element } from "./words.js";

const MOST = 100;
const list = document.querySelector("#alerts ol");
const large = document.getElementById("large");
large.querySelector("button").onclick = () => large.close();

const time = (text) => {
  const at = new Date(text);
  const today = at.toDateString() === new Date().toDateString();
  return at.toLocaleString([], today ? { timeStyle: "medium" } : { dateStyle: "medium", timeStyle: "short" });
};

export function setAlerts(alerts) {
  list.querySelectorAll("img").forEach(forget);
  list.replaceChildren();
  [...alerts].reverse().forEach(addAlert);
}

// An alert, or what was answered about one that is there already.
export function addAlert(alert) {
  const known = [...list.children].find((item) => item.dataset.id === alert.id);
  if (known) {
    if (alert.text) known.querySelector(".text").textContent = alert.text;
    return;
  }
  const item = element("li");
  item.dataset.id = alert.id;
  const button = element("button");
  button.type = "button";
  const image = element("img");
  image.alt = "";
  const words = element("span");
  const head = element("span", "", "");
  head.append(element("b", "", alert.camera), element("span", "quiet", ` · ${time(alert.time)} · ${alert.surprise.toFixed(1)} × usual`));
  words.append(head, element("br"), element("span", "text", alert.text ?? ""));
  button.append(image, words);
  button.onclick = () => enlarge(alert, image.src, item.querySelector(".text").textContent);
  item.append(button);
  list.prepend(item);
  while (list.children.length > MOST) {
    forget(list.lastElementChild.querySelector("img"));
    list.lastElementChild.remove();
  }
  document.querySelector("#alerts .none").hidden = true;
  load(image, alert.id);
}

async function load(image, id) {
  try {
    image.src = await picture(`live/alerts/${encodeURIComponent(id)}.jpg`);
  } catch (error) {
    if (!(error instanceof Failed)) throw error; // its picture is there no more
  }
}

function forget(image) {
  if (image.src) URL.revokeObjectURL(image.src);
}

function enlarge(alert, address, text) {
  const image = large.querySelector("img");
  if (address) image.src = address;
  image.hidden = !address;
  image.alt = `What ${alert.camera} saw`;
  large.querySelector("p").textContent = `${alert.camera}, ${time(alert.time)}, ${alert.surprise.toFixed(1)} times usual. ${text}`;
  large.showModal();
}
