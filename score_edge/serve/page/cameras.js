// The cameras: pictures, figures, and what can be done to each.

import { Chart } from "./chart.js";
import { Failed, picture, send } from "./server.js";
import { element, since, tell } from "./words.js";

const STAGES = ["preprocess", "encode", "select", "prefill"]; // some are missing where nothing changed
const PICTURE_MS = 500;
const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(part && part < whole ? 1 : 0)} %` : "–");

class Camera {
  constructor(name) {
    this.name = name;
    this.element = document.getElementById("camera").content.firstElementChild.cloneNode(true);
    this.chart = new Chart(this.find("svg"));
    this.image = this.find("img");
    this.image.onload = () => this.image.classList.toggle("tiny", this.image.naturalWidth < 200);
    this.shown = -1; // step of the picture
    this.fetched = 0;
    this.visible = true;
    this.element.setAttribute("aria-label", `Camera ${name}`);
    this.find(".name").textContent = name;
    this.find(".pause").onclick = () => this.act(() => send("POST", this.path(this.data.state === "paused" ? "resume" : "pause")));
    this.find(".paint").onclick = (event) => this.paint(event.currentTarget);
    this.find(".snapshot").onclick = () => this.act(() => this.download(0));
    this.find(".overlay").onclick = () => this.act(() => this.download(1));
    this.find(".limit").onchange = (event) => this.limit(event.currentTarget);
    for (const kind of ["snapshot", "overlay"])
      this.find(`.${kind}`).setAttribute("aria-label", `Download ${kind} of ${name}`);
    this.find(".paint").setAttribute("aria-label", `Kept tokens in the picture of ${name}`);
    this.find(".limit").setAttribute("aria-label", `Alert when ${name} is more surprised than`);
    for (const _ of STAGES) {
      this.find(".stages div").append(element("i"));
      this.find(".legend").append(element("li"));
    }
    new IntersectionObserver(([entry]) => (this.visible = entry.isIntersecting)).observe(this.element);
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  path(what) {
    return `live/${encodeURIComponent(this.name)}/${what}`;
  }

  get age() {
    const { frame_age_s: age } = this.data;
    return age == null ? null : age + (Date.now() - this.at) / 1000;
  }

  // Take a Camera of the server in.
  take(data) {
    const fresh = data.steps !== this.data?.steps;
    this.data = data;
    this.at = Date.now();
    if (fresh && data.surprise != null) this.chart.add(data.surprise);
    this.show();
    if (fresh) this.look();
  }

  show() {
    const data = this.data;
    const put = (selector, text) => {
      const element = this.find(selector);
      if (element.textContent !== text) element.textContent = text;
    };
    this.element.dataset.state = data.state;
    if (data.width && data.height) this.find(".view").style.aspectRatio = Math.min(2, Math.max(4 / 3, data.width / data.height));
    put(".kept", percent(data.kept, data.cells));
    put(".encoded", percent(data.encoded, data.cells));
    put(".steps", data.steps.toLocaleString("en"));
    put(".drops", data.drops.toLocaleString("en"));
    put(".now", data.surprise == null ? "–" : `${data.surprise.toFixed(2)} ×`);
    put(".pause", data.state === "paused" ? "Resume" : "Pause");
    this.find(".pause").setAttribute("aria-label", `${this.find(".pause").textContent} ${this.name}`);
    const meter = this.find(".kv [role=meter]");
    meter.setAttribute("aria-valuemax", data.kv_limit);
    meter.setAttribute("aria-valuenow", data.kv);
    meter.firstElementChild.style.width = `${data.kv_limit ? (100 * data.kv) / data.kv_limit : 0}%`;
    put(".kv .value", `${data.kv.toLocaleString("en")} of ${data.kv_limit.toLocaleString("en")}`);
    this.stages(data.stages_ms ?? {});
    const limit = this.find(".limit");
    if (limit !== document.activeElement) limit.value = data.threshold ?? "";
    this.tick();
  }

  // What changes with time alone.
  tick() {
    if (!this.data) return;
    const { state, reason } = this.data;
    const age = this.age;
    const old = age == null ? "" : ` · ${since(age)} ago`;
    this.find(".state").textContent = state === "live" ? "live" : `${state}${state === "connecting" ? "" : old}`;
    this.find(".reason").textContent = state === "lost" || state === "connecting" ? (reason ?? "") : "";
    this.find(".age").textContent = age == null ? "–" : since(age);
    this.image.alt = this.image.src ? `Newest picture of ${this.name}${age > 3 ? `, ${since(age)} old` : ""}` : "";
    this.chart.draw(this.data.threshold);
  }

  stages(times) {
    const [bar, legend] = [this.find(".stages div"), this.find(".legend")];
    const whole = STAGES.reduce((sum, stage) => sum + (times[stage] ?? 0), 0);
    STAGES.forEach((stage, i) => {
      bar.children[i].style.width = `${(100 * (times[stage] ?? 0)) / (whole || 1)}%`;
      legend.children[i].textContent = `${stage} ${times[stage]?.toFixed(1) ?? "–"}`;
    });
    this.find(".stages .value").textContent = whole ? `${whole.toFixed(1)} ms` : "–";
  }

  // Fetch the newest picture, not too often, and none that nobody sees.
  async look() {
    if (this.busy || !this.visible || document.hidden || !this.data.steps || this.data.steps === this.shown) return;
    this.busy = true;
    const wait = this.fetched + PICTURE_MS - Date.now();
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    this.fetched = Date.now();
    const steps = this.data.steps;
    try {
      this.put(await picture(this.path(`picture.jpg?paint=${this.painted ? 1 : 0}`)));
      this.shown = steps;
    } catch (error) {
      if (!(error instanceof Failed)) throw error; // the next one may come
    } finally {
      this.busy = false;
    }
  }

  get painted() {
    return this.find(".paint").getAttribute("aria-pressed") === "true";
  }

  put(address) {
    if (this.image.src) URL.revokeObjectURL(this.image.src);
    this.image.src = address;
  }

  paint(button) {
    button.setAttribute("aria-pressed", String(!this.painted));
    this.shown = -1;
    this.look();
  }

  async download(paint) {
    const link = document.createElement("a");
    link.href = await picture(this.path(`picture.jpg?paint=${paint}`));
    const when = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
    link.download = `${this.name}-${when}${paint ? "-overlay" : ""}.jpg`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  limit(field) {
    if (!field.checkValidity()) return tell("A threshold is a number above 0; empty means no alerts.");
    const surprise = field.value === "" ? null : Number(field.value);
    this.act(() => send("PUT", this.path("threshold"), { surprise }));
  }

  async act(what) {
    try {
      await what();
    } catch (error) {
      tell(error.message);
    }
  }

  surprised() {
    this.element.classList.add("surprised");
    clearTimeout(this.calm);
    this.calm = setTimeout(() => this.element.classList.remove("surprised"), 5000);
  }
}

export class Cameras {
  constructor(onChange) {
    this.all = new Map();
    this.onChange = onChange;
    setInterval(() => this.all.forEach((camera) => camera.tick()), 1000);
    document.addEventListener("visibilitychange", () => this.all.forEach((camera) => camera.look()));
  }

  // All of them, as the server lists them.
  set(list) {
    for (const [name, camera] of this.all)
      if (!list.some((data) => data.name === name)) {
        camera.element.remove();
        this.all.delete(name);
      }
    list.forEach((data) => this.take(data));
    document.getElementById("nothing").hidden = list.length > 0;
    document.getElementById("alerts").hidden = list.length === 0;
    this.onChange();
  }

  // The server is away: what was live is known no more.
  away() {
    for (const camera of this.all.values()) {
      camera.data.state = "unknown";
      camera.show();
    }
  }

  take(data) {
    let camera = this.all.get(data.name);
    const state = camera?.data.state;
    if (!camera) {
      this.all.set(data.name, (camera = new Camera(data.name)));
      document.getElementById("cameras").append(camera.element);
    }
    camera.take(data);
    if (state !== data.state) this.onChange();
  }
}
