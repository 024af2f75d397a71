// The models of the server: their states, and what was counted for each.

import { ask, show } from "./api.js";
import { chart, curves, element, ms } from "./draw.js";

const EVERY_MS = 5000;
const PADDING = ["none", "≤ 10 %", "≤ 25 %", "≤ 50 %", "> 50 %"];
const KINDS = { READY: "", LOADING: "waiting", UNLOADING: "waiting", UNAVAILABLE: "failed" };

/** Runs by batch size; sizes above the first seven are joined by powers of two. */
function sizes(counted) {
  const joined = new Map();
  for (const [rows, { count, total_s }] of Object.entries(counted.runs_by_rows)) {
    const size = Number(rows) <= 4 ? Number(rows) : 2 ** Math.ceil(Math.log2(rows));
    const sum = joined.get(size) ?? { count: 0, total_s: 0 };
    joined.set(size, { count: sum.count + count, total_s: sum.total_s + total_s });
  }
  return [...joined].sort((a, b) => a[0] - b[0]).map(([size, sum]) => ({ name: size <= 4 ? size : `≤${size}`, ...sum }));
}

const counts = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** What a run costs: by length with a line for each number of rows, or of steps by rows. */
function costs(form) {
  const points = (kept, across) => form.costs.filter(kept).map((cost) => ({ x: cost[across], y: cost.seconds, shown: ms(cost.seconds) }));
  const drawn = (series, across, about) => ({ about, picture: curves(series, { across, about }) });
  if (form.step_wise) return drawn([{ name: "", points: points(() => true, "rows") }], "rows", "Cost of a step by its rows, as the server has learned it");
  const rows = [...new Set(form.costs.map((cost) => cost.rows))].filter((number) => points((cost) => cost.rows === number, "length").length > 1);
  const series = rows.slice(0, 4).map((number) => ({ name: counts(number, "row"), points: points((cost) => cost.rows === number, "length") }));
  return drawn(series, "elements per row", "Cost of a run by its length, as the server has learned it");
}

function charts({ counted, form, padding }) {
  const runs = sizes(counted);
  const figure = (about, drawn) => element("figure", {}, element("figcaption", {}, about), drawn);
  const drawn = [];
  if (form?.costs.length) {
    const { about, picture } = costs(form);
    drawn.push(figure(about, picture));
  }
  const bars = (about, points) => drawn.push(figure(about, chart(points, { about })));
  if (runs.length) bars("Runs by batch size, in rows", runs.map(({ name, count }) => ({ name, value: count, shown: count.toLocaleString("en") })));
  if (padding) bars("Latest runs by the share of padding", padding.map((count, index) => ({ name: PADDING[index], value: count, shown: count.toLocaleString("en") })));
  return drawn.length ? drawn : [element("p", { class: "muted" }, "No run yet. Use a view that calls this model, then come back.")];
}

function facts(counted) {
  const mean = ({ count, total_s }) => (count ? ms(total_s / count) : "–");
  const shown = {
    "answered requests": counted.success.count.toLocaleString("en"),
    "failed requests": counted.fail.count.toLocaleString("en"),
    "rows per run": counted.runs ? (counted.rows / counted.runs).toFixed(2) : "–",
    "mean time in the queue": mean(counted.queue),
    "mean time in all": mean(counted.success),
  };
  return element("dl", { class: "facts" }, ...Object.entries(shown).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

class Entry {
  constructor(model) {
    this.model = model;
    this.state = element("span", {});
    this.runs = element("span", { class: "number muted" });
    this.content = element("div", {});
    this.notice = element("p", { class: "notice" });
    const form = model.form;
    const task = !form ? "" : form.step_wise && form.name !== form.model ? `${form.task}, a step at a time` : form.task;
    this.details = element("details", {}, element("summary", {}, element("span", { class: "name" }, model.name), element("span", { class: "muted" }, task), this.state, this.runs), this.notice, this.content);
    this.details.ontoggle = () => this.draw();
  }

  update(model) {
    this.state.textContent = model.state.toLowerCase();
    this.state.className = `state ${KINDS[model.state] ?? "waiting"}`;
    this.notice.textContent = model.reason;
    this.notice.hidden = !model.reason;
  }

  count(counted, form, padding) {
    Object.assign(this, { counted, form, padding });
    this.runs.textContent = counted ? `${counts(counted.runs, "run")}, ${counts(counted.rows, "row")}` : "";
    this.draw();
  }

  draw() {
    if (!this.details.open) return;
    const now = JSON.stringify([this.counted, this.form, this.padding]);
    if (now === this.drawn) return;
    this.drawn = now;
    this.content.replaceChildren(...(this.counted ? [facts(this.counted), element("div", { class: "charts" }, ...charts(this))] : []));
  }
}

export function models(section) {
  const place = section.querySelector(".list");
  const reading = section.querySelector(".reading");
  const entries = new Map();
  let timer = 0;
  const refresh = async () => {
    try {
      const { counted, forms, padding } = await ask("models");
      show(section, null);
      const form = new Map(forms.map((one) => [`${one.name} ${one.version}`, one]));
      for (const one of counted) {
        const key = `${one.name} ${one.version}`;
        entries.get(key)?.count(one, form.get(key), padding[key]);
      }
      reading.textContent = padding.problem ? `Padding is not shown: ${padding.problem.message} ${padding.problem.advice}` : "Padding is that of the runs that the server remembers.";
      section.dataset.state = "done";
    } catch (problem) {
      show(section, problem);
    }
  };

  return {
    models: ({ all }) => {
      const kept = new Set(all.map((model) => `${model.name} ${model.version}`));
      for (const [key, entry] of entries) {
        if (kept.has(key)) continue;
        entry.details.remove();
        entries.delete(key);
      }
      for (const model of all) {
        const key = `${model.name} ${model.version}`;
        if (!entries.has(key)) {
          entries.set(key, new Entry(model));
          place.append(entries.get(key).details);
        }
        entries.get(key).update(model);
      }
      if (!section.hidden) refresh();
    },
    enter: () => {
      refresh();
      timer = setInterval(() => document.hidden || refresh(), EVERY_MS);
    },
    leave: () => clearInterval(timer),
  };
}
