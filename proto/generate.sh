#!/usr/bin/env bash
# Writes the package lockstep_proto (Python stubs and a descriptor set) from lockstep/*.proto, here or into a folder.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-.}/lockstep_proto
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m grpc_tools.protoc -I . --python_out="$work" --pyi_out="$work" \
  lockstep/model_config.proto lockstep/open_inference.proto lockstep/v1/{sequences,operations,peers}.proto
"$python" -m grpc_tools.protoc -I . --grpc_python_out="$work" \
  lockstep/open_inference.proto lockstep/v1/{sequences,operations,peers}.proto
# The client builds its copy of the package inference from this set, in its own descriptor pool.
"$python" -m grpc_tools.protoc -I . --include_imports \
  --descriptor_set_out="$work/lockstep/open_inference.binpb" lockstep/open_inference.proto
# protoc names Python modules after the .proto path; rename them to the package lockstep_proto.
find "$work" -name '*_pb2*.py*' -exec sed -i -E \
  -e 's/^(from|import) lockstep([. ])/\1 lockstep_proto\2/' -e "s/'lockstep\.([a-z0-9_.]*_pb2)'/'lockstep_proto.\1'/" {} +
mkdir -p "$out/v1"
cp "$work"/lockstep/*_pb2* "$work"/lockstep/*.binpb "$out"
cp "$work"/lockstep/v1/*_pb2* "$out/v1"
