// What several views draw: elements, numbers, charts, and the player of a recording.

export const COLOURS = ["--a", "--b", "--c", "--d"];
const SVG = "http://www.w3.org/2000/svg";

/** An HTML element; `properties` are set as properties, `class`, `style` and names with a dash as attributes. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "colour") made.style.setProperty("--colour", `var(${value})`);
    else if (name === "class" || name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** Seconds as milliseconds, with three digits. */
export function ms(seconds) {
  const value = seconds * 1e3;
  return `${value >= 100 ? Math.round(value).toLocaleString("en") : value.toPrecision(value < 0.01 ? 1 : 3).replace(/\.?0+$/, "") || 0} ms`;
}

export const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.0995 ? 1 : 0)} %`;

/** Text of a token that can be seen. Some tokenizers mark the start of a word by ▁. */
export const visible = (text) => text.replace(/^▁/, text === "▁" ? " " : "").replace(/\n/g, "⏎").replace(/^ +$/, (spaces) => "␣".repeat(spaces.length)) || "∅";

/** A horizontal bar of a share between 0 and 1. */
export function meter(share, kind = "") {
  const full = element("span");
  full.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return element("div", { class: `meter ${kind}` }, full);
}

/** A chart of bars; `points` are [{name, value, shown}]. */
export function chart(points, { about }) {
  const width = 340, height = 150, left = 8, bottom = 34, top = 18;
  const most = Math.max(...points.map((point) => point.value), Number.MIN_VALUE);
  const step = (width - 2 * left) / Math.max(points.length, 1);
  const x = (index) => left + step * (index + 0.5);
  const y = (value) => height - bottom - (height - bottom - top) * (value / most);
  const base = height - bottom;
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": about });
  drawn.append(svg("line", { class: "axis", x1: left, x2: width - left, y1: base, y2: base }));
  const named = Math.ceil(points.length / 8);
  points.forEach((point, index) => {
    const title = svg("title", {}, `${point.name}: ${point.shown}`);
    const mark = svg("rect", { class: "mark", x: x(index) - step * 0.35, width: step * 0.7, y: y(point.value), height: base - y(point.value) }, title);
    drawn.append(mark);
    if (index % named) return;
    drawn.append(svg("text", { x: x(index), y: height - bottom + 15, "text-anchor": "middle" }, `${point.name}`));
    drawn.append(svg("text", { x: x(index), y: y(point.value) - 6, "text-anchor": "middle" }, point.shown));
  });
  return drawn;
}

/** Lines through points on logarithmic axes; `series` are [{name, points: [{x, y, shown}]}]. */
export function curves(series, { across, about }) {
  const width = 340, height = 150, left = 8, right = 60, bottom = 34, top = 18;
  const all = series.flatMap((one) => one.points);
  const range = (values) => [Math.log(Math.min(...values)), Math.log(Math.max(...values))];
  const [x0, x1] = range(all.map((point) => point.x)), [y0, y1] = range(all.map((point) => point.y));
  const x = (value) => left + 20 + (width - left - right - 20) * (x1 > x0 ? (Math.log(value) - x0) / (x1 - x0) : 0);
  const y = (value) => height - bottom - (height - bottom - top) * (y1 > y0 ? 0.08 + 0.92 * ((Math.log(value) - y0) / (y1 - y0)) : 0.5);
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": about });
  drawn.append(svg("line", { class: "axis", x1: left, x2: width - left, y1: height - bottom, y2: height - bottom }));
  for (const value of new Set(all.map((point) => point.x))) drawn.append(svg("text", { x: x(value), y: height - bottom + 15, "text-anchor": "middle" }, `${value}`));
  drawn.append(svg("text", { x: width - left, y: height - 3, "text-anchor": "end" }, across));
  series.forEach(({ name, points }, index) => {
    const colour = `var(${COLOURS[index % COLOURS.length]})`;
    const path = points.map((point, at) => `${at ? "L" : "M"}${x(point.x)} ${y(point.y)}`).join("");
    drawn.append(svg("path", { d: path, fill: "none", stroke: colour, "stroke-width": 2 }));
    for (const point of points) drawn.append(svg("circle", { cx: x(point.x), cy: y(point.y), r: 3.5, fill: colour }, svg("title", {}, `${name} ${point.x} ${across}: ${point.shown}`)));
    const last = points.at(-1);
    drawn.append(svg("text", { x: x(last.x) + 7, y: y(last.y) + 4 }, name || last.shown));
    if (points.length > 1) drawn.append(svg("text", { x: x(points[0].x), y: y(points[0].y) - 7, "text-anchor": "middle" }, index ? "" : points[0].shown));
  });
  return drawn;
}

/** Labels below a time axis of `duration` seconds. */
export function ticks(duration) {
  return element("div", { class: "ticks number muted" }, ...[0, 0.25, 0.5, 0.75, 1].map((share) => element("span", {}, ms(share * duration))));
}

const SLOWER = [1, 3, 10, 30, 100, 300, 1000];
const SHOWN_S = 5;
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** Plays the time of a recording back: `draw(seconds)` draws what was known at that time. */
export class Player {
  constructor(place, draw) {
    this.draw = draw;
    this.duration = this.time = 0;
    this.button = element("button", { type: "button", disabled: true, onclick: () => this.toggle() }, "Play");
    this.slider = element("input", { type: "range", min: 0, max: 1000, value: 0, disabled: true, "aria-label": "Time" });
    this.slider.oninput = () => this.pause(this.seek((this.slider.value / 1000) * this.duration));
    this.speed = element("select", { "aria-label": "Speed", disabled: true });
    for (const factor of SLOWER) this.speed.append(new Option(factor === 1 ? "real time" : `${factor} × slower`, factor));
    this.clock = element("span", { class: "clock" }, "–");
    place.append(this.button, this.slider, this.speed, this.clock);
  }

  /** Take over a recording of so many seconds, and play it. */
  load(duration) {
    this.duration = duration;
    for (const control of [this.button, this.slider, this.speed]) control.disabled = false;
    this.speed.value = SLOWER.find((factor) => factor * duration >= SHOWN_S) ?? SLOWER.at(-1);
    this.seek(still.matches ? duration : 0);
    if (!still.matches) this.play();
  }

  /** Nothing can be played until `load`. */
  clear() {
    this.pause();
    for (const control of [this.button, this.slider, this.speed]) control.disabled = true;
    this.clock.textContent = "–";
    this.slider.value = 0;
  }

  seek(time) {
    this.time = Math.min(time, this.duration);
    this.slider.value = (this.time / this.duration) * 1000;
    this.slider.setAttribute("aria-valuetext", ms(this.time));
    this.clock.textContent = `${ms(this.time)} of ${ms(this.duration)}`;
    this.draw(this.time);
  }

  toggle() {
    if (this.frame) this.pause();
    else this.play();
  }

  play() {
    if (this.time >= this.duration) this.seek(0);
    let before = performance.now();
    const next = (now) => {
      this.seek(this.time + (now - before) / 1000 / Number(this.speed.value));
      before = now;
      if (this.time >= this.duration) this.pause();
      else this.frame = requestAnimationFrame(next);
    };
    this.frame = requestAnimationFrame(next);
    this.button.textContent = "Pause";
  }

  pause() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.button.textContent = "Play";
  }
}

/** Move between the buttons of a group by arrow keys, Home and End: one of them is in the tab order. */
export function arrows(group) {
  group.addEventListener("keydown", (event) => {
    const all = [...group.querySelectorAll("button")];
    const at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    all[Math.max(0, Math.min(to, all.length - 1))].focus();
  });
  group.addEventListener("focusin", (event) => {
    for (const one of group.querySelectorAll("button")) one.tabIndex = one === event.target ? 0 : -1;
  });
}

/** Fill a list of models. It keeps what is chosen; `preferred` is chosen first. */
export function choose(list, models, preferred) {
  const names = [...new Set(models.map((model) => model.name))];
  const chosen = names.includes(list.value) ? list.value : names.includes(preferred) ? preferred : names[0];
  list.replaceChildren(...names.map((name) => new Option(name, name)));
  list.value = chosen ?? "";
  list.disabled = names.length === 0;
  if (!names.length) list.append(new Option("no such model is ready", ""));
}
