"""`python -m otherview`, as torchrun starts it."""

from otherview.cli import main

if __name__ == "__main__":
    main()
