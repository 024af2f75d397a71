"""The page of a folder of results: a section a study, all of it made of what was measured."""

from textwrap import fill
from typing import TYPE_CHECKING

from lockstep_studies.study import StudyTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lockstep_studies.report import StudyRecord

COLUMNS = 110  # of the page's text, as its writer wraps it
HEAD = """# Studies

What is claimed of these architectures, measured. `lockstep-export study all --out docs/studies` makes every
number, picture and sentence on this page, the sentences from the numbers: where a measurement contradicts a
textbook, they say so. `NAME.json` beside this page holds all rows, the settings, the seeds and the machine.
"""


def page(records: "Sequence[StudyRecord]") -> str:
    """The whole file, in Markdown."""
    return "\n".join([HEAD, *(_section(record) for record in records)])


def _section(record: "StudyRecord") -> str:
    result = record.result
    name = result.study.name
    parts = (
        f"## {name}",
        f"**{result.study.question}**",
        fill(result.finding, COLUMNS, break_on_hyphens=False),
        f"![{result.study.question}]({name}.svg)",
        markdown(result.table),
        fill(f"{result.method} {_made(record)}", COLUMNS, break_on_hyphens=False),
        f"```\nlockstep-export study {name}{_flags(record)} --out docs/studies\n```",
    )
    return "\n\n".join(parts) + "\n"


def _flags(record: "StudyRecord") -> str:
    settings = record.result.settings
    seed = "" if settings["seed"] == 1 else f" --seed {settings['seed']}"
    return seed + (" --quick" if settings["quick"] else "")


def _made(record: "StudyRecord") -> str:
    on, by = record.machine, record.versions
    return (
        f"Measured on {record.day} on {on['processor']}, {on['cores']} cores, "
        f"with PyTorch {by['torch']} and ONNX Runtime {by['onnxruntime']}."
    )


def markdown(table: StudyTable) -> str:
    """The table, numbers to the right."""
    rule = ["---", *("---:" for _ in table.columns[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (table.columns, rule, *table.rows))
