"""The drawings of docs/concepts/, as SVG: `make dashboards` writes them.

Each carries colours for light and dark pages. On the site they are part of the page, and site.css gives them
the colours of its scheme.
"""

from __future__ import annotations

from html import escape

CELL, ROW = 22, 30
"""Width and height of an element, in units of the drawing."""
_LIGHT = (
    "--ink:#1f2328;--quiet:#59636e;--a:#0f6f62;--b:#a8500c;--c:#3d57b8;--d:#9c2f5c;--on:#fff;--pad:#d5dcda"
)
_DARK = (
    "--ink:#e6edf3;--quiet:#9aa6b2;--a:#4fc7b5;--b:#f0a860;--c:#9fb4ff;--d:#e58fb1;--on:#10201d;--pad:#3a4447"
)
_STYLE = (
    f"svg.drawing{{{_LIGHT}}}@media (prefers-color-scheme:dark){{svg.drawing{{{_DARK}}}}}"
    "svg.drawing text{font:14px system-ui,sans-serif;fill:var(--ink)}"
    "svg.drawing .quiet{fill:var(--quiet)}svg.drawing .on{fill:var(--on);font-size:13px}"
    "svg.drawing .line{stroke:var(--quiet);fill:none;stroke-width:1.5}"
)


class Drawing:
    """Rectangles, texts and arrows. Coordinates are those of the upper left corner."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._head = f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"'
        self._title = title
        self._parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, colour: str, text: str = "") -> None:
        """A filled rectangle with a text in its middle."""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3" fill="var(--{colour})"/>'
        )
        if text:
            middle = f'x="{x + width / 2:g}" y="{y + height / 2 + 5:g}" text-anchor="middle" class="on"'
            self._parts.append(f"<text {middle}>{escape(text)}</text>")

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """A text whose baseline is at `y`."""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def arrow(self, x: float, y: float, to_x: float, to_y: float) -> None:
        self._parts.append(f'<path class="line" d="M{x:g} {y:g}L{to_x:g} {to_y:g}" marker-end="url(#head)"/>')

    def row(
        self, x: float, y: float, elements: int, colour: str, padding: int = 0, letters: str = ""
    ) -> None:
        """Elements of one request side by side, and its padding."""
        for index in range(elements + padding):
            real = index < elements
            letter = letters[index] if real and index < len(letters) else ""
            self.box(x + index * CELL, y, CELL - 3, ROW - 8, colour if real else "pad", letter)

    def svg(self) -> str:
        head = (
            '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
            ' orient="auto">'
            '<path d="M0 0L8 4L0 8z" fill="var(--quiet)"/></marker>'
        )
        lines = [f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" {self._head}>']
        lines += [f"<title>{escape(self._title)}</title>", f"<style>{_STYLE}</style>", f"<defs>{head}</defs>"]
        return "\n".join([*lines, *self._parts, "</svg>"]) + "\n"


def drawings() -> dict[str, str]:
    """Every drawing, by the name of its file."""
    return {
        "padding.svg": _padding(),
        "batching.svg": _batching(),
        "lockstep.svg": _lockstep(),
        "state.svg": _state(),
    }


def _padding() -> str:
    requests = (("A", 3, "a"), ("B", 5, "b"), ("C", 8, "c"))
    drawn = Drawing(480, 246, "Three requests of 3, 5 and 8 elements in one run of 3 rows by 8 elements")
    drawn.text(0, 16, "requests", "quiet")
    drawn.text(230, 16, "one run: 3 rows × 8", "quiet")
    for index, (name, length, colour) in enumerate(requests):
        y = 28 + index * ROW
        drawn.text(0, y + 16, name)
        drawn.row(20, y, length, colour)
        drawn.row(230, y, length, colour, 8 - length)
        drawn.text(230 + 8 * CELL + 8, y + 16, f"length {length}", "quiet")
    drawn.arrow(200, 70, 224, 70)
    drawn.text(230, 140, "8 of 24 elements are padding", "quiet")
    drawn.text(0, 176, "answers, each without the padding of its row", "quiet")
    for index, (name, length, colour) in enumerate(requests):
        x = sum(one[1] * CELL + 36 for one in requests[:index])
        drawn.text(x, 208, name)
        drawn.row(x + 16, 192, length, colour)
    return drawn.svg()


def _batching() -> str:
    lengths = (4, 5, 5, 20, 22)
    ways = (
        ("one by one", [[4], [5], [5], [20], [22]]),
        ("all in one run", [[4, 5, 5, 20, 22]]),
        ("short ones, long ones", [[4, 5, 5], [20, 22]]),
    )
    start, element = 3.0, 0.5  # of a run, and of an element with padding, in ms: an example
    drawn = Drawing(480, 230, "Five requests that wait, and three ways to run them with their times")
    drawn.text(0, 16, f"waiting: requests of {', '.join(map(str, lengths))} elements", "quiet")
    times = [[start + element * len(run) * max(run) for run in runs] for _, runs in ways]
    fastest = min(map(sum, times))
    for index, ((name, runs), costs) in enumerate(zip(ways, times, strict=True)):
        y, x = 38 + index * 54, 0.0
        total = sum(costs)
        chosen = ": chosen" if total == fastest else ""
        drawn.text(0, y + 10, f"{name}, {total:g} ms{chosen}")
        for run, cost in zip(runs, costs, strict=True):
            width = cost * 7.4
            text = "+".join(map(str, run)) if width > 44 else ""
            drawn.box(x, y + 17, width - 2, 24, "a" if chosen else "b", text)
            x += width
    drawn.text(0, 214, f"costs of this example: {start:g} ms a run and {element:g} ms an element", "quiet")
    return drawn.svg()


def _lockstep() -> str:
    streams = (("A", 0, 8, "a"), ("B", 0, 4, "b"), ("C", 2, 12, "c"), ("D", 6, 12, "d"))
    steps, left, width = 12, 78, 32
    drawn = Drawing(480, 226, "Four streams that join and leave a batch between two steps")
    for step in range(steps):
        active = sum(begin <= step < end for _, begin, end, _ in streams)
        x = left + step * width
        drawn.text(x + width / 2 - 2, 16, str(step + 1), "quiet", "middle")
        drawn.text(x + width / 2 - 2, 166, str(active), "", "middle")
    drawn.text(0, 16, "step", "quiet")
    drawn.text(0, 166, "rows", "quiet")
    for index, (name, begin, end, colour) in enumerate(streams):
        y = 28 + index * ROW
        drawn.text(0, y + 16, f"stream {name}")
        for step in range(begin, end):
            drawn.box(left + step * width, y, width - 4, ROW - 8, colour)
    drawn.text(0, 194, "A column is one run of the step graph: one row for each stream.", "quiet")
    drawn.text(0, 214, "C joins and B leaves while the others go on.", "quiet")
    return drawn.svg()


def _state() -> str:
    words = 5
    drawn = Drawing(
        480, 268, "A prediction after each of five words: by state, and by reading the whole text again"
    )
    drawn.text(0, 16, "step-wise: each step takes one word and the state")
    for index in range(words):
        x = index * 92
        drawn.box(x, 30, 58, 30, "a", f"word {index + 1}")
        if index:
            drawn.arrow(x - 32, 45, x - 4, 45)
    drawn.text(0, 82, "5 words computed; between two steps the engine keeps the state", "quiet")
    drawn.text(0, 118, "one-shot: each prediction reads the whole text again")
    for index in range(words):
        drawn.row(0, 130 + index * 22, index + 1, "b")
    drawn.text(150, 200, "1 + 2 + 3 + 4 + 5 = 15 words computed", "quiet")
    drawn.text(0, 260, "For one prediction at the end: one run of all five words", "quiet")
    return drawn.svg()
