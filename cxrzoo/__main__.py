"""``python -m cxrzoo``, which is what torchrun starts."""

from cxrzoo.cli import main

if __name__ == "__main__":
    main()
