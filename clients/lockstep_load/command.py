"""The commands of `lockstep load`.

Exit codes: 0 valid measurement; 1 nothing measured (no server, unknown model, no answer) or a file could not
be written; 2 wrong usage; 3 invalid measurement: the generator was the bottleneck (`compare`: in either run);
4 `compare` found the second run worse; 130 interrupted, with a partial report.
"""

from dataclasses import replace
from typing import Annotated

import typer
from msgspec import structs

from lockstep_client.tables import table
from lockstep_load import contrast as contrasts
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
    help="Load tester: measure a server under load.",
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _load(context: typer.Context) -> None:
    """Load tester: measure a server under load. `lockstep repository load` loads a model.

    Exit codes: 0 valid measurement, 1 nothing measured or a file not written, 2 wrong usage, 3 invalid (the
    generator was the bottleneck), 4 compare found the second run worse, 130 interrupted.
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
    """Measure one load: open loop (--rate) or closed loop (--concurrency)."""
    pattern = _pattern(rate, concurrency, arrivals)
    target, requested, overrides = (
        target_options.target(common),
        target_options.workload,
        target_options.overrides,
    )
    load = load_options.load(pattern, seconds)
    with report_errors():
        workload = preflight.prepare(target, requested, target_options.call, overrides, common.wait)
        server = preflight.server_info(target)
        with Runner(common, load.processes) as runner:
            document = runner.run(target.model, target, workload, load)
    reached = structs.replace(document.target, server=server)
    write_results(structs.replace(document, target=reached), common)


@app.command()
@expand_options
def sweep(
    target_options: TargetOptions,
    load_options: LoadOptions,
    common: CommonOptions,
    rates: Annotated[
        str, typer.Option(metavar="R,R,...", help="Rates in requests per second, one run each.")
    ],
    seconds: options.Seconds = 5.0,
    arrivals: options.Arrivals = "poisson",
) -> None:
    """Measure an open loop at each of several rates: latency against throughput."""
    chosen_rates = options.numbers("--rates", rates)
    target, overrides = target_options.target(common), target_options.overrides
    load = load_options.load(OpenLoop(max(chosen_rates), arrivals), seconds)
    with report_errors():
        workload = preflight.prepare(
            target, target_options.workload, target_options.call, overrides, common.wait
        )
        with Runner(common, load.processes) as runner:
            document = Experiment(runner.run, target, workload).sweep(load, chosen_rates, arrivals)
    write_results(document, common)


@app.command()
@expand_options
def search(
    target_options: TargetOptions,
    load_options: LoadOptions,
    common: CommonOptions,
    bound_ms: Annotated[float, typer.Option(metavar="MS", min=0.001, help="Latency bound in milliseconds.")],
    percentile: Annotated[
        float,
        typer.Option(min=1, max=99.99, metavar="P", help="Percentile of all requests that must meet it."),
    ] = 99.0,
    seconds: options.Seconds = 5.0,
    start: options.StartRate = None,
    within: Annotated[
        float, typer.Option(min=0.005, max=1, metavar="F", help="Precision of the result, as a fraction.")
    ] = 0.05,
    confirmations: Annotated[
        int,
        typer.Option(min=0, max=20, metavar="N", help="Number of repeat runs that must confirm the result."),
    ] = 2,
) -> None:
    """Find the highest rate of Poisson arrivals that meets a latency bound: MLPerf's server scenario.

    Rejected and failed requests count as not answered in time. --seconds is the length of each probe, --start
    the rate of the first.
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
            document = experiment.search(load, SearchPlan(bound, begin, within, confirmations))
    write_results(document, common)


@app.command()
@expand_options
def scenario(
    common: CommonOptions,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE|NAME|list", help="A TOML file or a bundled scenario; list shows the bundled ones."
        ),
    ],
    seconds: Annotated[
        float | None,
        typer.Option(metavar="S", min=0.001, help="Length of each run in seconds; overrides the file."),
    ] = None,
) -> None:
    """Run a scenario file; `list` shows the bundled scenarios."""
    if file == "list":
        _list()
        return
    with report_errors():
        read = scenarios.read(file, common.with_server(Target(common.address, "")), seconds)
        workloads = scenario_runner.prepare_workloads(read, common.wait)
        with Runner(common, max(one.load.processes for one in read.entries)) as runner:
            document = scenario_runner.run_scenario(read, workloads, runner)
    write_results(document, common)


@app.command()
@expand_options
def contrast(
    common: CommonOptions,
    load_options: LoadOptions,
    stepwise: Annotated[
        str, typer.Option(metavar="NAME", help="Recurrent model, run step by step (Follow).")
    ] = ("sentiment-lstm"),
    fused: Annotated[
        str, typer.Option(metavar="NAME", help="Recurrent model, run once per text (Classify).")
    ] = ("sentiment-lstm"),
    oneshot: Annotated[
        str, typer.Option(metavar="NAME", help="Transformer, run once per text (Classify).")
    ] = ("sentiment-transformer"),
    lengths: Annotated[
        str, typer.Option(metavar="N,N,...", help="Text lengths in elements.")
    ] = "8,32,128,512",
    rates: Annotated[
        str, typer.Option(metavar="R,R,...", help="Open-loop rates in requests per second.")
    ] = "25,50,100,200,400",
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Repetitions; medians are reported.")] = 2,
    rate_length: Annotated[
        int, typer.Option(min=1, metavar="N", help="Text length of the open-loop runs, in elements.")
    ] = 32,
    concurrency: Annotated[
        int, typer.Option(min=1, max=4096, metavar="N", help="Concurrent callers at full load.")
    ] = 16,
    ids: options.Ids = "1,8000",
    writers: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME",
            help="Generative models that write after a context: with a state of constant size, with caches.",
        ),
    ] = "shakespeare-char-lstm,shakespeare-gpt",
    contexts: Annotated[
        str, typer.Option(metavar="N,N,...", help="Contexts of the writers, in tokens.")
    ] = "10,100,1000",
    context_ids: Annotated[
        str, typer.Option(metavar="LOW,HIGH", help="Range of the ids of a context.")
    ] = "2,66",
    seconds: options.Seconds = 1.0,
) -> None:
    """Compare three ways to read a text: step-wise RNN, fused RNN and one-shot Transformer; two to write one.

    Measures each at every length (one caller, and full load) and every rate, in turn. Takes about three
    minutes with the defaults.
    """
    ways = contrasts.reading_modes(stepwise, fused, oneshot)
    sizes = tuple(options.whole_numbers("--lengths", lengths))
    planned = contrasts.Contrast(
        ways,
        sizes,
        tuple(options.numbers("--rates", rates)),
        rate_length,
        concurrency,
        options.ids(ids),
        rounds,
        contrasts.writing_modes(writers),
        tuple(options.whole_numbers("--contexts", contexts)),
        options.ids(context_ids),
    )
    target = common.with_server(Target(common.address, stepwise))
    load = load_options.load(ClosedLoop(concurrency), seconds)
    with report_errors():
        for way in (*ways, *planned.writers):
            way_target = replace(target, model=way.model)
            preflight.prepare(
                way_target,
                planned.workload(way, sizes[0]),
                way.kind,
                preflight.TensorOverrides(),
                common.wait,
            )
        with Runner(common, load.processes) as runner:
            document = planned.run(runner.run, target, load)
    write_results(document, common)


app.command("compare")(saved_runs.compare)
app.command("report")(saved_runs.show_report)


def _pattern(rate: float | None, concurrency: int | None, arrivals: ArrivalProcess) -> LoadPattern:
    if (rate is None) == (concurrency is None):
        raise typer.BadParameter("give either --rate R (open loop) or --concurrency N (closed loop)")
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
    table(("scenario", "takes about", "description"), rows, left=3)
