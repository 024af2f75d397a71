// A text that a language model writes, and the most probable tokens at each place.

import { latest, lines } from "./api.js";
import { arrows, choose, element, meter, ms, percent, visible } from "./draw.js";

/** The text of each token of a part. `text` is that of all of them; those among the most probable have theirs. */
function textsOf(part) {
  if (part.tokens.length === 1) return [part.text];
  let rest = part.text;
  return part.tokens.map((token, index) => {
    const top = part.top[index];
    const known = top?.texts[top.ids.indexOf(token)];
    const own = known !== undefined ? known : [...rest][0] ?? "";
    const at = rest.indexOf(own);
    const shown = at >= 0 ? rest.slice(0, at + own.length) : own;
    if (at >= 0) rest = rest.slice(at + own.length);
    return index === part.tokens.length - 1 && rest ? shown + rest : shown;
  });
}

/** A bar of the probabilities at one place: the chosen token's at the bottom, in colour. */
function bar(place) {
  const piece = (share, kind) => {
    const made = element("span", { class: kind });
    made.style.height = `${share * 100}%`;
    return made;
  };
  const others = place.top.filter((one) => !one.chosen).map((one) => piece(one.share, "other"));
  return element("span", { class: "bar" }, ...others.reverse(), piece(place.share, "chosen"));
}

function details(place, number) {
  const rows = place.top.some((one) => one.chosen) ? place.top : [...place.top, { text: place.text, share: place.share, chosen: true }];
  const cells = rows.flatMap((one) => [
    element("span", { class: `name${one.chosen ? " chosen" : ""}` }, visible(one.text)),
    meter(one.share, one.chosen ? "" : "other"),
    element("span", { class: "number" }, percent(one.share)),
  ]);
  return [
    element("h2", {}, `Token ${number}: ${visible(place.text)}`),
    element("p", { class: "muted" }, `chosen with ${percent(place.share)}; log-probability ${Math.log(place.share).toFixed(2)}`),
    element("div", { class: "bars" }, ...cells),
  ];
}

export function generate(section) {
  const form = section.querySelector("form");
  const text = section.querySelector(".text");
  const place = section.querySelector(".place");
  const reading = section.querySelector(".reading");
  const stop = section.querySelector(".stop");
  const run = latest(section);
  let places = [];
  arrows(text);
  stop.onclick = () => run.stop();

  const select = (button, index) => {
    for (const one of text.querySelectorAll("[aria-pressed=true]")) one.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-pressed", "true");
    place.replaceChildren(...details(places[index], index + 1));
  };

  const add = (part) => {
    const texts = textsOf(part);
    part.tokens.forEach((token, index) => {
      const top = part.top[index] ?? { ids: [], log_probabilities: [], texts: [] };
      const made = {
        text: texts[index],
        share: Math.exp(part.log_probabilities[index]),
        top: top.ids.map((id, at) => ({ text: top.texts[at], share: Math.exp(top.log_probabilities[at]), chosen: id === token })),
      };
      const at = places.push(made) - 1;
      const label = `${visible(made.text)}, ${percent(made.share)}`;
      const button = element("button", { type: "button", class: "token", tabIndex: at ? -1 : 0, "aria-label": label, "aria-pressed": "false" });
      button.append(element("span", {}, made.text.replace(/\n/g, "⏎")), bar(made));
      button.onfocus = () => select(button, at);
      button.onpointerenter = () => select(button, at);
      text.append(button);
      if (made.text.includes("\n")) text.append(element("span", { class: "break" }));
    });
  };

  form.temperature.oninput = () => (form.querySelector("output").textContent = Number(form.temperature.value).toFixed(2));
  form.temperature.oninput();

  form.onsubmit = (event) => {
    event.preventDefault();
    const wanted = {
      model: form.model.value,
      prompt: form.prompt.value,
      temperature: Number(form.temperature.value),
      max_tokens: Number(form.max_tokens.value),
      ...(form.seed.value === "" ? {} : { seed: Number(form.seed.value) }),
    };
    run(async (signal) => {
      places = [];
      place.replaceChildren(element("p", { class: "muted" }, "Point at a token, or move to it with the arrow keys."));
      text.replaceChildren(element("span", { class: "prompt" }, wanted.prompt));
      reading.textContent = "";
      stop.disabled = false;
      try {
        for await (const part of lines("generate", wanted, signal)) {
          add(part);
          if (!part.reason) continue;
          const why = { END: "the model ended the text", LENGTH: "the limit of tokens", STOP: "a stop string" }[part.reason] ?? part.reason;
          const { steps, compute_s, first_token_s } = part.timings;
          reading.textContent = `${places.length} tokens; ended by ${why}. Seed ${part.seed}. First token after ${ms(first_token_s)}, ${ms(compute_s / Math.max(steps, 1))} of compute per step.`;
        }
      } finally {
        stop.disabled = true;
      }
      text.querySelector("button")?.dispatchEvent(new Event("pointerenter"));
    });
  };

  return { models: ({ writers }) => choose(form.model, writers, "shakespeare-char-lstm"), leave: () => run.stop() };
}
