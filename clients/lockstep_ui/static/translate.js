// A translation, and the attention between its words and those of the source.

import { latest, lines } from "./api.js";
import { arrows, choose, element, percent, svg, visible } from "./draw.js";

const LEAST = 0.03;
const NAMED = 3;

/** Both rows of words, and the lines between them. */
class Attention {
  constructor(place, reading) {
    this.place = place;
    this.reading = reading;
    this.lines = svg("svg", { "aria-hidden": "true" });
    this.rows = [element("ol", { "aria-label": "Source" }), element("ol", { "aria-label": "Translation" })];
    this.rows.forEach(arrows);
    place.replaceChildren(this.lines, ...this.rows);
    new ResizeObserver(() => this.layOut()).observe(place);
    this.clear();
  }

  clear() {
    this.weights = [];
    this.words = [[], []];
    this.rows.forEach((row) => row.replaceChildren());
    this.layOut();
  }

  add(side, texts) {
    for (const text of texts) {
      const at = this.words[side].length;
      const word = element("button", { type: "button", tabIndex: at ? -1 : 0 }, visible(text));
      const lit = () => this.draw(side, at);
      const unlit = () => this.draw();
      Object.assign(word, { onpointerenter: lit, onpointerleave: unlit, onfocus: lit, onblur: unlit });
      this.words[side].push(word);
      this.rows[side].append(element("li", {}, word));
    }
  }

  layOut() {
    this.place.classList.remove("columns");
    const wide = this.rows.some((row) => row.scrollWidth > row.clientWidth + 1);
    this.place.classList.toggle("columns", wide);
    this.draw();
  }

  /** Draw the lines; of the word at `at` only, if one is given. */
  draw(side, at) {
    const outer = this.place.getBoundingClientRect();
    const columns = this.place.classList.contains("columns");
    const end = (word, isSource) => {
      const box = word.getBoundingClientRect();
      const [x, y] = columns ? [isSource ? box.right : box.left, (box.top + box.bottom) / 2] : [(box.left + box.right) / 2, isSource ? box.bottom : box.top];
      return [x - outer.left, y - outer.top];
    };
    const drawn = [];
    this.weights.forEach((row, target) =>
      row.forEach((weight, source) => {
        const off = side !== undefined && (side ? target : source) !== at;
        if (weight < LEAST || off || !this.words[0][source] || !this.words[1][target]) return;
        const [x1, y1] = end(this.words[0][source], true);
        const [x2, y2] = end(this.words[1][target], false);
        const middle = columns ? `${(x1 + x2) / 2} ${y1} ${(x1 + x2) / 2} ${y2}` : `${x1} ${(y1 + y2) / 2} ${x2} ${(y1 + y2) / 2}`;
        drawn.push(svg("path", { d: `M${x1} ${y1}C${middle} ${x2} ${y2}`, "stroke-width": 0.5 + 6 * weight, "stroke-opacity": Math.min(1, 0.2 + weight) }));
      }),
    );
    this.lines.replaceChildren(...drawn);
    this.light(side, at);
  }

  light(side, at) {
    const shares = side === undefined ? [] : this.words[1 - side].map((_, other) => (side ? this.weights[at]?.[other] : this.weights[other]?.[at]) ?? 0);
    this.words.forEach((words, row) => words.forEach((word, index) => word.classList.toggle("lit", row === side ? index === at : shares[index] >= 0.1)));
    if (side === undefined) return;
    const best = shares.map((share, index) => [share, index]).filter(([share]) => share >= LEAST);
    const named = best.sort((a, b) => b[0] - a[0]).slice(0, NAMED).map(([share, index]) => `“${this.words[1 - side][index].textContent}” ${percent(share)}`);
    const word = `“${this.words[side][at].textContent}”`;
    this.reading.textContent = named.length ? (side ? `${word} attended to ${named.join(", ")}.` : `${word} was attended to by ${named.join(", ")}.`) : "";
  }
}

export function translate(section) {
  const form = section.querySelector("form");
  const reading = section.querySelector(".reading");
  const drawn = new Attention(section.querySelector(".attention"), reading);
  const run = latest(section);

  form.onsubmit = (event) => {
    event.preventDefault();
    const wanted = Object.fromEntries(new FormData(form));
    run(async (signal) => {
      drawn.clear();
      reading.textContent = "";
      let text = "";
      for await (const part of lines("translate", wanted, signal)) {
        drawn.add(0, part.source_tokens);
        drawn.add(1, part.pieces);
        drawn.weights.push(...(part.attention ?? []));
        text += part.text;
        drawn.layOut();
        if (!part.reason) continue;
        const without = drawn.words[1].length ? "" : " This model returns no attention.";
        reading.textContent = `${text} — ${part.timings.steps} steps in ${(part.timings.compute_s * 1e3).toFixed(1)} ms of compute.${without}`;
      }
    });
  };

  return {
    models: ({ translators }) => choose(form.model, translators, "translate-en-fr"),
    enter: () => drawn.layOut(),
  };
}
