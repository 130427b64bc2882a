"""`python -m objectness` is the command `objectness`."""

from .cli import main

if __name__ == "__main__":
    main()
