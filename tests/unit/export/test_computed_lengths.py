"""Lengths of outputs that follow from those of inputs: found by calling the module, written, and true."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lockstep_export import Tensors, Transcribe, export_oneshot
from lockstep_export.computed_lengths import fit, value
from lockstep_export.errors import ModuleError
from lockstep_server.engine.loading.check import check
from lockstep_server.model import lengths

if TYPE_CHECKING:
    from pathlib import Path


@given(st.integers(1, 400), st.integers(0, 400), st.integers(1, 5000))
def test_any_stride_is_found_and_evaluated_as_the_server_does(stride: int, added: int, size: int) -> None:
    def size_of(n: int) -> int:
        return (n + added) // stride

    formula = fit("samples", size_of, 5000)
    assert value(formula, {"samples": size}) == size_of(size)
    assert lengths.parse(formula).value({"samples": size}) == size_of(size)


@given(st.integers(1, 9), st.integers(-9, 9), st.integers(1, 300))
def test_any_multiple_is_found(factor: int, added: int, size: int) -> None:
    formula = fit("words", lambda n: factor * n + added, 300)
    assert value(formula, {"words": size}) == factor * size + added
    assert lengths.parse(formula).value({"words": size}) == factor * size + added


def test_no_formula_is_invented() -> None:
    assert fit("n", lambda _: 7, 100) == ""
    assert fit("n", lambda n: n * n, 100) == ""
    assert fit("n", lambda n: n // 3 + n // 7, 100) == ""
    assert value("frames", {"samples": 3}) is None
    assert value("", {"samples": 3}) is None


class Strided(nn.Module):
    """x [batch, samples] -> y [batch, frames, 4]: two convolutions, the second over every other frame."""

    def __init__(self, stride: int, kernel: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 4, kernel, stride, padding, bias=False)
        self.over = nn.Conv1d(4, 4, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.over(self.conv(x[:, None])).transpose(1, 2)
        return made


@pytest.mark.parametrize(
    ("stride", "kernel", "padding", "formula"),
    [(2, 3, 1, "ceil(samples / 4)"), (20, 40, 39, "(samples + 78) // 40")],
)
def test_a_strided_module_is_exported_with_its_formula_and_the_server_agrees(
    stride: int, kernel: int, padding: int, formula: str, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    module, example = Strided(stride, kernel, padding), torch.randn(3, 50)
    task = Transcribe(["-", "a", "b", "c"], blank=0, scores="y")
    export_oneshot(
        module, example, tmp_path / "mine", axes="batch samples", longest=4000, task=task, outputs=("y",)
    )
    manifest = tomllib.loads((tmp_path / "mine/model.toml").read_text(encoding="utf-8"))
    assert manifest["outputs"]["y"]["lengths"] == {"1": formula}
    (mode,) = check(tmp_path, "mine")["modes"]
    assert (mode["batched"], mode["notice"]) == (True, "")


def test_a_module_whose_sizes_fit_no_formula_is_refused(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat((x[:, ::3], x[:, ::7]), dim=1)

    with pytest.raises(ModuleError, match=r"no formula fits, such as ceil\(samples / 2\)"):
        export_oneshot(
            Odd(), torch.randn(3, 50), tmp_path / "mine", axes="batch samples", longest=400, task=Tensors()
        )
