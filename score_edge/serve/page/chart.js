// Surprise over the last two minutes, as a small line; from the left as soon as there is half a minute of it.

const WIDTH = 240, HEIGHT = 44, LONGEST_MS = 120_000, SHORTEST_MS = 30_000;

export class Chart {
  constructor(svg) {
    this.svg = svg;
    this.points = [];
  }

  add(value) {
    const now = Date.now();
    this.points.push([now, value]);
    while (this.points[0][0] < now - LONGEST_MS) this.points.shift();
  }

  draw(threshold) {
    const now = Date.now();
    const span = Math.min(LONGEST_MS, Math.max(SHORTEST_MS, now - (this.points[0]?.[0] ?? now)));
    const top = Math.max(1e-6, ...this.points.map((point) => point[1]), (threshold ?? 0) * 1.25);
    const y = (value) => (HEIGHT - 2 - (value / top) * (HEIGHT - 6)).toFixed(1);
    const places = this.points.map(([at, value]) => `${(WIDTH - ((now - at) / span) * WIDTH).toFixed(1)} ${y(value)}`);
    const line = places.length ? `M${places.join("L")}` : "";
    const [first, last] = [places[0], places.at(-1)].map((place) => place?.split(" ")[0]);
    this.svg.querySelector(".line").setAttribute("d", line);
    this.svg.querySelector(".area").setAttribute("d", line && `${line}L${last} ${HEIGHT}L${first} ${HEIGHT}Z`);
    const limit = this.svg.querySelector(".threshold");
    limit.style.display = threshold == null ? "none" : "";
    limit.setAttribute("y1", y(threshold ?? 0));
    limit.setAttribute("y2", y(threshold ?? 0));
    const newest = this.points.at(-1);
    const above = threshold == null ? "no alerts" : `alert above ${threshold}`;
    this.svg.setAttribute("aria-label", `Surprise over two minutes, now ${newest ? `${newest[1].toFixed(2)} times usual` : "unknown"}, ${above}`);
  }
}
