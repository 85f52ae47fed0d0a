#!/usr/bin/env bash
# Fetch the model and the texts of recipes/gemma3-64k.toml into data/, then run it; made for one GPU of 80 GB.
# The model is under the Gemma Terms of Use (https://ai.google.dev/gemma/terms), and so is what is made of it.
# Needs: what recipes/fetch.sh needs, and longrope[gguf].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/fetch.sh

fetch_gemma data
[ -d data/long/search ] || fetch_long_texts data/long # made by long_texts.py, whose last folder it is
longrope compare --recipe recipes/gemma3-64k.toml --out runs/gemma3-64k
