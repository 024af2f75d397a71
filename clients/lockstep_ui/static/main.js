// The page: which view is shown, and what the server has.

import { ask, show } from "./api.js";
import { classify } from "./classify.js";
import { generate } from "./generate.js";
import { lockstep } from "./lockstep.js";
import { models } from "./models.js";
import { race } from "./race.js";
import { translate } from "./translate.js";

const EVERY_MS = 5000;
const started = { race, lockstep, generate, translate, classify, models };
const views = {};
const status = document.querySelector("#server");
const main = document.querySelector("main");

function section(name) {
  return document.getElementById(name);
}

function open() {
  const wanted = location.hash.slice(1);
  const name = wanted in views ? wanted : "race";
  for (const [other, view] of Object.entries(views)) {
    const hide = other !== name;
    if (hide && !section(other).hidden) view.leave?.();
    section(other).hidden = hide;
  }
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${section(name).querySelector("h1").textContent} – Lockstep`;
  views[name].enter?.();
}

/** The models by the calls that they answer. The step-wise form of a model is listed as NAME.step. */
function sorted(all) {
  const ready = all.filter((model) => model.form?.reads_text);
  const stepping = new Set(ready.filter(({ form }) => form.step_wise).map(({ form }) => form.model));
  const answering = (method) => ready.filter(({ form }) => form.name === form.model && form.methods.includes(method));
  const classifiers = answering("Classify");
  return {
    all,
    classifiers,
    recurrent: classifiers.filter((model) => stepping.has(model.name)),
    attentive: classifiers.filter(({ form }) => form.outputs.some((tensor) => tensor.role === "attention")),
    writers: answering("Generate"),
    translators: answering("Translate"),
  };
}

let last = "";

async function refresh() {
  try {
    const { address, server, models: all } = await ask("server");
    status.textContent = `${server.name} ${server.version} at ${address}`;
    status.className = "";
    const now = JSON.stringify(all);
    if (now !== last) for (const view of Object.values(views)) view.models?.(sorted(all));
    last = now;
  } catch (problem) {
    status.textContent = "no server";
    status.className = "down";
    if (!last) for (const view of document.querySelectorAll("section:not([hidden])")) show(view, problem);
  }
  document.body.dataset.server = status.className || "up";
}

for (const [name, start] of Object.entries(started)) views[name] = start(section(name));
addEventListener("hashchange", () => {
  open();
  main.focus({ preventScroll: true });
});
open();
await refresh();
setInterval(() => document.hidden || refresh(), EVERY_MS);
