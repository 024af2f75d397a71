"""The page's own server: static files, and a route for what each view asks.

A view's request (JSON) → one of the structs here → calls of an AsyncClient → what the client returns, as
JSON: one object, or one object per line (`Lines`) as the answers arrive. If the browser goes away, the calls
that it waits for are cancelled, also on the server. An error is an object too (problems.py).
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from lockstep_client import race_report
from lockstep_client.client import AsyncClient
from lockstep_client.errors import InvalidRequest, LockstepError
from lockstep_client.race import Race
from lockstep_client.reading import contenders
from lockstep_ui import problems
from lockstep_ui.guard import Guard
from lockstep_ui.lanes import MAX_SEED, LanesRequest, lanes
from lockstep_ui.overview import overview
from lockstep_ui.typed import TypedFollow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from lockstep_client.operations import ModelForm
    from lockstep_client.results import ModelState
    from lockstep_client.stream_results import Prediction

STATIC = Path(__file__).parent / "static"
MAX_BODY_BYTES = 1 << 20
RACE_RUNS = 3

S = TypeVar("S", bound=Struct)
Name = Annotated[str, Meta(min_length=1, max_length=256)]


class RaceRequest(Struct, forbid_unknown_fields=True):
    """The four ways to read a text: two of a recurrent model, two of a Transformer."""

    text: str
    recurrent: Name
    transformer: Name


class TranslateRequest(Struct, forbid_unknown_fields=True):
    """A text, and the model that translates it."""

    model: Name
    text: str


class GenerateRequest(Struct, forbid_unknown_fields=True):
    """A prompt, and how its continuation is sampled."""

    model: Name
    prompt: str = ""
    max_tokens: Annotated[int, Meta(ge=1, le=1000)] = 200
    temperature: Annotated[float, Meta(ge=0, le=10)] = 1.0
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED)] | None = None
    top: Annotated[int, Meta(ge=1, le=20)] = 5


class ClassifyRequest(Struct, forbid_unknown_fields=True):
    """A text for several models."""

    models: Annotated[list[Name], Meta(min_length=1, max_length=64)]
    text: str


class TypedText(Struct, forbid_unknown_fields=True):
    """The text that has been typed so far."""

    model: Name
    text: Annotated[str, Meta(max_length=20_000)]
    whole: bool = False
    """The last word is complete, although no white space follows it."""


class RefusedBody(Exception):
    """A request that is not decoded."""


def _numbers(array: Any) -> Any:
    """Arrays, as lists of numbers with four decimals."""
    return array.astype(float).round(4).tolist()


def to_json(content: Any) -> bytes:
    """JSON of what the client returns: dataclasses, arrays, mappings."""
    return msgspec.json.encode(content, enc_hook=_numbers)


class Lines(Response):
    """A response of one JSON object per line. Ends the source as soon as the browser goes away."""

    media_type = "application/x-ndjson"

    def __init__(self, lines: AsyncIterator[Any], address: str) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._lines, self._address = lines, address

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        writing = asyncio.create_task(self._write(send))
        leaving = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (writing, leaving):
                task.cancel()
            await asyncio.gather(writing, leaving, return_exceptions=True)

    async def _write(self, send: Send) -> None:
        async def line(content: Any) -> None:
            await send({"type": "http.response.body", "body": to_json(content) + b"\n", "more_body": True})

        try:
            async for content in self._lines:
                await line(content)
        except LockstepError as error:
            await line({"problem": problems.of_error(error, self._address)})
        await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Page:
    """The routes. `connection` are the arguments of the client, credentials among them."""

    def __init__(self, address: str, timeout_s: float, connection: Mapping[str, Any]) -> None:
        self._address, self._timeout_s, self._connection = address, timeout_s, connection
        self._described: tuple[list[ModelState], list[ModelForm]] = ([], [])
        self._client: AsyncClient

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Keeps the client open while the page is served."""
        async with AsyncClient(self._address, timeout_s=self._timeout_s, **self._connection) as client:
            self._client = client
            yield

    # --- one answer -----------------------------------------------------------------------------------

    async def server(self, _: Request) -> Any:
        """The server, and its models with what each does."""
        info, states = await asyncio.gather(self._client.server(), self._client.models())
        if states != self._described[0]:
            self._described = states, await self._client.describe()
        described = {(form.name, form.version): form for form in self._described[1]}
        return {
            "address": self._address,
            "server": info,
            "models": [
                {**vars(state), "form": described.get((state.name, state.version))} for state in states
            ],
        }

    async def models(self, _: Request) -> Any:
        """What was counted for each model, what its runs cost, and how much of them was padding."""
        return await overview(self._client, self._address)

    # --- answers as they arrive -----------------------------------------------------------------------

    async def race(self, wanted: RaceRequest) -> AsyncIterator[Any]:
        """The recording of each contender, then what they show, in sentences."""
        if not wanted.text.strip():
            raise InvalidRequest("the text is empty: type at least one word")
        lineup = contenders(wanted.recurrent, wanted.recurrent, wanted.transformer)
        results = []
        async for recording in Race(self._client, lineup, wanted.text, RACE_RUNS).recordings():
            results.append(recording.result)
            yield recording
        yield {"sentences": race_report.sentences(results)}

    async def translate(self, wanted: TranslateRequest) -> AsyncIterator[Any]:
        """The parts of a translation, with attention if the model returns it."""
        attention = await self._returns_attention(wanted.model)
        async with self._client.translate(wanted.model, wanted.text, attention=attention) as stream:
            async for part in stream:
                yield part

    async def _returns_attention(self, model: str) -> bool:
        forms = await self._client.describe(model)
        return any(tensor.role == "attention" for form in forms for tensor in form.outputs)

    async def generate(self, wanted: GenerateRequest) -> AsyncIterator[Any]:
        """The parts of a text, with the most probable tokens at each place."""
        async with self._client.generate(
            wanted.model, wanted.prompt, max_tokens=wanted.max_tokens, temperature=wanted.temperature,
            seed=wanted.seed, log_probabilities=True, top_log_probabilities=wanted.top,
        ) as stream:  # fmt: skip
            async for part in stream:
                yield part

    async def classify(self, wanted: ClassifyRequest) -> AsyncIterator[Any]:
        """The answer of each model, or its problem, as they arrive."""

        async def answer(model: str) -> Any:
            try:
                [found] = await self._client.classify(model, wanted.text)
            except LockstepError as error:
                return {"model": model, "problem": problems.of_error(error, self._address)}
            return found

        tasks = [asyncio.create_task(answer(model)) for model in wanted.models]
        try:
            for task in asyncio.as_completed(tasks):
                yield await task
        finally:
            for one in tasks:
                one.cancel()

    async def lockstep(self, wanted: LanesRequest) -> AsyncIterator[Any]:
        """What several streams of one model write, as it arrives."""
        async for event in lanes(self._client, wanted, self._address):
            yield event

    # --- a text that is typed -------------------------------------------------------------------------

    async def follow(self, socket: WebSocket) -> None:
        """A prediction after each word of a text that changes."""
        await socket.accept()

        async def send(content: Any) -> None:
            await socket.send_text(to_json(content).decode())

        async def on_prediction(number: int, prediction: Prediction) -> None:
            await send({"stream": number, "prediction": prediction})

        async def on_error(error: LockstepError) -> None:
            await send({"problem": problems.of_error(error, self._address)})

        typed = TypedFollow(self._client, on_prediction, on_error)
        try:
            while True:
                try:
                    change = msgspec.json.decode(await socket.receive_text(), type=TypedText)
                except msgspec.DecodeError as error:
                    await send({"problem": problems.of_request(str(error))})
                else:
                    await typed.change(change.model, change.text, change.whole)
        except WebSocketDisconnect:
            pass
        finally:
            await typed.close()

    # --- routes ---------------------------------------------------------------------------------------

    def routes(self) -> list[Any]:
        """All routes of the page."""
        streams: dict[str, tuple[type[Struct], Callable[[Any], AsyncIterator[Any]]]] = {
            "race": (RaceRequest, self.race),
            "translate": (TranslateRequest, self.translate),
            "generate": (GenerateRequest, self.generate),
            "classify": (ClassifyRequest, self.classify),
            "lockstep": (LanesRequest, self.lockstep),
        }
        return [
            Route("/", self._page),
            Mount("/static", StaticFiles(directory=STATIC)),
            *(
                Route(f"/api/{name}", partial(self._answer, ask))
                for name, ask in (("server", self.server), ("models", self.models))
            ),
            *(
                Route(f"/api/{name}", partial(self._stream, *how), methods=["POST"])
                for name, how in streams.items()
            ),
            WebSocketRoute("/api/follow", self.follow),
        ]

    async def _page(self, _: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def _answer(self, ask: Callable[[Request], Awaitable[Any]], request: Request) -> Response:
        try:
            return Response(to_json(await ask(request)), media_type="application/json")
        except LockstepError as error:
            return _refused(problems.of_error(error, self._address))

    async def _stream(
        self, kind: type[Struct], lines: Callable[[Any], AsyncIterator[Any]], request: Request
    ) -> Response:
        try:
            wanted = msgspec.json.decode(await _body(request), type=kind)
        except msgspec.ValidationError as error:
            return _refused(problems.of_request(str(error)))
        except msgspec.DecodeError as error:
            return _refused(problems.of_request(f"the request is not JSON: {error}"))
        except RefusedBody as error:
            return _refused(problems.of_request(str(error)))
        return Lines(lines(wanted), self._address)


def _refused(problem: problems.Problem) -> Response:
    return Response(to_json({"problem": problem}), problem.status, media_type="application/json")


async def _body(request: Request) -> bytes:
    """The body of a JSON request. Raises RefusedBody for another kind, and for a large one."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise RefusedBody("the request is not JSON")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise RefusedBody(f"the text is too long: a request holds {MAX_BODY_BYTES >> 20} MiB at most")
    return body


def make_app(
    address: str, hosts: Collection[str], *, timeout_s: float = 30.0, **connection: Any
) -> Starlette:
    """The page for the server at `address`. `hosts` are the names that browsers may call it by."""
    page = Page(address, timeout_s, connection)
    return Starlette(
        routes=page.routes(), lifespan=page.lifespan, middleware=[Middleware(Guard, hosts=hosts)]
    )
