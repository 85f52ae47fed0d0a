"""``python -m longrope`` is the command ``longrope``."""

from longrope.cli import main

if __name__ == "__main__":
    main()
