"""README.md of a folder of results: one section per study, generated from the saved records."""

from collections.abc import Sequence
from textwrap import fill

from lockstep_studies.study import StudyRecord, StudyTable

COLUMNS = 110  # width of the wrapped text
HEAD = """# Studies

Common claims about these architectures, measured. `lockstep-export study all --out docs/studies` generates
every number, chart and sentence on this page. The sentences follow from the numbers: if a measurement
contradicts the textbook, they say so. `NAME.json` in this folder holds all rows, the settings, the seed and
the machine.
"""


def format_readme(read_records: Sequence[StudyRecord]) -> str:
    """The whole file as Markdown."""
    return "\n".join([HEAD, *(_section(record) for record in read_records)])


def _section(record: StudyRecord) -> str:
    result = record.result
    name = result.study.name
    parts = (
        f"## {name}",
        f"**{result.study.question}**",
        fill(result.finding, COLUMNS, break_on_hyphens=False),
        f"![{result.study.question}]({name}.svg)",
        markdown(result.table),
        fill(f"{result.method} {_provenance(record)}", COLUMNS, break_on_hyphens=False),
        f"```\nlockstep-export study {name}{_flags(record)} --out docs/studies\n```",
    )
    return "\n\n".join(parts) + "\n"


def _flags(record: StudyRecord) -> str:
    settings = record.result.settings
    seed = "" if settings["seed"] == 1 else f" --seed {settings['seed']}"
    return seed + (" --quick" if settings["quick"] else "")


def _provenance(record: StudyRecord) -> str:
    on, by = record.machine, record.versions
    return (
        f"Measured on {record.day} on {on['processor']}, {on['cores']} cores, "
        f"with PyTorch {by['torch']} and ONNX Runtime {by['onnxruntime']}."
    )


def markdown(table: StudyTable) -> str:
    """The table as Markdown, numbers aligned to the right."""
    rule = ["---", *("---:" for _ in table.columns[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (table.columns, rule, *table.rows))
