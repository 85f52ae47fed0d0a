#!/usr/bin/env bash
# Fetch the model and the texts of recipes/smollm2-64k-tuned.toml into data/, then run it, its LoRA variant, and the second
# search to 256k; made for one GPU of 80 GB, about 12 minutes.
# Needs: what recipes/fetch.sh needs, and longrope[gguf,lora].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/fetch.sh
PACKAGES=(debian-handbook debian-reference-en debian-policy developers-reference installation-guide-amd64 jargon-text
    rust-doc postgresql-doc-15 python-django-doc sqlite3-doc zsh-doc git-doc octave-doc emacs-common perl-doc)

fetch_texts() {
    local scratch kernel
    scratch=$(mktemp -d)
    unpack_packages "$scratch" "${PACKAGES[@]}" linux-doc-6.1 anarchism
    kernel=$scratch/linux-doc-6.1/usr/share/doc/linux-doc-6.1/html/_sources
    rm -rf "$kernel/translations"
    python3 recipes/manual_texts.py "$scratch" "$scratch/manuals"
    python3 recipes/tuned_tokens.py data/SmolLM2-135M-Instruct.Q4_1.gguf "$scratch/manuals" "$kernel" \
        "$scratch/anarchism/usr/share/doc/anarchism/markdown" "$scratch/tuned"
    mv "$scratch/tuned" data/tuned
    rm -r "$scratch"
}

fetch_model data
[ -d data/tuned ] || fetch_texts
longrope extend --recipe recipes/smollm2-64k-tuned.toml --out runs/smollm2-64k-tuned
longrope extend --recipe recipes/smollm2-64k-tuned.toml --lora 32 --rate 1e-3 --out runs/smollm2-64k-lora
python3 recipes/smollm2_256k.py runs/smollm2-64k-tuned search
