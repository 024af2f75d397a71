"""ModelInfer inputs made from a server's metadata."""

from __future__ import annotations

import numpy as np
import pytest

from lockstep_client.results import ModelMetadata, TensorSpec
from lockstep_load.tensors import arrays, inputs


def metadata(*specs: tuple[str, str, tuple[int, ...]]) -> ModelMetadata:
    return ModelMetadata("m", ("1",), "x", tuple(TensorSpec(*spec) for spec in specs), ())


BERT = metadata(
    ("input_ids", "INT64", (-1, -1)),
    ("attention_mask", "INT64", (-1, -1)),
    ("token_type_ids", "INT64", (-1, -1)),
    ("length", "INT32", (-1,)),
    ("features", "FP32", (-1, -1, 8)),
    ("text", "BYTES", (-1, 1)),
    ("flag", "BOOL", (1,)),
)


def made(spec, shapes=None, fills=None, ids=(5, 9), rows=2, length=6):
    return arrays(inputs(spec, shapes or {}, fills or {}), rows, length, ids, np.random.default_rng(0))


def test_shapes_follow_rows_and_length() -> None:
    shapes = {name: array.shape for name, array in made(BERT).items()}
    assert shapes == {
        "input_ids": (2, 6), "attention_mask": (2, 6), "token_type_ids": (2, 6), "length": (2,),
        "features": (2, 6, 8), "text": (2, 1), "flag": (1,),
    }  # fmt: skip


def test_the_fill_follows_the_input_name() -> None:
    found = made(BERT)
    assert set(found["input_ids"].ravel()) <= {5, 6, 7, 8}
    assert set(found["attention_mask"].ravel()) == {1}
    assert set(found["token_type_ids"].ravel()) == {0}
    assert set(found["length"]) == {6}
    assert found["features"].dtype == np.float32
    assert 0 <= found["features"].min() <= found["features"].max() < 1
    assert len(found["text"][0, 0].split()) == 6
    assert found["flag"].dtype == bool


def test_shape_and_fill_can_be_overridden() -> None:
    found = made(BERT, {"features": "rows,4,length"}, {"input_ids": "ones", "attention_mask": "random"})
    assert found["features"].shape == (2, 4, 6)
    assert set(found["input_ids"].ravel()) == {1}
    assert len(set(found["attention_mask"].ravel())) > 1


@pytest.mark.parametrize(
    ("spec", "shapes", "fills", "message"),
    [
        (BERT, {"nope": "1"}, {}, "unknown input 'nope'; available: attention_mask"),
        (BERT, {"flag": "x"}, {}, "'x' is not a number, 'rows' or 'length'"),
        (BERT, {}, {"flag": "twos"}, "unknown fill 'twos'; available: random"),
        (metadata(("x", "TF32", (1,))), {}, {}, "datatype 'TF32'"),
    ],
)
def test_invalid_overrides_are_rejected(spec, shapes, fills, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inputs(spec, shapes, fills)
