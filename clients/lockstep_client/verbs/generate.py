"""`lockstep generate`: a language model continues a prompt, and the text is written as it comes."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from lockstep_client.verbs.common import Model, VerbContext, Version

if TYPE_CHECKING:
    from lockstep_client.stream_results import Generation


def generate(
    asking: VerbContext,
    model: Model,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="What to continue.")] = "",
    max_tokens: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Tokens at most; the model's limit if not given.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, metavar="T", help="0: the most probable token. 1 if not given.")
    ] = None,
    top_k: Annotated[int, typer.Option(min=0, metavar="K", help="Among the K most probable; 0: all.")] = 0,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, metavar="P", help="Among those that reach P together; 0: all.")
    ] = 0.0,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="S", help="One seed, one text; drawn if not given.")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End before this text; may be repeated.")
    ] = None,
    log_probabilities: Annotated[
        bool, typer.Option("--log-probabilities", help="Of each token, with --json.")
    ] = False,
    version: Version = "",
) -> None:
    """Continue a prompt; the text comes as it is made."""
    from lockstep_client import display

    begun = time.perf_counter()
    with asking.client.generate(
        model, prompt, max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
        stop=stop or (), log_probabilities=log_probabilities, version=version,
    ) as stream:  # fmt: skip
        text = display.StreamedText(asking.as_json)
        for part in stream:
            text.part(part)
        whole = stream.result()
    if asking.as_json:
        display.json_line(vars(whole) | {"model": whole.model or model, "prompt": prompt})
        return
    text.end()
    if sys.stdout.isatty():
        display.remark(_told(whole, time.perf_counter() - begun))
    display.notices([whole])


def _told(whole: "Generation", wall_s: float) -> str:
    """What is to know of a text beside itself."""
    return " · ".join(
        [
            f"{len(whole.tokens)} tokens, ended by {whole.reason}",
            f"seed {whole.seed}",
            f"first token after {whole.timings.first_token_s * 1e3:.1f} ms on the server",
            f"{len(whole.tokens) / wall_s:,.0f} tokens/s",
            f"{whole.timings.batch_rows:.1f} rows a step",
        ]
    )
