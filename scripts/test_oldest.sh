#!/usr/bin/env bash
# Test with the oldest versions that pyproject.toml allows: bash scripts/test_oldest.sh FOLDER
# Makes a virtual environment in FOLDER and runs the tests of loading, passes and exports there. Torch is that of TORCH (by
# default the lower end of its range, whose build for Linux brings CUDA: 3 GB). Families that transformers learned later are left out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=$1
python3 -m venv "$folder"
pip=("$folder/bin/python" -m pip install --disable-pip-version-check)
# shellcheck disable=SC2086  # TORCH may hold options
"${pip[@]}" ${TORCH:-torch==2.11.0}
"${pip[@]}" --constraint <(python3 scripts/oldest.py) --editable '.[gguf,harness,lora]' \
    hypothesis mpmath pytest pytest-timeout pytest-xdist xllamacpp
"$folder/bin/python" -m pytest -m 'not slow' tests/rope tests/models tests/exports tests/gguf_export tests/cli tests/runs \
    tests/engine/test_passes.py tests/engine/test_context.py \
    -k 'not (inkling2 or lfm3 or pairs_that_never_turn or gptj_reads_beyond)'
