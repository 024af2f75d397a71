// A text that is typed: a prediction after each word, and the answers of all classifiers.

import { latest, lines, show } from "./api.js";
import { choose, COLOURS, element, meter, ms, percent } from "./draw.js";

const PAUSE_MS = 250;
const AGAIN_MS = 2000;

/** The open stream of predictions. It connects again after a break, and follows the text from its start. */
class Stream {
  constructor(onMessage) {
    this.onMessage = onMessage;
    this.wanted = null;
  }

  open() {
    if (this.socket) return;
    const socket = (this.socket = new WebSocket(`${location.origin.replace("http", "ws")}/api/follow`));
    socket.onopen = () => this.wanted && socket.send(JSON.stringify(this.wanted));
    socket.onmessage = (event) => this.onMessage(JSON.parse(event.data));
    socket.onclose = () => {
      const broke = this.socket === socket;
      this.socket = null;
      if (broke && this.wanted) setTimeout(() => this.wanted && this.open(), AGAIN_MS);
    };
  }

  change(wanted) {
    this.wanted = wanted;
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(wanted));
    else this.open();
  }

  close() {
    const socket = this.socket;
    this.wanted = this.socket = null;
    socket?.close();
  }
}

export function classify(section) {
  const form = section.querySelector("form");
  const followed = section.querySelector(".follow");
  const reading = section.querySelector(".reading");
  const body = section.querySelector("tbody");
  const run = latest(section);
  let rows = new Map();
  let number = 0;
  let pause = 0;

  const word = (prediction) => {
    const { name, probability, index } = prediction.labels[0];
    const bar = element("span", { colour: COLOURS[(index + 2) % 3] });
    bar.style.height = `${probability * 100}%`;
    const made = element("div", { class: "word", title: `${name} ${percent(probability)}` }, element("div", { class: "column" }, bar), element("span", {}, prediction.element));
    return made;
  };

  const stream = new Stream((message) => {
    if (message.problem) return show(section, message.problem);
    const { prediction } = message;
    if (message.stream !== number) followed.replaceChildren();
    number = message.stream;
    followed.children[prediction.position - 1]?.remove();
    followed.append(word(prediction));
    const { name, probability } = prediction.labels[0];
    const computed = prediction.computed_elements === 1 ? "1 step" : `${prediction.computed_elements} words read again`;
    reading.textContent = `${name} ${percent(probability)} after ${prediction.position} words. The last one: ${computed}, ${ms(prediction.timings.compute_s)} of compute.`;
    section.dataset.position = prediction.position;
  });

  const answers = () => {
    const text = form.text.value;
    if (!text.trim() || !rows.size) return;
    run(async (signal) => {
      for await (const answer of lines("classify", { models: [...rows.keys()], text }, signal)) {
        const [label, bar, took] = rows.get(answer.model);
        if (answer.problem) {
          label.textContent = answer.problem.message;
          continue;
        }
        const best = answer.labels[0];
        label.textContent = best.name;
        bar.replaceChildren(meter(best.probability), element("span", { class: "number" }, percent(best.probability)));
        took.textContent = ms(answer.timings.compute_s);
      }
    });
  };

  const change = (whole) => {
    if (!form.model.value || section.hidden) return;
    if (!form.text.value.trim()) {
      followed.replaceChildren();
      number = 0;
      reading.textContent = "Type a text.";
    }
    stream.change({ model: form.model.value, text: form.text.value, whole });
  };

  form.onsubmit = (event) => event.preventDefault();
  form.oninput = () => {
    show(section, null);
    change(false);
    clearTimeout(pause);
    pause = setTimeout(() => {
      change(true);
      answers();
    }, PAUSE_MS);
  };

  return {
    models: ({ classifiers, recurrent }) => {
      choose(form.model, [...recurrent, ...classifiers], "sentiment-lstm");
      rows = new Map(classifiers.map((model) => [model.name, [element("td", { class: "answer" }, "–"), element("td", { class: "share" }), element("td", { class: "number" }, "–")]]));
      body.replaceChildren(...[...rows].map(([name, cells]) => element("tr", {}, element("th", { scope: "row" }, name), ...cells)));
      if (section.hidden) return;
      change(true);
      answers();
    },
    enter: () => {
      change(true);
      answers();
    },
    leave: () => {
      stream.close();
      number = 0;
    },
  };
}
