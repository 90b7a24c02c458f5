// Questions: to a camera, to all of them, or about pictures that were dropped; the answer streams in.

import { events, request } from "./server.js";
import { element, since, tell } from "./words.js";

const find = (id) => document.getElementById(id);
const OLD_S = 3;
const MOST = 50;

export class Ask {
  constructor() {
    this.model = "";
    this.pictures = [];
    find("ask-form").onsubmit = (event) => this.submit(event);
    find("question").onkeydown = (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        find("ask-form").requestSubmit();
      }
    };
    find("stop").onclick = () => this.stopping?.abort();
    find("files").onchange = (event) => {
      this.add(event.currentTarget.files);
      event.currentTarget.value = "";
    };
    find("no-pictures").onclick = () => this.clear();
    this.listenForDrops(find("ask"));
    document.addEventListener("paste", (event) => this.add(event.clipboardData.files));
    document.addEventListener("keydown", (event) => {
      if (event.key === "/" && !event.target.closest("input, textarea, select, dialog")) {
        event.preventDefault();
        find("question").focus();
      }
    });
  }

  // Who can be asked.
  offer(model, names) {
    this.model = model;
    this.names = names;
    const whom = find("whom");
    const before = whom.value;
    const choices = names.map((name) => [name, name]);
    if (names.length > 1) choices.push(["all", "All cameras"]);
    const pictures = this.pictures.length;
    if (pictures) choices.unshift(["", `${pictures} picture${pictures > 1 ? "s" : ""}`]);
    whom.replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
    whom.hidden = choices.length === 0;
    if (choices.some(([value]) => value === before)) whom.value = before;
  }

  listenForDrops(area) {
    for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
    document.addEventListener("dragover", () => area.classList.add("dropping"));
    for (const kind of ["dragleave", "drop"])
      document.addEventListener(kind, (event) => {
        if (kind === "drop" || !event.relatedTarget) area.classList.remove("dropping");
      });
    document.addEventListener("drop", (event) => this.add(event.dataTransfer.files));
  }

  add(files) {
    const taken = [...files].filter((file) => ["image/jpeg", "image/png", "image/webp"].includes(file.type));
    if (taken.length < files.length) tell("Only JPEG, PNG and WebP pictures can be asked about.");
    taken.sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
    this.pictures.push(...taken.map((file) => ({ file, address: URL.createObjectURL(file) })));
    this.showPictures();
    if (taken.length) {
      find("whom").value = "";
      find("question").focus();
    }
  }

  clear() {
    this.pictures.forEach(({ address }) => URL.revokeObjectURL(address));
    this.pictures = [];
    this.showPictures();
    find("question").focus();
  }

  showPictures() {
    const list = find("pictures").querySelector("ol");
    list.replaceChildren(
      ...this.pictures.map((picture, i) => {
        const item = element("li");
        const button = element("button", "picture");
        button.type = "button";
        button.title = `Remove ${picture.file.name}`;
        button.setAttribute("aria-label", `Remove picture ${i + 1}, ${picture.file.name}`);
        const image = element("img");
        image.src = picture.address;
        image.alt = "";
        button.append(image);
        button.onclick = () => {
          URL.revokeObjectURL(picture.address);
          this.pictures = this.pictures.filter((other) => other !== picture);
          this.showPictures();
          (list.querySelectorAll("button")[Math.min(i, this.pictures.length - 1)] ?? find("question")).focus();
        };
        item.append(button);
        return item;
      }),
    );
    find("pictures").hidden = this.pictures.length === 0;
    this.offer(this.model, this.names ?? []);
  }

  async submit(event) {
    event.preventDefault();
    const question = find("question").value.trim();
    if (!question || this.stopping) return;
    const whom = find("whom").value;
    const about = whom || (this.pictures.length ? "pictures" : "");
    const entry = element("article");
    entry.setAttribute("aria-busy", "true");
    const asked = element("p", "asked");
    if (about) asked.append(element("b", "", whom === "all" ? "all cameras" : about), " · ");
    asked.append(question);
    const text = element("p", "text");
    const cost = element("p", "cost");
    entry.append(asked, text, cost);
    find("answers").prepend(entry);
    while (find("answers").children.length > MOST) find("answers").lastElementChild.remove();
    this.stopping = new AbortController();
    find("send").hidden = true;
    find("stop").hidden = false;
    try {
      await this.answer(question, whom, text, cost);
      find("question").select();
    } catch (error) {
      cost.textContent = error.name === "AbortError" ? "stopped" : error.message;
      if (error.name !== "AbortError") cost.classList.add("failed");
    } finally {
      entry.setAttribute("aria-busy", "false");
      this.stopping = null;
      const focused = document.activeElement === find("stop");
      find("stop").hidden = true;
      find("send").hidden = false;
      if (focused) find("send").focus();
    }
  }

  async answer(question, whom, text, cost) {
    const began = performance.now();
    const content = whom ? question : [...(await this.parts()), { type: "text", text: question }];
    const response = await request("v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      signal: this.stopping.signal,
      body: JSON.stringify({
        model: whom ? `${this.model}@${whom}` : this.model,
        messages: [{ role: "user", content }],
        stream: true,
        stream_options: { include_usage: true },
      }),
    });
    const age = response.headers.get("X-Frame-Age");
    let first;
    const told = [];
    for await (const [, data] of events(response)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      const piece = chunk.choices[0]?.delta?.content;
      if (piece) {
        first ??= performance.now();
        text.textContent += piece;
      }
      if (chunk.choices[0]?.finish_reason === "length") told.push("cut off");
      if (chunk.usage) told.push(`${chunk.usage.completion_tokens} tokens`);
    }
    if (!text.textContent) text.textContent = "(no words)";
    if (first) told.unshift(`first word ${((first - began) / 1000).toFixed(2)} s`);
    cost.textContent = told.join(" · ");
    if (age != null) {
      const old = element("span", Number(age) > OLD_S ? "old" : "", `newest picture ${since(Number(age))} old`);
      cost.prepend(old, told.length ? " · " : "");
    }
  }

  parts() {
    return Promise.all(
      this.pictures.map(
        ({ file }) =>
          new Promise((resolve, reject) => {
            const reader = new FileReader();
            reader.onload = () => resolve({ type: "image_url", image_url: { url: reader.result } });
            reader.onerror = () => reject(new Error(`${file.name} cannot be read.`));
            reader.readAsDataURL(file);
          }),
      ),
    );
  }
}
