#!/usr/bin/env bash
# Fetch the texts of recipes/nano.py into data/nano/python: hand-written Python out of Debian 12's packages.
# Needs: apt-get with Debian 12's packages (nothing is installed) and python3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

packages=(
    ansible-core pylint python3-aiohttp python3-breezy python3-dask python3-django python3-docutils python3-flask
    python3-hypothesis python3-ipython python3-matplotlib python3-mypy python3-networkx python3-nltk python3-numpy
    python3-pandas python3-pygments python3-sklearn python3-sphinx python3-sqlalchemy python3-sympy python3-tornado
    python3-twisted python3-werkzeug
)

mkdir -p data/nano/packages
(cd data/nano/packages && apt-get download "${packages[@]}")
scratch=$(mktemp -d)
for package in data/nano/packages/*.deb; do
    name=$(basename "$package")
    dpkg -x "$package" "$scratch/${name%%_*}"
done
python3 recipes/nano_texts.py "$scratch" data/nano/python
rm -r "$scratch"
