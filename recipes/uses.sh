#!/usr/bin/env bash
# What long windows are used for: many-shot in-context learning, questions about a manual, memory of a dialogue, a summary
# with planted notes. The original model against one with factors, both at the same lengths:
#   bash recipes/uses.sh MODEL FACTORS TEXTS LENGTHS OUT [OPTIONS OF MEASURE...]
#   bash recipes/uses.sh data/SmolLM2-135M-Instruct.Q4_1.gguf runs/smollm2-64k data/manuals 8k,16k,32k,64k runs/uses
# FACTORS is a factors.json or a run directory; TEXTS fills what the tasks leave of a window. With --dry-run it only
# estimates; on a CPU take few questions: --set measure.needles=10 --set measure.ruler_prompts=2.
set -euo pipefail

model=$1 factors=$2 texts=$3 lengths=$4 out=$5
metrics=many-shot,manual-questions,dialogue-memory,planted-summary,many-shot-4,many-shot-16,many-shot-64,many-shot-256
given=(--metrics "$metrics" --lengths "$lengths" --measure-data "$texts" --set measure.needles=100 --set measure.ruler_prompts=20)
given+=("${@:6}")
longrope measure "$model" "${given[@]}" --out "$out/original"
longrope measure "$model" "${given[@]}" --factors "$factors" --out "$out/extended"
case " ${*:6} " in *" --dry-run "*) exit ;; esac
longrope report "$out/original" "$out/extended" --out "$out/uses.html"
