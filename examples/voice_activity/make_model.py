"""Make a model folder of Silero's graph, from the installed package: python make_model.py FOLDER [PACKAGES]

PACKAGES is a folder that the package was installed to with `pip install --no-deps --target`.
"""

import shutil
import sys
from importlib.machinery import PathFinder
from pathlib import Path

MANIFEST = """\
# Silero VAD: the probability of speech in each window of 512 samples at 16,000 Hz.

[stepwise.inputs.input]  # 512 samples, after the last 64 of the window before
batch_axis = 0
sizes = {1 = 576}
overlap = 64

[stepwise.inputs.sr]
value = 16000

[stepwise.outputs.output]
batch_axis = 0

[[stepwise.state]]
name = "state"
input = "state"
output = "stateN"
batch_axis = 1
"""


def graph_of_package(packages: str | None = None) -> Path:
    """The graph in the package silero-vad, which is not imported."""
    found = PathFinder.find_spec("silero_vad", [packages] if packages else None)
    if found is None or found.origin is None:
        sys.exit("no package silero-vad: pip install --no-deps silero-vad")
    return Path(found.origin).parent / "data" / "silero_vad.onnx"


def make_model(folder: Path, graph: Path) -> None:
    """Write the model `silero-vad` into a folder of models."""
    version = folder / "silero-vad" / "1"
    version.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(graph, version / "step.onnx")
    (folder / "silero-vad" / "model.toml").write_text(MANIFEST)


if __name__ == "__main__":
    make_model(Path(sys.argv[1]), graph_of_package(*sys.argv[2:3]))
