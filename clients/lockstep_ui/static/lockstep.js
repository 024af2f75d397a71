// Streams of one model that write at the same time, as lanes of the batch that its steps advance.

import { latest, lines, show } from "./api.js";
import { choose, COLOURS, element, Player, ticks } from "./draw.js";

const ROW = 20, TOP = 54;
const SHOWN = 90;

/** What arrived, by lane. */
class Recording {
  constructor(count) {
    this.lanes = Array.from({ length: count }, () => ({ joined: Infinity, left: Infinity, arrivals: [] }));
    this.duration = 0;
  }

  add(event) {
    const lane = this.lanes[event.lane];
    if (event.joined) lane.joined = event.at_s;
    if (event.tokens) lane.arrivals.push(event);
    if (event.reason) Object.assign(lane, { left: event.at_s, reason: event.reason, rows: event.rows ?? 0, steps: event.steps ?? 0 });
    this.duration = Math.max(this.duration, event.at_s);
  }

  /** Take the times of the server's runs instead of those of arrivals. False if a stream's runs are not complete. */
  use(runs) {
    const own = this.lanes.map((_, lane) => runs.filter((run) => run.lanes.includes(lane)));
    const tokens = this.lanes.map((lane) => lane.arrivals.reduce((sum, one) => sum + one.tokens, 0));
    if (!runs.length || own.some((some, lane) => some.length < tokens[lane])) return false;
    const end = (run) => run.begun_s + run.seconds;
    this.lanes.forEach((lane, index) => {
      const first = own[index].length - tokens[index]; // runs before it read the prompt
      lane.arrivals = lane.arrivals.flatMap(split).map((one, at) => ({ ...one, at_s: end(own[index][first + at]) }));
      if (own[index].length) Object.assign(lane, { joined: own[index][0].begun_s, left: end(own[index].at(-1)) });
    });
    this.alone = own.reduce((sum, some) => sum + some.length, 0);
    this.runs = runs;
    this.duration = Math.max(...runs.map(end));
    return true;
  }

  writing(time) {
    return this.lanes.filter((lane) => lane.joined <= time && time < lane.left).length;
  }

  tokens(time) {
    return this.lanes.reduce((sum, lane) => sum + lane.arrivals.reduce((own, one) => own + (one.at_s <= time ? one.tokens : 0), 0), 0);
  }
}

/** A message of several tokens as one for each. Its text stands at the last one, unless tokens are characters. */
function split(arrival) {
  const characters = [...(arrival.text ?? "")];
  const each = characters.length === arrival.tokens;
  return Array.from({ length: arrival.tokens }, (_, at) => ({ tokens: 1, text: each ? characters[at] : at === arrival.tokens - 1 ? arrival.text : "" }));
}

/** The canvas: above, how many streams write; below, a lane for each, with a mark per token. */
class Picture {
  constructor(canvas) {
    this.canvas = canvas;
    this.recording = new Recording(0);
    this.time = 0;
    new ResizeObserver(() => this.draw(this.time)).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw(this.time));
  }

  draw(time) {
    this.time = time;
    const { canvas, recording } = this;
    const width = canvas.clientWidth, height = TOP + ROW * recording.lanes.length;
    const scale = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.height = `${height}px`;
    }
    const style = getComputedStyle(canvas);
    this.colour = (name) => style.getPropertyValue(name);
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!recording.duration) return;
    const x = (seconds) => (seconds / recording.duration) * (width - 3);
    this.counts(context, x, time);
    recording.lanes.forEach((lane, index) => this.lane(context, lane, index, x, time));
    context.fillStyle = this.colour("--ink");
    context.fillRect(x(time), 0, 1.5, height);
  }

  /** Above the lanes: a bar for each run, as high as its rows; or without a record, how many streams write. */
  counts(context, x, time) {
    const { recording } = this;
    const most = Math.max(recording.lanes.length, ...(recording.runs ?? []).map((run) => run.rows));
    for (const run of recording.runs ?? []) {
      const height = ((TOP - 20) * run.rows) / most;
      context.globalAlpha = run.begun_s <= time ? 1 : 0.3;
      context.fillStyle = this.colour("--strong");
      context.fillRect(x(run.begun_s), TOP - 6 - height, Math.max(1, x(run.seconds)), height);
    }
    context.globalAlpha = 1;
    if (recording.runs) return;
    const changes = recording.lanes.flatMap((lane) => [[lane.joined, 1], [lane.left, -1]]).filter(([at]) => at <= recording.duration).sort((a, b) => a[0] - b[0]);
    const unit = (TOP - 20) / Math.max(recording.lanes.length, 1);
    let writing = 0, from = 0;
    for (const [at, change] of [...changes, [recording.duration, 0]]) {
      context.globalAlpha = from <= time ? 1 : 0.3;
      context.fillStyle = this.colour("--strong");
      context.fillRect(x(from), TOP - 6 - writing * unit, Math.max(0, x(at) - x(from)), writing * unit);
      writing += change;
      from = at;
    }
    context.globalAlpha = 1;
  }

  lane(context, lane, index, x, time) {
    const top = TOP + ROW * index;
    if (lane.joined === Infinity) return;
    const end = Math.min(lane.left, this.recording.duration);
    context.fillStyle = this.colour("--line");
    context.fillRect(x(lane.joined), top + ROW / 2 - 1, Math.max(1, x(end) - x(lane.joined)), 2);
    context.fillStyle = this.colour(COLOURS[index % COLOURS.length]);
    for (const one of lane.arrivals) {
      context.globalAlpha = one.at_s <= time ? 1 : 0.25;
      context.fillRect(x(one.at_s), top + 3, Math.max(1.5, Math.min(3, one.tokens * 1.5)), ROW - 6);
    }
    context.globalAlpha = 1;
  }
}

export function lockstep(section) {
  const form = section.querySelector("form");
  const place = section.querySelector(".batch");
  const reading = section.querySelector(".reading");
  const run = latest(section);
  const canvas = element("canvas", { role: "img", "aria-label": "Tokens of each stream over time" });
  const writers = element("div", { class: "writers" });
  const below = element("div", {});
  place.append(element("div", { class: "drawn" }, canvas, below), writers);
  const picture = new Picture(canvas);
  let tails = [];

  const draw = (time) => {
    const { recording } = picture;
    picture.draw(time);
    recording.lanes.forEach((lane, index) => {
      const text = lane.arrivals.reduce((sum, one) => (one.at_s <= time ? sum + (one.text ?? "") : sum), "");
      tails[index].textContent = text.replace(/\n/g, "⏎").slice(-SHOWN);
    });
    writing.textContent = `${recording.writing(time)} of ${recording.lanes.length} write · ${recording.tokens(time).toLocaleString("en")} tokens`;
  };
  const player = new Player(section.querySelector(".player"), draw);
  const writing = element("span", { class: "number muted writing" });
  section.querySelector(".player").append(writing);

  form.onsubmit = (event) => {
    event.preventDefault();
    const wanted = { model: form.model.value, prompt: form.prompt.value, streams: Number(form.streams.value), max_tokens: Number(form.max_tokens.value) };
    run(async (signal) => {
      player.clear();
      const recording = (picture.recording = new Recording(wanted.streams));
      tails = recording.lanes.map(() => element("span", { class: "tail" }));
      writers.replaceChildren(...tails.map((tail, index) => element("div", {}, element("span", { class: "lane-name" }, `${index + 1}`.padStart(2)), tail)));
      reading.textContent = "Writing …";
      let recorded = { runs: [] };
      for await (const arrival of lines("lockstep", wanted, signal)) {
        if (arrival.lane === undefined) recorded = arrival;
        else recording.add(arrival);
        if (arrival.problem && arrival.lane !== undefined) show(section, arrival.problem);
      }
      const whole = recording.use(recorded.runs);
      const why = whole ? "" : ` Drawn by the times at which tokens arrived here: the server's record of runs is not complete, or not for this page's token. ${recorded.problem?.message ?? ""}`;
      below.replaceChildren(ticks(recording.duration));
      reading.textContent = summary(recording) + why;
      player.load(recording.duration);
    });
  };

  return { models: ({ writers: all }) => choose(form.model, all, "shakespeare-char-lstm"), enter: () => picture.draw(picture.time), leave: () => player.pause() };
}

function summary(recording) {
  const ended = recording.lanes.filter((lane) => lane.steps);
  const steps = ended.reduce((sum, lane) => sum + lane.steps, 0);
  const rows = ended.reduce((sum, lane) => sum + lane.steps * lane.rows, 0) / Math.max(steps, 1);
  const tokens = recording.tokens(Infinity);
  const number = (value) => Math.round(value).toLocaleString("en");
  const rate = `${number(tokens)} tokens in ${number(recording.duration * 1e3)} ms: ${number(tokens / recording.duration)} tokens/s.`;
  const { runs, alone } = recording;
  if (!runs) return `${rate} A step advanced ${rows.toFixed(1)} streams on average.`;
  return `${rate} ${number(runs.length)} runs of the model wrote them, ${(alone / runs.length).toFixed(1)} streams in each; one by one it would have been ${number(alone)}.`;
}
