#!/usr/bin/env bash
# Fetch the model and the texts of recipes/smollm2-2048k.toml into data/, run it, and measure what docs/2048k.md says of it; made for
# one GPU of 141 GB. Interrupted, the same command goes on where it was. With several GPUs that share each window:
# LAUNCH="torchrun --nproc-per-node 4 -m longrope" RANKS=4. Names of the functions below, as in
# `bash recipes/smollm2-2048k.sh train far`, choose what is run.
# The texts are from packages of Debian 12 and npm, and are not to be passed on. Needs: what recipes/fetch.sh needs, and
# longrope[gguf].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/fetch.sh
LAUNCH=${LAUNCH:-longrope}
model=data/SmolLM2-135M-Instruct.Q4_1.gguf texts=data/smollm2-2048k run=runs/smollm2-2048k
shared=(--context-ranks "${RANKS:-1}")

of_run() { # of_run OPTION...: measure the trained weights with the factors of their run, beside the original model
    $LAUNCH measure $run/stages/4-*/adapter --factors $run --base $model "${shared[@]}" "$@"
}

train() { # the training, the measurements up to 1,048,576 tokens, and the export
    $LAUNCH extend --recipe recipes/smollm2-2048k.toml "${shared[@]}" --out $run
}

passkeys() { # one in a text
    of_run --measure-data $texts/measure --lengths 4k,8k,32k,128k --metrics passkey --set measure.passkeys=10 \
        --out $run-passkeys
}

far() { # one window of prose of 2,097,152 tokens, then a text of this length with 20 needles and one with 20 passkeys
    local metric
    for metric in prefix-perplexity,position-perplexity,far-context prose-needle many-passkeys; do
        of_run --measure-data $texts/measure/prose --lengths 2048k --metrics $metric --set measure.windows=1 \
            --set measure.tail_tokens=8192 --set measure.tails=4096 --set measure.needles=20 --set measure.needles_per_text=20 \
            --set measure.passkeys=20 --set measure.passkeys_per_text=20 --out $run-far
    done
}

fetch_model data
[ -d $texts ] || fetch_million_texts $model $texts
parts=("$@")
[ $# -gt 0 ] || parts=(train passkeys far)
for part in "${parts[@]}"; do $part; done
