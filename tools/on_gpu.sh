#!/usr/bin/env bash
# Everything that only an NVIDIA GPU can prove, in one go of under 8 minutes, as one Markdown report for docs/hardware.md.
#
#     tools/on_gpu.sh --prepare FOLDER      where there is a network: what to carry, in pieces of at most 48 MiB
#     tools/on_gpu.sh --receive FOLDER      on the GPU machine, once per transfer: keeps the pieces that lie in FOLDER
#     tools/on_gpu.sh REPORT.md             on the GPU machine: installs what came, runs every part, writes the report
#
# --dry-run in front of any of these says what it would do. The GPU machine is x86-64 with a driver, nvcc, Python 3.12,
# torch, onnx, OpenCV, CMake, ninja and scikit-build-core, and needs no network. What did not come is
# skipped with the reason. llama.cpp is compiled beside the other parts, for this GPU alone and without the
# flash-attention kernels, which take most of a build.
set -euo pipefail
cd "$(dirname "$0")/.."

PACKAGES=(onnxruntime-gpu gguf diskcache flatbuffers typer rich pytest)
LLAMA=llama-cpp-python==0.3.36
HELD=${SCORE_EDGE_ON_GPU:-/tmp/score-edge-on-gpu}
PIECE=48M
BUILD_SECONDS=300
TEST_SECONDS=240

dry=
say() { echo "+ $*"; [ -n "$dry" ] || "$@"; }
if [ "${1:-}" = --dry-run ]; then dry=1 && shift; fi

prepare() {
    say mkdir -p "$1"
    platforms=()
    for version in 28 27 17; do platforms+=(--platform "manylinux_2_${version}_x86_64"); done
    platforms+=(--platform manylinux2014_x86_64)
    for package in "${PACKAGES[@]}"; do
        say python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
            "${platforms[@]}" --dest "$1" "$package"
    done
    say python3 -m pip download --quiet --no-deps --no-binary=:all: --dest "$1" "$LLAMA"
    say env "SCORE_EDGE_BUNDLES=$(realpath -m "$1")/bundles" .venv/bin/python -m pytest -q tests/export/test_on_gpu.py -k prepare
    for file in "$1"/*; do
        if [ -f "$file" ] && [ "$(stat -c %s "$file")" -gt 50331648 ]; then
            say split -b "$PIECE" -d "$file" "$file.piece"
            say rm "$file"
        fi
    done
    echo "carry the repository and, in one transfer or several, each followed by --receive, what lies in $1:"
    [ -n "$dry" ] || du -sh "$1"/*
}

receive() {
    say mkdir -p "$HELD"
    say cp -r "$1"/. "$HELD"/
}

install() {
    for first in "$HELD"/*.piece00; do
        [ -e "$first" ] || continue
        echo "+ cat ${first%00}* > ${first%.piece00}"
        [ -n "$dry" ] || { cat "${first%00}"* >"${first%.piece00}" && rm "${first%00}"*; }
    done
    wheels=("$HELD"/*.whl)
    if [ -e "${wheels[0]}" ]; then
        say python3 -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$HELD/site" "${wheels[@]}"
    fi
    libraries=$(python3 -c 'import glob, site; print(":".join(glob.glob(site.getsitepackages()[0] + "/nvidia/*/lib")))')
    export PYTHONPATH="$HELD/site:$HELD/tree" LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    if [ -d "$HELD/bundles" ]; then export SCORE_EDGE_BUNDLES="$HELD/bundles"; fi
    # The checkout without pip: the folders under their import name.
    say rm -rf "$HELD/tree"
    say mkdir -p "$HELD/tree"
    say cp -r score_edge "$HELD/tree/score_edge"
    for part in calibration export runtime; do say cp -r "$part" "$HELD/tree/score_edge/$part"; done
}

build_llama() {
    source=("$HELD"/llama_cpp_python-*.tar.gz)
    if [ -z "$dry" ] && [ ! -e "${source[0]}" ]; then
        echo "llama.cpp: its sources did not come" >"$HELD/llama.log"
        return
    fi
    export CMAKE_ARGS="-DGGML_CUDA=on -DGGML_CUDA_FA=off -DLLAVA_BUILD=OFF -DCMAKE_CUDA_ARCHITECTURES=native"
    export CMAKE_BUILD_PARALLEL_LEVEL="$(nproc)"
    echo "+ CMAKE_ARGS=\"$CMAKE_ARGS\""
    say timeout "$BUILD_SECONDS" python3 -m pip install --quiet --no-index --no-deps --no-build-isolation --target "$HELD/site" \
        "${source[0]}"
}

case ${1:-} in
--prepare | --receive)
    "${1#--}" "${2:?a folder}"
    ;;
"" | -*)
    sed -n '2,14s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
*)
    install
    if [ -n "$dry" ]; then build_llama; else build_llama >"$HELD/llama.log" 2>&1 & fi
    say python3 tools/on_gpu.py "$1" --seconds "$TEST_SECONDS" --wait-for "${!:-0}" --log "$HELD/llama.log"
    ;;
esac
