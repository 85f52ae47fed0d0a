#!/usr/bin/env bash
# Fetch the model and the texts of recipes/smollm2-1024k.toml and smollm2-2048k.toml into data/, then run both, or those that are
# named: bash recipes/smollm2-2048k.sh smollm2-1024k. Made for four GPUs of 80 GB that share each window. Interrupted, the same command
# goes on where it was.
# The texts are from packages of Debian 12 and npm, and are not to be passed on. Needs: what recipes/fetch.sh needs, and
# longrope[gguf].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/fetch.sh
LAUNCH=${LAUNCH:-"torchrun --nproc-per-node 4 -m longrope"}

fetch_model data
[ -d data/smollm2-2048k ] || fetch_million_texts data/SmolLM2-135M-Instruct.Q4_1.gguf data/smollm2-2048k
names=("$@")
[ $# -gt 0 ] || names=(smollm2-1024k smollm2-2048k)
for name in "${names[@]}"; do
    $LAUNCH extend --recipe "recipes/$name.toml" --context-ranks "${RANKS:-4}" --out "runs/$name"
done
