"""Every Lightning logger of a run gets hyper-parameters, curves of the inner loop and the test figures."""

from __future__ import annotations

import csv
import json
import math

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metaad_zoo.cli.loggers import log_hyperparameters, log_test_figures
from metaad_zoo.cli.train import run
from tests.cli.short import QUICKSTART, SHORT

CURVES = {"train/loss", "val/auroc", "inner/support_loss/0", "inner/query_loss/1", "meta_gradient/head"}
MAML = ("--model.diagnose_every=1", "--trainer.max_epochs=1", "--model.inner_loop.lr=0.25")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """A run with TensorBoard and MLflow's file store at once; then a test of it by MLflow alone."""
    folder = tmp_path_factory.mktemp("loggers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 asks for it
        address = (folder / "mlruns").as_uri()
        loggers = [
            {"class_path": "TensorBoardLogger", "init_args": {"save_dir": str(folder / "events"), "version": "one"}},
            {
                "class_path": "MLFlowLogger",
                "init_args": {"tracking_uri": address, "tags": {"password": "secret"}},
            },
        ]
        config = folder / "loggers.yaml"
        config.write_text(yaml.safe_dump({"trainer": {"logger": loggers}}))
        arguments = [*QUICKSTART, *SHORT, *MAML, "--runs", str(folder / "runs")]
        trained = run([*arguments, "--config", str(config)])
        best = str(trained.run_dir / "checkpoints" / "best.ckpt")
        only_mlflow = ["--trainer.logger=MLFlowLogger", f"--trainer.logger.tracking_uri={address}"]
        run(["test", *arguments, *only_mlflow, "--ckpt_path", best])
        from mlflow.tracking import MlflowClient

        client = MlflowClient(address)
        experiment = client.get_experiment_by_name("lightning_logs").experiment_id
        tracked = client.search_runs([experiment], order_by=["attributes.start_time ASC"])
        yield trained.run_dir, folder / "events" / "lightning_logs" / "one", client, tracked


def results_of(run_dir):
    return {name: m["mean"] for name, m in json.loads((run_dir / "results.json").read_text())["methods"].items()}


def test_mlflow_has_settings_curves_and_test_figures(stores):
    run_dir, _, client, (trained, _) = stores
    settings, metrics = trained.data.params, trained.data.metrics
    assert settings["model"] == "metaad_zoo.learners.GradientLearner"
    assert settings["model.inner_loop.lr"] == "0.25"
    assert settings["data.episode.query_normal"] == "4"
    assert metrics.keys() >= CURVES
    assert [m.step for m in client.get_metric_history(trained.info.run_id, "inner/support_loss/0")] == [0, 1, 2, 3]
    means = results_of(run_dir)
    assert metrics["test/auroc"] == pytest.approx(means["maml"]["auroc"])
    assert metrics["test/same_network_untrained/ap"] == pytest.approx(means["same network, untrained"]["ap"])
    assert trained.info.status == "FINISHED"


def test_a_test_alone_goes_to_the_logger_that_it_names(stores):
    run_dir, _, _, (_, tested) = stores
    assert tested.data.params["model.inner_loop.lr"] == "0.25"
    assert tested.data.metrics["test/auroc"] == pytest.approx(results_of(run_dir)["maml"]["auroc"], abs=1e-6)


def test_tensorboard_has_the_same(stores):
    run_dir, folder, _, _ = stores
    events = EventAccumulator(str(folder))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= {*CURVES, "test/auroc", "test/1-NN_on_pixels/f1"}
    for name in ("test/auroc", "hp_metric"):
        assert events.Scalars(name)[-1].value == pytest.approx(results_of(run_dir)["maml"]["auroc"])
    assert yaml.safe_load((folder / "hparams.yaml").read_text())["model.inner_loop.lr"] == 0.25


def test_metrics_csv_and_the_curve_stay_beside_them(stores):
    run_dir = stores[0]
    assert (run_dir / "learning_curve.png").stat().st_size > 0
    with (run_dir / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) >= {*CURVES, "step", "test/auroc"}
    assert not list(run_dir.glob("events*")), "TensorBoard writes where the config says"


def test_arguments_of_loggers_are_no_hyperparameters(stores):
    assert "secret" not in json.dumps(stores[3][0].data.params)


class Recorder:
    """Stands for a logger of Lightning that a project brings."""

    def __init__(self):
        self.settings, self.figures = {}, {}

    def log_hyperparams(self, params):
        self.settings |= params

    def log_metrics(self, metrics, step):
        self.figures |= {name: (value, step) for name, value in metrics.items()}

    def save(self):
        pass

    def finalize(self, status):
        assert status == "success"


def test_names_are_those_of_the_command_line_and_fit_every_logger():
    logger = Recorder()
    config = {
        "model": {"class_path": "MAML", "init_args": {"backbone": "conv4", "input_shapes": None}},
        "data": {"class_path": "ImageEpisodes", "init_args": {"splits": {"train": ["0", "1"]}, "sizes": [8, 8]}},
        "trainer": {"max_steps": 3, "logger": [{"init_args": {"api_key": "secret"}}], "callbacks": []},
    }
    log_hyperparameters([logger], config)
    assert logger.settings == {
        "model": "MAML",
        "model.backbone": "conv4",
        "data": "ImageEpisodes",
        "data.splits.train": "['0', '1']",
        "data.sizes": "[8, 8]",
        "trainer.max_steps": 3,
    }
    methods = {"maml": {"mean": {"auroc": 0.9, "f1": math.nan}}, "knn@own/model (k=1)": {"mean": {"auroc": 0.5}}}
    log_test_figures([logger], methods, step=7)
    assert logger.figures == {"test/auroc": (0.9, 7), "test/knn_own/model_k_1_/auroc": (0.5, 7)}
