// Requests to this page's own server. Whatever goes wrong is thrown as a Problem.

export class Problem extends Error {
  constructor({ kind, message, advice }) {
    super(message);
    this.kind = kind;
    this.advice = advice;
  }
}

const stopped = new Problem({
  kind: "stopped",
  message: "This page's own program has stopped.",
  advice: "Start `lockstep ui` again. This page connects by itself.",
});

async function answered(path, options) {
  let response;
  try {
    response = await fetch(`/api/${path}`, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : stopped;
  }
  if (response.ok) return response;
  const type = response.headers.get("content-type") ?? "";
  throw new Problem(
    type.startsWith("application/json")
      ? (await response.json()).problem
      : { kind: "refused", message: await response.text(), advice: "" },
  );
}

/** One answer. */
export async function ask(path) {
  return (await answered(path)).json();
}

/** Answers as they arrive. Aborting `signal` cancels the work on the server, too. */
export async function* lines(path, body, signal) {
  const headers = { "content-type": "application/json" };
  const response = await answered(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const whole = (held + value).split("\n");
      held = whole.pop();
      for (const line of whole) {
        const content = JSON.parse(line);
        if (content.problem && content.lane === undefined && content.model === undefined && content.runs === undefined) throw new Problem(content.problem);
        yield content;
      }
    }
  } catch (error) {
    throw error instanceof TypeError ? stopped : error;
  }
}

/** A function that runs one piece of work at a time: a new one aborts the one before, and shows its problem. */
export function latest(section) {
  let running = null;
  const run = async (work) => {
    running?.abort();
    const mine = (running = new AbortController());
    show(section, null);
    section.dataset.state = "working";
    try {
      await work(mine.signal);
    } catch (error) {
      if (running === mine && error.name !== "AbortError") show(section, error);
      if (!(error instanceof Problem) && error.name !== "AbortError") throw error;
    } finally {
      if (running === mine) section.dataset.state = "done";
    }
  };
  run.stop = () => running?.abort();
  return run;
}

/** Show a problem, or that there is none any more. */
export function show(section, problem) {
  const place = section.querySelector(".problem");
  place.textContent = problem ? `${problem.message} ${problem.advice ?? ""}`.trim() : "";
  if (problem) section.dataset.problem = problem.kind ?? "page";
  else delete section.dataset.problem;
}
