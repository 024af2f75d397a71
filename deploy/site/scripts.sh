#!/usr/bin/env bash
# Fetches the scripts of the site (MIT licence) from npm's registry into a folder, and checks their hashes: Mermaid draws the
# diagrams, iframe-worker searches in a site that is opened from files.
set -euo pipefail
folder=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fetch() { # name-version, its SHA-512, the script in the package, its name here
  local package=$1 hash=$2 script=$3 target=$4
  (cd "$work" && npm pack --silent "${package%-*}@${package##*-}" >/dev/null)
  [ "$(openssl dgst -sha512 -binary "$work/$package.tgz" | base64 -w0)" = "$hash" ] || {
    echo "$package: another hash than in $0" >&2
    exit 1
  }
  tar -xzOf "$work/$package.tgz" "package/$script" >"$folder/$target"
}

mkdir -p "$folder"
fetch mermaid-11.17.2 V6K3C8EBdEsPFZXSKMJe6ppQOENxuHARr9GvHX4hh47lAbhMRD9qf4oEK7LoaRQxULMa80/qt5gHO73aCleBBg== \
  dist/mermaid.min.js mermaid.min.js
fetch iframe-worker-1.0.4 roeaaI+Lg1LJNfgpCjoRe/+WzEjy9+Z08LoEvu85MCPbBjwm+qXz8Ag5U05lHa6V1CysZyGzE0SOkAtSUA5q7Q== \
  shim/index.js iframe-worker.js
