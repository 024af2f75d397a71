"""`lockstep doctor`: checks the installation, the machine, what a server would need, and a running server."""

from collections import Counter
from typing import TYPE_CHECKING, Any

import typer

from lockstep_client import address as addresses
from lockstep_client.verbs.context import TIMEOUT_S, VerbContext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lockstep_client.doctor import Finding

_WIDTH = max(map(len, ("warning", "problem")))


def doctor(context: VerbContext, given: typer.Context) -> None:
    """Check the installation, the machine, models and settings, and say what to do about what is wrong.

    Takes the flags of lockstep-serve too, for a server with them: lockstep doctor --models DIR --port N. With
    --address, or LOCKSTEP_ADDRESS, it also looks at the server there. Exit code 1: there is a problem.
    """
    from lockstep_client import display
    from lockstep_client.tables import counted

    states: Counter[str] = Counter()
    for finding in _findings(context, given):
        states[finding.state] += 1
        if context.as_json:
            display.json_line(finding)
        else:
            _show(finding)
    if not context.as_json:
        warnings, problems = (counted(states[state], state) for state in ("warning", "problem"))
        typer.echo(f"\n{states['ok']} ok, {warnings}, {problems}")
    if states["problem"]:
        raise typer.Exit(1)


def _findings(context: VerbContext, given: typer.Context) -> "Iterator[Finding]":
    from lockstep_client import doctor as checks
    from lockstep_client.client import Client
    from lockstep_client.diagnosis import Endpoint

    yield from checks.packages()
    yield from checks.machine()
    found, settings = checks.server_checks(given.args)
    yield from found
    if settings:
        yield from checks.ports(settings)
        yield checks.shared_memory(settings)
    source = given.get_parameter_source("address")
    if source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT"):
        options: dict[str, Any] = given.params
        for address in addresses.split(context.client.address):
            endpoint = Endpoint(address, options["tls"], options["tls_cert"])
            with Client(address, timeout_s=context.timeout_s or TIMEOUT_S, **context.connection) as client:
                yield from checks.running(client, endpoint)


def _show(finding: "Finding") -> None:
    typer.echo(f"{finding.state:<{_WIDTH}}  {finding.check}: {finding.detail}")
    if finding.remedy:
        typer.echo(f"{'':<{_WIDTH}}    → {finding.remedy}")
