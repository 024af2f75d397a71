"""`lockstep generate`: streams a language model's continuation of a prompt."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from lockstep_client.verbs.context import Model, VerbContext, Version
from lockstep_client.verbs.decoding import (
    Beams,
    EarlyStopping,
    Forbid,
    LengthPenalty,
    LogitBias,
    MaxTokens,
    MinTokens,
    NoRepeat,
    PresencePenalty,
    RepetitionPenalty,
    Seed,
    Sequence,
    Temperature,
    TopK,
    TopP,
    decoding_of,
)

if TYPE_CHECKING:
    from lockstep_client.stream_results import Generation


def generate(
    context: VerbContext,
    model: Model,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="Text to continue.")] = "",
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_k: TopK = 0,
    top_p: TopP = 0.0,
    seed: Seed = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Stop before this text; may be repeated.")
    ] = None,
    log_probabilities: Annotated[
        bool,
        typer.Option("--log-probabilities", help="Include the log probability of each token (with --json)."),
    ] = False,
    top_log_probabilities: Annotated[
        int,
        typer.Option(
            min=0, metavar="K", help="Include the K most probable tokens at each place (with --json)."
        ),
    ] = 0,
    samples: Annotated[
        int, typer.Option(min=1, metavar="N", help="Generate N texts, and print each when all have ended.")
    ] = 1,
    repetition_penalty: RepetitionPenalty = None,
    presence_penalty: PresencePenalty = None,
    no_repeat: NoRepeat = None,
    min_tokens: MinTokens = None,
    logit_bias: LogitBias = None,
    forbid: Forbid = None,
    beams: Beams = None,
    length_penalty: LengthPenalty = None,
    early_stopping: EarlyStopping = None,
    sequence: Sequence = "",
    version: Version = "",
) -> None:
    """Continue a prompt, and stream the text."""
    from lockstep_client import display

    start = time.perf_counter()
    with context.client.generate(
        model, prompt, max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed,
        stop=stop or (), log_probabilities=log_probabilities, top_log_probabilities=top_log_probabilities,
        samples=samples, sequence_id=sequence, version=version,
        **decoding_of(
            repetition_penalty, presence_penalty, no_repeat, min_tokens, logit_bias, forbid, beams,
            length_penalty, early_stopping,
        ),
    ) as stream:  # fmt: skip
        text = display.StreamedText(context.as_json)
        for part in stream:
            if samples == 1 or context.as_json:
                text.part(part)
        whole = stream.result()
    if context.as_json:
        display.json_line(vars(whole) | {"model": whole.model or model, "prompt": prompt})
        return
    if not whole.samples:
        text.end()
    _show(whole, time.perf_counter() - start)


def _show(whole: "Generation", wall_s: float) -> None:
    """Print what is not printed while the text arrives: several samples, and on a terminal the figures."""
    from lockstep_client import display

    for number, sample in enumerate(whole.samples, 1):
        if sys.stdout.isatty():
            display.note(f"sample {number}, seed {sample.seed}")
        print(sample.text)
    if sys.stdout.isatty():
        display.alternatives(whole.alternatives)
        display.note(_summary(whole, wall_s))
    display.notices([whole])


def _summary(whole: "Generation", wall_s: float) -> str:
    """Token count, stop reason, seed and speed."""
    from lockstep_client.tables import counted

    return " · ".join(
        [
            f"{counted(len(whole.tokens), 'token')}, ended by {whole.reason}",
            f"seed {whole.seed}",
            f"first token after {whole.timings.first_token_s * 1e3:.1f} ms on the server",
            f"{len(whole.tokens) / wall_s:,.0f} tokens/s",
            f"{whole.timings.batch_rows:.1f} rows per step",
        ]
    )
