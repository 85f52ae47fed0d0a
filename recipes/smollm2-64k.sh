#!/usr/bin/env bash
# Fetch the model and the texts of recipes/smollm2-64k.toml into data/, then run it; made for one GPU of 80 GB.
# Needs: what recipes/fetch.sh needs, and longrope[gguf].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/fetch.sh

fetch_texts() {
    local scratch docs
    scratch=$(mktemp -d)
    unpack_packages "$scratch" linux-doc-6.1 anarchism
    docs=usr/share/doc
    rm -rf "$scratch/linux-doc-6.1/$docs/linux-doc-6.1/html/_sources/translations" data/kernel
    mv "$scratch/linux-doc-6.1/$docs/linux-doc-6.1/html/_sources" data/kernel # reStructuredText, about 22 MB
    mv "$scratch/anarchism/$docs/anarchism/markdown" data/prose               # an English FAQ of book length, 11.7 MB
    rm -r "$scratch"
}

fetch_model data
[ -d data/prose ] || fetch_texts # data/prose is moved there last
longrope compare --recipe recipes/smollm2-64k.toml --out runs/smollm2-64k
longrope extend --out runs/smollm2-64k # takes the gradient search and its scores from there, and exports
