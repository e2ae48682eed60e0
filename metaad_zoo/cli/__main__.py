"""`python -m metaad_zoo.cli`: the same as `metaad`."""

from metaad_zoo.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
