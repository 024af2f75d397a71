// Four ways to read a text, played back on one time axis.

import { latest, lines } from "./api.js";
import { choose, COLOURS, element, ms, percent, Player, svg, ticks } from "./draw.js";

const HEIGHT = 34;

/** One contender: its words, and a bar for each prediction, as wide and as high as its compute. */
class Lane {
  constructor(recording, colour, text, duration, tallest) {
    this.moments = recording.moments;
    this.follows = this.moments.length > 1 || (this.moments[0]?.element ?? "") !== "";
    this.rereads = this.follows && this.moments.some((moment) => moment.computed_elements > 1);
    const words = this.follows ? this.moments.map((moment) => moment.element) : text.split(/\s+/).filter(Boolean);
    this.words = words.map((word) => element("span", {}, word));
    this.sums = element("span", { class: "sums" });
    this.answer = element("span", { class: "answer" });
    this.bars = this.moments.length ? this.strip(duration, tallest) : element("p", { class: "muted" }, recording.note);
    this.row = element(
      "article",
      { class: "lane", colour },
      element("header", {}, element("span", { class: "who" }, recording.contender.way), element("span", { class: "muted" }, recording.contender.model), this.answer, this.sums),
      element("p", { class: "words" }, ...this.words.flatMap((word) => [word, " "])),
      this.bars,
    );
  }

  strip(duration, tallest) {
    const x = (seconds) => (seconds / duration) * 1000;
    const bars = () =>
      this.moments.map((moment) => {
        const height = Math.max(2, (moment.compute_s / tallest) * HEIGHT);
        const width = Math.max(3, x(moment.compute_s));
        return svg("rect", { class: "mark", x: Math.max(0, x(moment.at_s) - width), width, y: HEIGHT - height, height });
      });
    const id = `until-${Math.random().toString(36).slice(2)}`;
    this.until = svg("rect", { x: 0, y: 0, width: 0, height: HEIGHT });
    this.head = svg("line", { class: "head", y1: 0, y2: HEIGHT, "vector-effect": "non-scaling-stroke" });
    this.x = x;
    return svg(
      "svg",
      { viewBox: `0 0 1000 ${HEIGHT}`, height: HEIGHT, preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("clipPath", { id }, this.until),
      svg("line", { class: "axis", x1: 0, x2: 1000, y1: HEIGHT, y2: HEIGHT, "vector-effect": "non-scaling-stroke" }),
      svg("g", { class: "ahead" }, ...bars()),
      svg("g", { "clip-path": `url(#${id})` }, ...bars()),
      this.head,
    );
  }

  draw(time) {
    if (!this.moments.length) return;
    const known = this.moments.filter((moment) => moment.at_s <= time);
    const read = this.follows ? known.length : known.length * this.words.length;
    const done = known.length === this.moments.length;
    const from = this.follows && !this.rereads ? read : 0;
    this.words.forEach((word, index) => {
      const now = !done && index >= from && index <= (this.follows ? read : this.words.length);
      word.className = now ? "now" : index < read ? "read" : "";
    });
    const compute = known.reduce((sum, moment) => sum + moment.compute_s, 0);
    const each = known.length > 1 ? `, ${ms(compute / known.length)} each` : "";
    this.sums.textContent = `${known.length} of ${this.moments.length} predictions · compute ${ms(compute)}${each}`;
    const answer = known.at(-1)?.answer;
    this.answer.textContent = answer ? `${answer.name} ${percent(answer.probability)}` : "…";
    this.until.setAttribute("width", this.x(time));
    for (const end of ["x1", "x2"]) this.head.setAttribute(end, this.x(time));
  }
}

export function race(section) {
  const form = section.querySelector("form");
  const place = section.querySelector(".lanes");
  const reading = section.querySelector(".reading");
  let lanes = [];
  const player = new Player(section.querySelector(".player"), (time) => lanes.forEach((lane) => lane.draw(time)));
  const run = latest(section);

  form.onsubmit = (event) => {
    event.preventDefault();
    const wanted = Object.fromEntries(new FormData(form));
    run(async (signal) => {
      const recordings = [];
      player.clear();
      reading.textContent = "Each runs three times, after a warm-up. The run of median duration is shown.";
      for await (const line of lines("race", wanted, signal)) {
        if (line.sentences) reading.textContent = line.sentences.join(" ");
        else recordings.push(line);
      }
      const moments = recordings.flatMap((one) => one.moments);
      const duration = Math.max(...moments.map((moment) => moment.at_s), 1e-6);
      const tallest = Math.max(...moments.map((moment) => moment.compute_s), 1e-9);
      lanes = recordings.map((one, index) => new Lane(one, COLOURS[index % COLOURS.length], wanted.text, duration, tallest));
      place.replaceChildren(...lanes.map((lane) => lane.row), ticks(duration));
      player.load(duration);
    });
  };

  return {
    models: ({ recurrent, attentive }) => {
      choose(form.recurrent, recurrent, "sentiment-lstm");
      choose(form.transformer, attentive, "sentiment-transformer");
    },
    leave: () => player.pause(),
  };
}
