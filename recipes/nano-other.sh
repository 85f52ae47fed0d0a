#!/usr/bin/env bash
# Measure the factors of results/nano-paper on Python that neither the bundled model nor any search has read, five packages of
# Debian 12, with passkeys and needles of another seed. One CPU core, twenty minutes.
# Needs: apt-get with Debian 12's packages (nothing is installed) and python3 with longrope.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=(gajim mercurial-common python3-coverage python3-openpyxl python3-scrapy)
arms=(gradient gradient-floor cma cma-tail evolution evolution-critical)

if [ ! -d data/nano-other ]; then
    scratch=$(mktemp -d)
    mkdir "$scratch/debs" "$scratch/tree"
    (cd "$scratch/debs" && apt-get download "${packages[@]}")
    for package in "$scratch"/debs/*.deb; do
        name=$(basename "$package")
        dpkg -x "$package" "$scratch/tree/${name%%_*}"
    done
    python3 recipes/nano_texts.py "$scratch/tree" data/nano-other
    rm -r "$scratch"
fi
for arm in "${arms[@]}"; do
    longrope measure nano --factors "results/nano-paper/$arm" --measure-data data/nano-other --lengths 256,2k \
        --metrics perplexity,passkey,prose-needle --set measure.windows=64 --set measure.passkeys=100 --set measure.needles=100 \
        --set measure.tail_tokens=1024 --seed 1 --dtype float32 --out "runs/nano-other/$arm"
    cp "results/nano-paper/$arm/factors.json" "runs/nano-other/$arm/"
done
python3 recipes/arms.py recipes/nano-paper-evolution.toml runs/nano-other "${arms[@]}" --compare --reference gradient,evolution
