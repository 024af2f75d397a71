#!/bin/sh
# Pins the images that the Dockerfile and the compose file name to the digests that their tags have now:
# image:tag becomes image:tag@sha256:... Run it again to renew the digests. It needs a connection to the registries,
# and crane, skopeo or docker buildx. It changes nothing if a digest cannot be had.
set -eu
cd "${1:-$(dirname "$0")/..}"

digest() {
  if command -v crane >/dev/null; then crane digest "$1"
  elif command -v skopeo >/dev/null; then skopeo inspect --format '{{.Digest}}' "docker://$1"
  else docker buildx imagetools inspect "$1" --format '{{.Manifest.Digest}}'
  fi
}

line='^(FROM|[[:space:]]*image:) +([^ :@]+:[^ :@]+)(@sha256:[0-9a-f]+)?( .*)?$'
script=$(mktemp)
trap 'rm -f "$script"' EXIT
images=$(sed -nE "s#$line#\\2#p" Dockerfile docker-compose.yml | grep -v ':local$' | sort -u)
for image in $images; do
  found=$(digest "$image") || found=
  case $found in
    sha256:*) ;;
    *) echo "make pin: no digest of $image; connect to its registry, and install crane, skopeo or docker buildx" >&2; exit 1 ;;
  esac
  echo "$image@$found"
  printf 's#(FROM|image:) +%s(@sha256:[0-9a-f]+)?#\\1 %s@%s#\n' "$image" "$image" "$found" >>"$script"
done
for file in Dockerfile docker-compose.yml; do
  sed -E -f "$script" "$file" >"$file.new"
  cat "$file.new" >"$file"
  rm "$file.new"
done
