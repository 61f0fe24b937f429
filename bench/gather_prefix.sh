#!/usr/bin/env bash
# Copies what building needs of a Debian machine's packages to one folder, a few MB, that a machine without them can
# build with (bench/gpu_check.sh --prefix). usage: bench/gather_prefix.sh FOLDER
set -euo pipefail
to=${1:?usage: bench/gather_prefix.sh FOLDER}
mkdir -p "$to"
packages=(libfmt-dev libcli11-dev nlohmann-json3-dev libeigen3-dev libhnswlib-dev doctest-dev zlib1g-dev)
mapfile -t -O ${#packages[@]} packages < <(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 'libfmt*' |
  awk '$1 == "ii" && $2 ~ /^libfmt[0-9]+$/ {print $2}') # the library itself
for package in "${packages[@]}"; do
  dpkg -L "$package" | grep -E '^/usr/(include|lib|share/(cmake|eigen3|pkgconfig))' | while read -r path; do
    [[ -d $path && ! -L $path ]] || install -D -p -m 644 "$path" "$to/${path#/usr/}"
  done
done
du -sh "$to"
