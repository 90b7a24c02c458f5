#!/usr/bin/env bash
# Everything that only an NVIDIA GPU can prove, in one go of at most 12 minutes, as one Markdown report for docs/hardware.md.
#
#     tools/on_gpu.sh --prepare FOLDER      where there is a network: what to carry, in pieces of at most 48 MiB
#     tools/on_gpu.sh --compile FOLDER      where nvcc is, too: llama.cpp of that folder as a wheel, for H100 and H200
#     tools/on_gpu.sh --receive FOLDER      on the GPU machine, once per transfer: keeps the pieces that lie in FOLDER
#     tools/on_gpu.sh REPORT.md             on the GPU machine: installs what came, runs every part, writes the report
#
# --dry-run in front of any of these says what it would do. The GPU machine is x86-64 with a driver, nvcc, Python 3.12,
# torch, onnx, OpenCV, typer, rich, pytest, CMake, ninja and scikit-build-core, and needs no network. What did not come is
# skipped with the reason: SCORE_EDGE_CARRY="gguf diskcache" prepares without ONNX Runtime, the largest. Without a
# wheel that fits, llama.cpp is compiled beside the other parts, for this GPU alone. No flash-attention kernels
# are compiled: they take most of a build, and llama.cpp does without.
set -euo pipefail
cd "$(dirname "$0")/.."

read -ra PACKAGES <<<"${SCORE_EDGE_CARRY-onnxruntime-gpu gguf diskcache}"
LLAMA=llama-cpp-python==0.3.36
HELD=${SCORE_EDGE_ON_GPU:-/tmp/score-edge-on-gpu}
PIECE=48M
BUILD_SECONDS=450
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
    for archive in "$1"/llama_cpp_python-*.tar.gz; do say repack "$archive"; done
    if [[ " ${PACKAGES[*]} " == *" onnxruntime-gpu "* ]]; then
        say env "SCORE_EDGE_BUNDLES=$(realpath -m "$1")/bundles" .venv/bin/python -m pytest -q tests/export/test_on_gpu.py -k prepare
    fi
    for file in "$1"/*; do
        if [ -f "$file" ] && [ "$(stat -c %s "$file")" -gt 50331648 ]; then
            say split -b "$PIECE" -d "$file" "$file.piece"
            say rm "$file"
        fi
    done
    echo "carry the repository and, in one transfer or several, each followed by --receive, what lies in $1:"
    [ -n "$dry" ] || du -sh "$1"/*
}

# From 77 MB to 2: the library for CPU and CUDA, and neither its tools nor the code they share.
repack() {
    work=$(mktemp -d)
    tar -xzf "$1" -C "$work"
    (
        cd "$work"/*/
        rm -rf .git .github docker docs examples scripts tests
        sed -i 's/set(LLAMA_BUILD_COMMON ON /set(LLAMA_BUILD_COMMON OFF /' CMakeLists.txt
        cd vendor/llama.cpp
        find . -mindepth 1 -maxdepth 1 ! -name CMakeLists.txt ! -name LICENSE ! -name cmake ! -name ggml \
            ! -name include ! -name src ! -name vendor -exec rm -rf {} +
        find ggml/src -mindepth 1 -maxdepth 1 -type d ! -name ggml-cpu ! -name ggml-cuda -exec rm -rf {} +
    )
    tar -C "$work" -cJf "${1%.gz}.xz" "$(basename "$work"/*)"
    rm -r "$1" "$work"
}

# CMake's arguments for an architecture, with cuBLAS from the Python packages in a folder: a toolkit may be nvcc alone.
# The driver's library is a stand-in until the import, which would find it before the real one: it must go.
options() {
    say mkdir -p "$HELD/stub"
    say gcc -shared -x c /dev/null -o "$HELD/stub/libcuda.so.1" -Wl,-soname,libcuda.so.1
    export CMAKE_ARGS="-DGGML_CUDA=on -DGGML_CUDA_FA=off -DGGML_CUDA_NCCL=off -DLLAVA_BUILD=OFF"
    CMAKE_ARGS+=" -DCMAKE_SHARED_LINKER_FLAGS=-Wl,--no-as-needed"
    CMAKE_ARGS+=" -DCMAKE_CUDA_ARCHITECTURES=$1 -DCUDA_cuda_driver_LIBRARY=$HELD/stub/libcuda.so.1"
    for found in "$2"/nvidia/*/include/cublas_v2.h; do
        [ -e "$found" ] || continue
        CMAKE_ARGS+=" -DCMAKE_CUDA_FLAGS=-I$(dirname "$found")"
        for name in cublas cublasLt; do
            library=$(find "$2"/nvidia/*/lib -name "lib$name.so.*" | head -n 1)
            CMAKE_ARGS+=" -DCUDA_${name}_LIBRARY=$library"
        done
    done
    CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
    export CMAKE_BUILD_PARALLEL_LEVEL CUDACXX=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
    echo "+ CMAKE_ARGS=\"$CMAKE_ARGS${3:+ $3}\""
    CMAKE_ARGS+=${3:+ $3}
}

compile() {
    tools=$(mktemp -d)
    say python3 -m venv "$tools"
    say "$tools/bin/pip" install --quiet "scikit-build-core[pyproject]"
    say "$tools/bin/pip" install --quiet --no-deps --target "$tools/cuda" "nvidia-cublas==13.0.*"
    # A wheel has no links: without numbers in their names each library is in it once.
    options 90-real "$tools/cuda" "-DGGML_NATIVE=off -DCMAKE_PLATFORM_NO_VERSIONED_SONAME=on"
    for source in "$1"/llama_cpp_python-*.tar.xz; do
        say nice -n 19 "$tools/bin/pip" wheel --quiet --no-index --no-deps --no-build-isolation --wheel-dir "$1" \
            "--config-settings=wheel.exclude=lib/**;include/**" "$source"
    done
    rm -rf "$tools" "$HELD/stub"
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
    site=$(python3 -c 'import site; print(site.getsitepackages()[0])')
    libraries=$(printf '%s:' "$site"/nvidia/*/lib)
    export PYTHONPATH="$HELD/site:$HELD/tree" LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:-}" TOKENIZERS_PARALLELISM=false
    if [ -d "$HELD/bundles" ]; then export SCORE_EDGE_BUNDLES="$HELD/bundles"; fi
    # The checkout without pip: the folders under their import name.
    say rm -rf "$HELD/tree"
    say mkdir -p "$HELD/tree"
    say cp -r score_edge "$HELD/tree/score_edge"
    for part in calibration export runtime; do say cp -r "$part" "$HELD/tree/score_edge/$part"; done
}

build_llama() {
    if [ -z "$dry" ] && python3 -c 'import llama_cpp'; then return; fi
    source=("$HELD"/llama_cpp_python-*.tar.xz)
    if [ -z "$dry" ] && [ ! -e "${source[0]}" ]; then
        echo "llama.cpp: its sources did not come"
        return
    fi
    options native "$site"
    say timeout "$BUILD_SECONDS" nice -n 19 python3 -m pip install --quiet --no-index --no-deps --no-build-isolation --upgrade \
        --target "$HELD/site" "${source[0]}" || true
    say rm -rf "$HELD/stub"
}

case ${1:-} in
--prepare | --compile | --receive)
    "${1#--}" "${2:?a folder}"
    ;;
"" | -*)
    sed -n '2,16s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
*)
    install
    if [ -n "$dry" ]; then build_llama; else build_llama >"$HELD/llama.log" 2>&1 & fi
    say python3 tools/on_gpu.py "$1" --seconds "$TEST_SECONDS" --build "${!:-0}" "$BUILD_SECONDS" --log "$HELD/llama.log"
    ;;
esac
