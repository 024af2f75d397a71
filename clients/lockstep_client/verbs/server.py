"""`lockstep models`, `stats`, `health` and `repository`: the models of a server, their counts and state."""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from lockstep_client.verbs.context import VerbContext, verb

if TYPE_CHECKING:
    from lockstep_client.client import Client
    from lockstep_client.operations import ModelForm
    from lockstep_client.progress import ProgressDisplay
    from lockstep_client.results import Health, ModelState, ModelStatistics

_POLL_S, _CALL_S = 0.2, 5.0

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not show progress.")]


def models(context: VerbContext) -> None:
    """List the models of the server: version, state, task, inputs, forms, and the verb that answers."""
    from lockstep_client import display, tables
    from lockstep_client.errors import Denied, Unavailable, Unsupported

    states = context.client.models()
    if context.as_json:
        for state in states:
            display.json_line(state)
        return
    try:
        forms = context.client.describe()
    except (Unsupported, Denied, Unavailable):  # a server of another kind, or one whose engine restarts
        forms = []
    header = ("model", "version", "state", "task", "inputs", "forms", "verb", "note")
    tables.table(header, model_rows(states, forms), left=len(header))


def model_rows(states: Iterable["ModelState"], forms: Iterable["ModelForm"]) -> list[tuple[str, ...]]:
    """A row per version of each model. A step-wise form beside a one-shot form shares the model's row."""
    from lockstep_client.description import inputs_of, verb_of

    by_model: dict[tuple[str, str], list[ModelForm]] = {}
    for form in forms:
        by_model.setdefault((form.model, form.version), []).append(form)
    rows: list[tuple[str, ...]] = []
    for state in states:
        found = by_model.get((state.name, state.version), [])
        if not found and any(state.name == f"{model}.step" for model, _ in by_model):
            continue
        first = found[0] if found else None
        rows.append(
            (
                state.name,
                state.version,
                state.state,
                first.task if first else "",
                inputs_of(first) if first else "",
                ", ".join("step-wise" if form.step_wise else "one-shot" for form in found),
                verb_of(found) if found else "",
                " ".join(state.reason.split()),
            )
        )
    return rows


def stats(
    context: VerbContext,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME", help="Only this model (default: all models).")
    ] = "",
) -> None:
    """Print what models have done since they were loaded: requests, runs, rows per run, and mean times."""
    from lockstep_client import display, tables

    found = context.client.model_statistics(model)
    if context.as_json:
        for one in found:
            display.json_line(one)
        return
    header = ("model", "version", "answered", "failed", "runs", "rows/run", "queue ms", "compute ms", "ms")
    tables.table(header, [_statistics(one) for one in found])


def _statistics(one: "ModelStatistics") -> tuple[str, ...]:
    ended = one.success.count + one.fail.count

    def mean_ms(total_s: float, count: int) -> str:
        return f"{total_s / count * 1e3:.2f}" if count else "-"

    return (
        one.name,
        one.version,
        str(one.success.count),
        str(one.fail.count),
        str(one.runs),
        f"{one.rows / one.runs:.1f}" if one.runs else "-",
        mean_ms(one.queue.total_s, ended),
        mean_ms(one.compute_infer.total_s, one.runs),
        mean_ms(one.success.total_s, one.success.count),
    )


def health(
    context: VerbContext,
    model: Annotated[str, typer.Option("--model", "-m", metavar="NAME", help="Check this model only.")] = "",
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Wait for so long until it is serving.")
    ] = 0.0,
    quiet: Quiet = False,
) -> None:
    """Check whether the server, or one model, is serving; exit code 1 if not.

    While it waits, it shows on stderr which models have loaded and what the others do.
    """
    from lockstep_client import display

    answer = _health(context, model, wait, quiet)
    if context.as_json:
        display.json_line({"address": context.client.address, "serving": answer.serving} | vars(answer))
    else:
        display.health(answer)
    if not answer.serving:
        raise typer.Exit(1)


def _health(context: VerbContext, model: str, wait_s: float, quiet: bool) -> "Health":
    """The health once it is SERVING, at the latest after `wait_s` as it is then."""
    from lockstep_client.errors import DeadlineExceeded, ModelNotFound, Unavailable
    from lockstep_client.progress import ProgressDisplay

    client, end = context.client, time.monotonic() + wait_s
    with ProgressDisplay(model or client.address, quiet=quiet or context.as_json) as display:
        while (left_s := end - time.monotonic()) > 0:
            with suppress(Unavailable, ModelNotFound, DeadlineExceeded):  # it may start, or get the model
                answer = client.health(model, timeout_s=max(left_s, _POLL_S))
                if answer.serving:
                    return answer
            _show_loading(client, model, display, max(left_s, _POLL_S))
            time.sleep(min(_POLL_S, left_s))
    return client.health(model)


def _show_loading(client: "Client", model: str, display: "ProgressDisplay", timeout_s: float) -> None:
    """Show how many models have loaded, and what is done with the one that loads now."""
    from lockstep_client.errors import LockstepError

    try:
        states = client.models(timeout_s=timeout_s)
    except LockstepError as error:  # it has not started, or this caller may not list the models
        display.update(0, 0, "waiting for the server" if error.code == "UNAVAILABLE" else "waiting")
        return
    names = {state.name for state in states}
    mine = [
        state
        for state in states
        if (state.name == model if model else state.name.removesuffix(".step") not in names - {state.name})
    ]
    loading = [state for state in mine if state.state == "LOADING"]
    now = next((state for state in loading if state.reason), None)
    what = f"{now.name}: {now.reason}" if now else ""
    display.update(len(mine) - len(loading), len(mine) if loading else 0, what)


repository = typer.Typer(
    help="List, load and unload the models of the server's repository.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
)
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")]


def load(context: VerbContext, model: Model, quiet: Quiet = False) -> None:
    """Load a model, or load it again from its files. Needs a server with --model-control explicit."""
    _change(context, "load", model, quiet)


def unload(context: VerbContext, model: Model, quiet: Quiet = False) -> None:
    """Unload a model after its requests have ended. Needs a server with --model-control explicit."""
    _change(context, "unload", model, quiet)


def _change(context: VerbContext, change: str, model: str, quiet: bool) -> None:
    from lockstep_client import display
    from lockstep_client.progress import ProgressDisplay

    begun = time.monotonic()
    call = context.client.load_model if change == "load" else context.client.unload_model
    with (
        ProgressDisplay(f"{change} {model}", quiet=quiet or context.as_json) as shown,
        ThreadPoolExecutor() as pool,
    ):
        calling = pool.submit(call, model)
        while not wait((calling,), _POLL_S).done:
            _show_loading(context.client, model, shown, _CALL_S)
        calling.result()
    seconds = time.monotonic() - begun
    if context.as_json:
        display.json_line({"model": model, "change": change, "seconds": seconds})
    else:
        print(f"{change}ed {model} in {seconds:.1f} s")


repository.command("list")(verb(models))
repository.command("load")(verb(load, timeout_s=600.0, of_one_server=True))
repository.command("unload")(verb(unload, timeout_s=600.0, of_one_server=True))
