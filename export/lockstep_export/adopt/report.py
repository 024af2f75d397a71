"""What an adoption decided and why, and what it could not decide."""

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Decision:
    """One decision: what it is about, the decision, and the reason."""

    subject: str
    decided: str
    why: str


@dataclass(frozen=True)
class Question:
    """What could not be decided, and the line of model.toml that decides it."""

    text: str
    section: str  # of model.toml; "" for the first lines of the file
    line: str


@dataclass
class Report:
    """Collects decisions and questions."""

    decisions: list[Decision] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)  # of the self-test

    def decide(self, subject: str, decided: str, why: str) -> None:
        decision = Decision(subject, decided, why)
        if decision not in self.decisions:
            self.decisions.append(decision)

    def ask(self, text: str, section: str, line: str) -> None:
        question = Question(text, section, line)
        if question not in self.questions:
            self.questions.append(question)

    def lines(self) -> Iterator[str]:
        """The report as it is printed. Decisions that differ in a number only share a line."""
        grouped: dict[tuple[str, str], list[str]] = {}
        for decision in self.decisions:
            grouped.setdefault((decision.decided, decision.why), []).append(decision.subject)
        rows = [(_several(subjects), decided, why) for (decided, why), subjects in grouped.items()]
        width = min(max((len(subject) for subject, _, _ in rows), default=0), 40)
        for subject, decided, why in rows:
            yield f"  {subject:<{width}}  {decided}  ({why})"
        if self.questions:
            yield "Not decided; edit model.toml if it matters:"
        for question in self.questions:
            where = f"[{question.section}] " if question.section else ""
            yield f"  {question.text}"
            yield f"      {where}{question.line}"
        for finding in self.findings:
            yield f"Self-test: {finding}"


def _several(subjects: list[str]) -> str:
    if len(subjects) <= 2:
        return ", ".join(subjects)
    return f"{subjects[0]} … {subjects[-1]} ({len(subjects)})"
