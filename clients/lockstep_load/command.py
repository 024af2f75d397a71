"""`lockstep load`: the commands.

Exit codes: 0 measured; 1 nothing could be measured (no server, no such model, no answer), or a file could not
be written; 2 wrong usage; 3 measured, but invalid: the generator was the limit (to `compare`: in one of the
two); 4 `compare` found the second run worse; 130 interrupted, with a partial report.
"""

from dataclasses import replace
from typing import Annotated

import typer

from lockstep_client.tables import table
from lockstep_load import contrast as contrasting
from lockstep_load import options, preflight, saved_runs, scenario_runner
from lockstep_load import scenario as scenarios
from lockstep_load.arrivals import ArrivalProcess
from lockstep_load.experiments import Experiment
from lockstep_load.option_groups import CommonOptions, LoadOptions, TargetOptions, expand_options
from lockstep_load.plan import ClosedLoop, LoadPattern, OpenLoop, Target
from lockstep_load.runner import Runner, report_errors, write_results
from lockstep_load.search import LatencyBound, SearchPlan

app = typer.Typer(
    name="load",
    help="Measure a server under load, and say honestly what it did.",
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _load(context: typer.Context) -> None:
    """Measure a server under load, and say honestly what it did.

    Exit codes: 0 measured, 1 nothing could be measured or a file not written, 2 wrong usage, 3 invalid (the
    generator was the limit), 4 compare found the second run worse, 130 interrupted.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
@expand_options
def run(
    target_options: TargetOptions,
    load_options: LoadOptions,
    common: CommonOptions,
    seconds: options.Seconds,
    rate: options.Rate = None,
    concurrency: options.Concurrency = None,
    arrivals: options.Arrivals = "poisson",
) -> None:
    """One load, open loop (--rate) or closed loop (--concurrency), and what came of it."""
    pattern = _pace(rate, concurrency, arrivals)
    target, asked, overrides = (
        target_options.target(common),
        target_options.workload,
        target_options.overrides,
    )
    load = load_options.load(pattern, seconds)
    with report_errors():
        workload = preflight.prepare(target, asked, target_options.call, overrides, common.wait)
        server = preflight.server_info(target)
        with Runner(common, load.processes) as runner:
            made = runner.run(target.model, target, workload, load)
    made["target"]["server"] = server
    write_results(made, common)


@app.command()
@expand_options
def sweep(
    target_options: TargetOptions,
    load_options: LoadOptions,
    common: CommonOptions,
    rates: Annotated[str, typer.Option(metavar="R,R,...", help="Requests a second, one run each.")],
    seconds: options.Seconds = 5.0,
    arrivals: options.Arrivals = "poisson",
) -> None:
    """An open loop at each of several rates: throughput against latency."""
    asked = options.numbers("--rates", rates)
    target, overrides = target_options.target(common), target_options.overrides
    load = load_options.load(OpenLoop(max(asked), arrivals), seconds)
    with report_errors():
        workload = preflight.prepare(
            target, target_options.workload, target_options.call, overrides, common.wait
        )
        with Runner(common, load.processes) as runner:
            made = Experiment(runner.run, target, workload).sweep(load, asked, arrivals)
    write_results(made, common)


@app.command()
@expand_options
def search(
    target_options: TargetOptions,
    load_options: LoadOptions,
    common: CommonOptions,
    bound_ms: Annotated[float, typer.Option(metavar="MS", min=0.001, help="The latency that has to hold.")],
    percentile: Annotated[
        float, typer.Option(min=1, max=99.99, metavar="P", help="For so many percent of all requests.")
    ] = 99.0,
    seconds: options.Seconds = 5.0,
    start: options.Rate = None,
    within: Annotated[float, typer.Option(min=0.005, max=1, help="How close to come, as a share.")] = 0.05,
    confirmations: Annotated[int, typer.Option(min=0, max=20, help="How often to see it again.")] = 2,
) -> None:
    """The highest rate of Poisson arrivals at which the bound holds: MLPerf's server scenario.

    A request that is refused or fails was not answered in time. --seconds are those of a probe; --start is
    where to begin.
    """
    target, overrides = target_options.target(common), target_options.overrides
    load = load_options.load(OpenLoop(start or options.MAX_PER_PROCESS["rate"]), seconds)
    with report_errors():
        workload = preflight.prepare(
            target, target_options.workload, target_options.call, overrides, common.wait
        )
        with Runner(common, load.processes) as runner:
            experiment = Experiment(runner.run, target, workload)
            begin = start or experiment.estimate_start_rate(load)
            bound = LatencyBound(bound_ms, percentile)
            made = experiment.search(load, SearchPlan(bound, begin, within, confirmations))
    write_results(made, common)


@app.command()
@expand_options
def scenario(
    common: CommonOptions,
    file: Annotated[str, typer.Argument(metavar="FILE|NAME|list", help="A TOML file, or one that ships.")],
    seconds: Annotated[
        float | None, typer.Option(metavar="S", min=0.001, help="Of each run, instead of the file's.")
    ] = None,
) -> None:
    """Play a scenario file; `list` shows those that ship."""
    if file == "list":
        _list()
        return
    with report_errors():
        read = scenarios.read(file, common.with_server(Target(common.address, "")), seconds)
        workloads = scenario_runner.prepare_workloads(read, common.wait)
        with Runner(common, max(one.load.processes for one in read.entries)) as runner:
            made = scenario_runner.run_scenario(read, workloads, runner)
    write_results(made, common)


@app.command()
@expand_options
def contrast(
    common: CommonOptions,
    load_options: LoadOptions,
    stepwise: Annotated[str, typer.Option(metavar="NAME", help="The recurrent model, a step an element.")] = (
        "sentiment-lstm"
    ),
    fused: Annotated[str, typer.Option(metavar="NAME", help="The recurrent model, in one run.")] = (
        "sentiment-lstm"
    ),
    oneshot: Annotated[str, typer.Option(metavar="NAME", help="The Transformer, in one run.")] = (
        "sentiment-transformer"
    ),
    lengths: Annotated[str, typer.Option(metavar="N,N,...", help="Elements of a text.")] = "8,32,128,512",
    rates: Annotated[str, typer.Option(metavar="R,R,...", help="Requests a second.")] = "25,50,100,200,400",
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="All of it so often; medians count.")] = 2,
    rate_length: Annotated[int, typer.Option(min=1, metavar="N", help="Elements, at the rates.")] = 32,
    concurrency: Annotated[
        int, typer.Option(min=1, max=4096, metavar="N", help="Callers at full load.")
    ] = 16,
    ids: options.Ids = "1,8000",
    seconds: options.Seconds = 1.0,
) -> None:
    """Where each way to read a text wins: step-wise RNN, fused RNN, one-shot Transformer.

    All three through lengths (alone, and at full load) and rates, taking turns; about three minutes with
    the defaults.
    """
    ways = (
        contrasting.ReadingMode(contrasting.STEPWISE, stepwise, "follow"),
        contrasting.ReadingMode(contrasting.FUSED, fused, "classify"),
        contrasting.ReadingMode(contrasting.ONE_SHOT, oneshot, "classify"),
    )
    sizes = tuple(options.whole_numbers("--lengths", lengths))
    planned = contrasting.Contrast(
        ways,
        sizes,
        tuple(options.numbers("--rates", rates)),
        rate_length,
        concurrency,
        options.ids(ids),
        rounds,
    )
    target = common.with_server(Target(common.address, stepwise))
    load = load_options.load(ClosedLoop(concurrency), seconds)
    with report_errors():
        for way in ways:
            asked = replace(target, model=way.model)
            preflight.prepare(
                asked, planned.workload(way, sizes[0]), way.kind, preflight.TensorOverrides(), common.wait
            )
        with Runner(common, load.processes) as runner:
            made = planned.run(runner.run, target, load)
    write_results(made, common)


app.command("compare")(saved_runs.compare)
app.command("report")(saved_runs.show_report)


def _pace(rate: float | None, concurrency: int | None, arrivals: ArrivalProcess) -> LoadPattern:
    if (rate is None) == (concurrency is None):
        raise typer.BadParameter("give one of the two: --rate R (open loop) or --concurrency N (closed loop)")
    if rate is not None:
        return OpenLoop(rate, arrivals)
    assert concurrency is not None
    return ClosedLoop(concurrency)


def _list() -> None:
    shipped = scenarios.bundled()
    rows = []
    for name, text in shipped.items():
        read = scenarios.parse(name, text, Target("localhost:1", ""))
        rows.append((name, f"{read.seconds:.0f} s", read.about))
    table(("scenario", "about", "what"), rows, left=3)
