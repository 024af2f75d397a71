#!/bin/sh
# Removes from an environment what only installs, builds and tests packages: 40 MB of an image.
set -eu
folder=$1
"$folder/bin/pip" uninstall --quiet --yes setuptools
"$folder/bin/pip" uninstall --quiet --yes pip
find "$folder/lib" -type d -name tests -prune -exec rm -r {} +
find "$folder/lib" -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name '*.c' -o -name '*.h' \) -delete
