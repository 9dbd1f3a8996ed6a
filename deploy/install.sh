#!/usr/bin/env bash
# Installs this project and its pinned packages into a virtual environment. `cluster.yaml` and `deploy/Containerfile`
# call it, so that a machine and a container have the same packages.
#
#   deploy/install.sh FOLDER cpu|cuda
#
# PYTHON_VERSION  Python of the environment; every node of a cluster needs the same one (3.11)
# TORCH_INDEX     package index with the CPU builds of torch; empty: only the indexes that pip knows
set -euo pipefail

folder=${1:?usage: deploy/install.sh FOLDER cpu|cuda}
device=${2:?usage: deploy/install.sh FOLDER cpu|cuda}
version=${PYTHON_VERSION:-3.11}
index=${TORCH_INDEX-https://download.pytorch.org/whl/cpu}
cd "$(dirname "$0")/.."

case $device in
cpu) pins=(--constraint constraints.txt) ;;
cuda) pins=(--constraint constraints.txt --constraint constraints-cuda.txt) index= ;;
*)
    echo "deploy/install.sh: the second argument must be cpu or cuda, got '$device'" >&2
    exit 2
    ;;
esac

if [[ ! -x $folder/bin/python ]]; then
    if command -v "python$version" >/dev/null && "python$version" -c 'import ensurepip' 2>/dev/null; then
        "python$version" -m venv "$folder"
    else # a system with another Python: uv brings this one, for this environment alone
        python3 -m venv "$folder.uv"
        "$folder.uv/bin/pip" install --quiet --constraint constraints-dev.txt uv
        "$folder.uv/bin/uv" venv --quiet --seed --python "$version" "$folder"
    fi
fi

rm -rf build # an earlier build would leave modules behind that are gone
pip=("$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir "${pins[@]}")
"${pip[@]}" ${index:+--extra-index-url "$index"} torch
"${pip[@]}" '.[aws]'
"$folder/bin/python" -m pip check
