#!/usr/bin/env bash
# The long stage of the reference model and a policy for it on a GPU machine that has torch, transformers and OpenCV, but
# no score-edge: the folders of this checkout under their import name, then tools/train_on_gpu.py with the same arguments.
set -euo pipefail
cd "$(dirname "$0")/.."

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
cp -r score_edge "$tree/score_edge"
for part in calibration export runtime; do cp -r "$part" "$tree/score_edge/$part"; done
export PYTHONPATH="$tree${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$2"
python3 tools/train_on_gpu.py "$@" 2>&1 | tee -a "$2/log.txt"
