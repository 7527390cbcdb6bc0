"""Run `laconic adopt` as `python -m training.adopt`, which is how the `laconic` command starts it."""

from training.adopt.command import main

if __name__ == "__main__":
    main()
