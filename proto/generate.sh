#!/usr/bin/env bash
# Writes the Python stubs and the descriptor set beside the .proto files, or into the folder given.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-.}
python=${PYTHON:-python3}
"$python" -m grpc_tools.protoc -I . --python_out="$out" --pyi_out="$out" \
  lockstep/model_config.proto lockstep/open_inference.proto lockstep/v1/sequences.proto
"$python" -m grpc_tools.protoc -I . --grpc_python_out="$out" \
  lockstep/open_inference.proto lockstep/v1/sequences.proto
# The client builds its copy of package inference from this, in a descriptor pool of its own.
"$python" -m grpc_tools.protoc -I . --include_imports \
  --descriptor_set_out="$out/lockstep/open_inference.binpb" lockstep/open_inference.proto
