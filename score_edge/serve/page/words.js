// Words for people: times, troubles.

export function since(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

const trouble = document.getElementById("trouble");
let timer;

export function tell(text) {
  trouble.textContent = text;
  trouble.hidden = false;
  clearTimeout(timer);
  timer = setTimeout(() => (trouble.hidden = true), 6000);
}

export function element(kind, name, text = "") {
  const made = document.createElement(kind);
  if (name) made.className = name;
  made.textContent = text;
  return made;
}
