"""The command ``longrope``, which is ``python -m longrope``, too. An interrupt is quiet from the first import on."""

import os
import sys

INTERRUPTED = 130
NO_WINDOWS = "longrope: Windows is not supported: run directories are locked as on Linux and macOS. Use it in WSL.\n"


def main(system: str = os.name) -> None:
    """Import the command line and run it; ``system`` is a name as ``os.name`` gives it."""
    if system == "nt":
        sys.stderr.write(NO_WINDOWS)
        sys.exit(2)
    try:
        from longrope.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
