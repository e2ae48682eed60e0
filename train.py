"""Meta-train a model: `python train.py --config configs/quickstart.yaml`; see the README."""

from metaad_zoo.cli.train import run

if __name__ == "__main__":
    run()
