#!/usr/bin/env bash
# Fetch the model and the texts of recipes/gemma3-2048k.toml into data/, run it, and measure what docs/2048k.md says of it; made for
# one GPU of 141 GB. Interrupted, the same command goes on where it was: begin it again after every run of half an hour where
# time is lent so. With several GPUs: LAUNCH="torchrun --nproc-per-node 4 -m longrope". Names of the functions below, as in
# `bash recipes/gemma3-2048k.sh train control`, choose what is run. FACTORS=yarn trains and measures another formula's factors alike,
# in a run of their own: `FACTORS=yarn bash recipes/gemma3-2048k.sh train lengths passkeys control answers`; ATTENTION=1.4159 with another attention
# factor than the formula's own; SEED=1 with another seed.
# The model is under the Gemma Terms of Use, https://ai.google.dev/gemma/terms. The texts are from packages of Debian 12 and
# npm, and are not to be passed on. Needs: what recipes/fetch.sh needs, and longrope[gguf].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/fetch.sh
LAUNCH=${LAUNCH:-longrope} PYTHON=${PYTHON:-python3}
FACTORS=${FACTORS:-} ATTENTION=${ATTENTION:-} SEED=${SEED:-}
model=data/gemma-3-270m-q4_k_m.gguf texts=data/gemma3-2048k run=runs/gemma3-2048k${FACTORS:+-$FACTORS}${ATTENTION:+-$ATTENTION}${SEED:+-seed$SEED}
alike=() # the recipe with another formula or seed
[ -z "$FACTORS" ] || alike=(--set "$(stages_by recipes/gemma3-2048k.toml ntk-critical "$FACTORS")")
[ -z "$ATTENTION" ] || alike+=(--set search.method=${FACTORS:-ntk-critical} --set search.attention_factor=$ATTENTION)
[ -z "$SEED" ] || alike+=(--seed "$SEED")
same=(--set measure.window_tokens=2048k --set measure.tail_tokens=32768 --set measure.tails=4096) # the text of the run
needles=(--metrics far-context,prose-needle "${same[@]}" --set measure.needles=60)

of_run() { # of_run OPTION...: measure the trained weights with the factors of their run, beside the original model
    $LAUNCH measure $run/stages/4-*/adapter --factors $run --base $model --measure-data $texts/measure "$@"
}

train() { # the training and the export, measured at few lengths
    $LAUNCH extend --recipe recipes/gemma3-2048k.toml --set measure.lengths=4k,32k,128k --set measure.window_tokens=2048k \
        "${alike[@]}" --out $run
}

whole() { # the same, and the trained weights at all lengths
    $LAUNCH extend --recipe recipes/gemma3-2048k.toml "${alike[@]}" --out $run
}

lengths() { # after train: the same trained weights at the lengths that it has not measured
    of_run --lengths 512k,1024k,2048k --metrics prefix-perplexity,position-perplexity,far-context,prose-needle,many-passkeys \
        "${same[@]}" --set measure.needles=60 --set measure.passkeys=40 --set measure.passkeys_per_text=20 --out $run-lengths
}

passkeys() { # one in a text
    of_run --lengths 4k,32k,128k,512k,1024k,2048k --metrics passkey --set measure.passkeys=10 --out $run-passkeys
}

window() { # more of them in the model's own window, on a CPU in an hour
    of_run --lengths 32k --metrics many-passkeys,prose-needle --set measure.passkeys=100 --set measure.passkeys_per_text=20 \
        --set measure.needles=100 --out $run-window
}

hundred() { # a hundred of each at every length from that window on, so that two trainings can be told apart
    of_run --lengths 32k,128k,512k,1024k,2048k --metrics many-passkeys,prose-needle --set measure.passkeys=100 \
        --set measure.passkeys_per_text=20 --set measure.needles=100 --out $run-hundred
}

ruler() { # RULER's six tasks, which no training had, and the original in its own window beside them
    local tasks=(--metrics ruler-subset --set measure.ruler_prompts=10 --out $run-ruler)
    of_run --lengths 4k,32k,128k "${tasks[@]}"
    $LAUNCH measure $model --measure-data $texts/measure --lengths 4k,32k "${tasks[@]}"
}

ruler_2048k() { # the same at the full length with needles beside them: few, since each prompt of RULER has a pass of its own
    of_run --lengths 2048k --metrics prose-needle,ruler-subset --set measure.needles=40 --set measure.ruler_prompts=2 \
        --out $run-ruler-2048k
}

control() { # the same last tokens with far context shuffled, and with another text's
    of_run --lengths 128k,512k,1024k --metrics far-context,far-shuffled,far-replaced "${same[@]}" --out $run-control
}

reworded() { # facts that are asked for in other words, and needles in prose; on short texts beside the original
    of_run --lengths 32k,128k --metrics reworded-questions,prose-needle "${same[@]}" --set measure.needles=60 \
        --out $run-reworded
    local short=(--measure-data $texts/measure/prose --lengths 1k,4k --metrics reworded-questions --set measure.windows=1
        --set measure.window_tokens=2048k --set measure.needles=30 --out $run-reworded-short)
    $LAUNCH measure $model "${short[@]}"
    $LAUNCH measure $run/stages/4-*/adapter --factors $run "${short[@]}"
}

untrained() { # without training, by factors for 512k
    $LAUNCH extend --recipe recipes/gemma3-2048k-untrained.toml --out $run-untrained
}

before() { # without training, by the factors of the run
    $LAUNCH measure $model --factors $run --measure-data $texts/measure --lengths 128k,512k "${needles[@]}" --out $run-before
}

untrained_1024k() { # without training, by the best two formulas for 1,024k
    local method
    for method in ntk-critical critical; do
        $LAUNCH measure $model --method $method --measure-data $texts/measure --lengths 1024k "${needles[@]}" \
            --out $run-untrained-1024k
    done
}

untrained_2048k() { # the same at 2,097,152 tokens, with fewer needles
    local method
    for method in ntk-critical critical; do
        $LAUNCH measure $model --method $method --measure-data $texts/measure --lengths 2048k "${needles[@]}" \
            --set measure.needles=20 --out $run-untrained-2048k
    done
}

varied() { # two trainings that differ in their needles alone, this one and the next
    $LAUNCH extend --recipe recipes/gemma3-needles.toml --set tune.needle_kinds=varied --out runs/gemma3-needles-varied
}

codes() {
    $LAUNCH extend --recipe recipes/gemma3-needles.toml --set tune.needle_kinds=codes --out runs/gemma3-needles-codes
}

far() { # one pass over 4,194,304 tokens that end as the prose above does, by factors for so many and by those of the run
    far_pass 2048k
    far_pass 4096k
    far_pass 4096k --factors $run
}

farther() { # one pass over 8,388,608 tokens: PYTHON="torchrun --nproc-per-node 2" shares it among two GPUs
    far_pass 8192k
}

far_pass() { # far_pass TOKENS OPTION...: a line in a file of its own, unless it is there
    local line=$run/far-$1${2:-}.jsonl
    [ -f "$line" ] || $PYTHON recipes/far_pass.py $run/stages/4-*/adapter "$line" $texts/search/prose.npy \
        $texts/measure/{code,manual,prose}/joined.npy --tokens "$@"
    cat $run/far-*.jsonl > $run/far.jsonl
}

answers() { # about a document of more than a million tokens, with the cache in 16 and in 8 bits, and by the export
    ask answers-16 $run/stages/4-*/adapter --factors $run
    ask answers-8 $run/stages/4-*/adapter --factors $run --eight-bit-cache
    ask answers-hf $run/hf
    cat $run/answers-{16,8}.jsonl > $run/answers.jsonl
}

ask() { # ask NAME MODEL OPTION...: three questions, unless their answers are in a file of this name
    [ ! -f "$run/$1.jsonl" ] || return 0
    rm -f "$run/$1.partial"
    python3 recipes/ask_document.py "$2" $texts/document.txt "$run/$1.partial" "${@:3}"
    mv "$run/$1.partial" "$run/$1.jsonl"
}

fetch_gemma data
[ -d $texts ] || fetch_million_texts $model $texts
parts=("$@")
[ $# -gt 0 ] || parts=(whole passkeys window hundred ruler ruler_2048k control reworded untrained before untrained_1024k untrained_2048k varied codes far farther answers)
for part in "${parts[@]}"; do $part; done
