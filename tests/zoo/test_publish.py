"""A finished run becomes a published folder that reproduces it; cards and index are what its files say."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from metaad_zoo.cli import main
from metaad_zoo.data import list_datasets
from metaad_zoo.zoo import load_checkpoint, publish, read_index, refresh, save_checkpoint
from metaad_zoo.zoo.index import zoo_folder
from metaad_zoo.zoo.limits import limits, verdict
from metaad_zoo.zoo.published import FILES, INDEX, read_published
from metaad_zoo.zoo.published import NAME as NAMES
from metaad_zoo.zoo.publishing import TOTAL_LIMIT, generated
from metaad_zoo.zoo.terms import TERMS
from tests.conftest import REPOSITORY
from tests.zoo.conftest import NAME, NOTES, train

PUBLISHED = REPOSITORY / "checkpoints"


@pytest.fixture
def own_run(run, tmp_path):
    """A copy of the run that may be changed."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def edit_results(run, change):
    path = run / "results.json"
    results = json.loads(path.read_text())
    change(results)
    path.write_text(json.dumps(results))


def test_cards_and_index_are_what_the_code_writes_from_the_result_files():
    assert zoo_folder() == PUBLISHED
    stale = [str(path) for path, text in generated(PUBLISHED) if not path.is_file() or path.read_text() != text]
    assert not stale, "run `metaad publish --refresh`"
    folders = {p.name for p in PUBLISHED.iterdir() if p.is_dir()}
    assert folders == set(read_index(PUBLISHED)), "a folder of checkpoints/ that is not in the index"
    assert all(NAMES.fullmatch(name) for name in folders)
    files = [p for p in PUBLISHED.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < TOTAL_LIMIT
    assert {p.name for p in files} <= {*FILES, INDEX}


def test_holds_all_that_is_promised_and_no_place_of_this_machine(zoo, run):
    assert {p.name for p in (zoo / NAME).iterdir()} == set(FILES)
    for path in (zoo / NAME).iterdir():
        assert str(run.parents[1]).encode() not in path.read_bytes(), path.name
    config = yaml.safe_load((zoo / NAME / "config.yaml").read_text())
    assert config["name"] == NAME
    assert "runs" not in config


def test_the_published_config_trains_the_same_weights_again(zoo, tmp_path):
    (tmp_path / "runs").mkdir()
    again = train(zoo / NAME / "config.yaml", tmp_path / "runs")
    assert (again / "model" / "model.safetensors").read_bytes() == (zoo / NAME / "model.safetensors").read_bytes()
    ours, theirs = (json.loads(p.read_text()) for p in (again / "results.json", zoo / NAME / "metrics.json"))
    assert ours["methods"]["maml"]["mean"] == theirs["methods"]["maml"]["mean"]


def test_a_card_tells_figures_data_and_limits(zoo):
    text = (zoo / NAME / "README.md").read_text()
    metrics = json.loads((zoo / NAME / "metrics.json").read_text())
    for figures in metrics["methods"].values():
        low, high = figures["ci95"]["auroc"]
        assert f"{100 * figures['mean']['auroc']:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in text
    for promised in ("license: apache-2.0", "generated: Apache-2.0", NOTES.strip(), f'load_detector("{NAME}")'):
        assert promised in text
    assert f"python train.py --config checkpoints/{NAME}/config.yaml" in text


def test_a_card_tells_of_generated_tables_beside_the_data(zoo):
    path = zoo / NAME / "metrics.json"
    metrics = json.loads(path.read_text())
    sentence = "; 30 % of the training episodes use generated tables."
    assert sentence not in (zoo / NAME / "README.md").read_text()
    metrics["protocol"]["data"]["generated_share"] = 0.3
    path.write_text(json.dumps(metrics))
    assert sentence in dict(generated(zoo))[zoo / NAME / "README.md"]


@pytest.mark.parametrize("steps", [0, 1])
def test_a_card_says_whether_the_model_is_trained(steps, zoo):
    path = zoo / NAME / "metrics.json"
    metrics = json.loads(path.read_text())
    assert metrics["protocol"]["outer_steps"] == 2, "an epoch of 8 episodes, 4 at a time"
    metrics["protocol"]["outer_steps"] = steps
    for figures in metrics["methods"].values():
        figures["auroc_behind_first"] |= {"mean": 0.0, "ci95": [0.0, 0.0]}
    path.write_text(json.dumps(metrics))
    text = dict(generated(zoo))[zoo / NAME / "README.md"]
    assert ("Not trained: no optimiser step was made" in text) == (steps == 0)
    assert ("- Trained on: " in text) == ("This command trained it" in text) == (steps > 0)
    assert ("**same network, untrained may be as good here**" in text) == (steps > 0), "it would compare with itself"


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ([0.01, 0.03], None),
        ([-0.01, 0.03], "may be as good here"),
        ([0.0, 0.03], "may be as good here"),
        ([-0.03, -0.01], "is better here"),
        (None, "There are too few test tasks to tell whether it beats"),
    ],
)
def test_a_baseline_that_does_as_well_is_named(interval, said, zoo):
    path = zoo / NAME / "metrics.json"
    metrics = json.loads(path.read_text())
    for name, figures in metrics["methods"].items():
        wanted = interval if name == "1-NN on raw inputs" else [0.1, 0.2]
        figures["auroc_behind_first"] |= {"mean": 0.1, "ci95": wanted}
        figures["seconds_per_task"] = 1.0
    path.write_text(json.dumps(metrics))
    sentences = " ".join(limits(read_published(zoo / NAME)))
    assert ("1-NN on raw inputs" in sentences) == (said is not None)
    assert said is None or said in sentences
    assert verdict({"ci95": [0.1, 0.2]}) == "better"
    changed = {p.name for p in refresh(zoo)}
    assert "index.json" in changed
    assert refresh(zoo) == []


@pytest.mark.parametrize(("times", "is_slow"), [(4.9, False), (5.1, True)])
def test_a_slow_model_gives_the_reason(times, is_slow, zoo):
    path = zoo / NAME / "metrics.json"
    metrics = json.loads(path.read_text())
    for name, auroc in (("1-NN on raw inputs", 0.6), ("1-NN on standardised inputs", 0.5)):
        metrics["methods"][name]["mean"]["auroc"] = auroc
        metrics["methods"][name]["seconds_per_task"] = 0.002 if auroc == 0.6 else 1e-6
    metrics["methods"]["maml"]["seconds_per_task"] = 0.002 * times
    path.write_text(json.dumps(metrics))
    sentence = "Slower than 1-NN on raw inputs: 10 ms instead of 2 ms to adapt and to score a test episode, "
    text = " ".join(limits(read_published(zoo / NAME)))
    assert (f"{sentence}because a network takes gradient steps" in text) == ("Slower" in text) == is_slow


def test_a_changed_figure_makes_card_and_index_stale(zoo):
    assert refresh(zoo) == []
    path = zoo / NAME / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["methods"]["maml"]["mean"]["auroc"] = 0.999
    path.write_text(json.dumps(metrics))
    assert {p.name for p in refresh(zoo)} == {"README.md", "index.json"}
    assert "99.9" in (zoo / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("sequence-gru-maml", "expected <modality>-<backbone>-<learner>-<data>, here sequence-gru-maml-<data>"),
        ("image-gru-maml-generated", "here sequence-gru-maml"),
        ("sequence-lstm-maml-generated", "here sequence-gru-maml"),
        ("sequence-gru-anil-generated", "here sequence-gru-maml"),
        ("sequence-gru-maml-../x", "of small letters"),
        (NAME, "is there already"),
    ],
)
def test_a_name_says_what_it_is(name, complaint, run, zoo):
    with pytest.raises(ValueError, match=complaint):
        publish(run, name, zoo)


def change_config(run, **options):
    checkpoint = load_checkpoint(run / "model")
    config = yaml.safe_load(checkpoint.config)
    config["data"]["init_args"] |= options
    checkpoint.config = yaml.safe_dump(config)
    save_checkpoint(run / "model", checkpoint)


@pytest.mark.parametrize("dataset", sorted(n for n, t in TERMS.items() if t.licence is None))
def test_data_without_a_licence_is_not_published(dataset, own_run, tmp_path):
    change_config(own_run, dataset=dataset)
    with pytest.raises(ValueError, match=rf"{dataset} comes without a licence"):
        publish(own_run, NAME, tmp_path / "zoo", data_licence="mine")
    assert not (tmp_path / "zoo").exists()


def test_own_data_needs_a_stated_licence_and_no_path_of_this_machine(own_run, tmp_path):
    change_config(own_run, dataset="own", root="pictures")
    with pytest.raises(ValueError, match="say under which terms with --data-licence"):
        publish(own_run, NAME, tmp_path / "zoo")
    folder = publish(own_run, NAME, tmp_path / "zoo", data_licence="CC0")
    assert "own: CC0" in (folder / "README.md").read_text()
    change_config(own_run, dataset="own", root="pictures", splits={"train": ["/srv/a"]})
    with pytest.raises(ValueError, match=r"splits.train is '/srv/a', which exists only on this machine"):
        publish(own_run, NAME, tmp_path / "other", data_licence="CC0")


@pytest.mark.parametrize(
    ("root", "published"),
    [
        ("/mnt/mine/pictures/", "pictures"),
        ("~/t.csv", "t.csv"),
        ("C:\\mine\\rows", "rows"),
        (["/mnt/a", "b/c"], ["a", "b/c"]),
    ],
)
def test_of_a_path_to_own_data_the_name_alone_is_published(root, published, own_run, tmp_path, capsys):
    change_config(own_run, dataset="own", root=root)
    line = ["publish", str(own_run), "--name", NAME, "--to", str(tmp_path / "zoo"), "--data-licence", "CC0"]
    assert main(line) == 0
    config = yaml.safe_load((tmp_path / "zoo" / NAME / "config.yaml").read_text())
    assert config["data"]["init_args"]["root"] == published
    errors = capsys.readouterr().err
    for place, name in zip(*([root, published] if isinstance(root, list) else ([root], [published])), strict=True):
        assert (f"published as {name!r} instead of {place!r}" in errors) == (place != name)


@pytest.mark.parametrize("root", ["/", "..", "~"])
def test_a_path_without_a_name_is_refused(root, own_run, tmp_path):
    change_config(own_run, dataset="own", root=root)
    with pytest.raises(ValueError, match=r"root is .* which exists only on this machine"):
        publish(own_run, NAME, tmp_path / "zoo", data_licence="CC0")


def test_the_root_of_known_data_is_left_out(own_run, tmp_path):
    change_config(own_run, dataset=["smd", "asd"], root=str(tmp_path))
    folder = publish(own_run, NAME, tmp_path / "zoo")
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["init_args"]["root"] is None
    assert "must name a folder with asd.npz, smd.npz" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda r: r["protocol"]["learner"].update(backbone="lstm"), "describes another model"),
        (lambda r: r["protocol"]["trained_or_chosen_on"].pop(), "describes another model"),
        (lambda r: r.pop("methods"), "is no result of a training"),
        (
            lambda r: r["protocol"].update(note="/srv/data"),
            "protocol.note is '/srv/data', which exists only",
        ),
    ],
)
def test_results_of_another_model_or_with_a_path_are_refused(change, complaint, own_run, tmp_path):
    edit_results(own_run, change)
    with pytest.raises(ValueError, match=complaint):
        publish(own_run, NAME, tmp_path / "zoo")
    assert not list(tmp_path.glob("zoo/*"))


def test_notes_with_a_place_of_this_machine_are_refused(run, tmp_path, monkeypatch):
    monkeypatch.setenv("METAAD_DATA", "/mnt/mine")
    with pytest.raises(ValueError, match=r"notes\.md names /mnt/mine"):
        publish(run, NAME, tmp_path / "zoo", notes="The data lay in /mnt/mine/x.")


def test_all_together_stay_small(run, zoo, monkeypatch):
    monkeypatch.setattr("metaad_zoo.zoo.publishing.TOTAL_LIMIT", 20_000)
    with pytest.raises(ValueError, match="all published checkpoints would have"):
        publish(run, "sequence-gru-maml-other", zoo)
    assert not (zoo / "sequence-gru-maml-other").exists()


def test_an_unfinished_run_is_refused(own_run, tmp_path):
    (own_run / "results.json").unlink()
    with pytest.raises(ValueError, match="is no finished run"):
        publish(own_run, NAME, tmp_path / "zoo")


def test_every_known_data_set_has_terms_or_needs_them_stated():
    assert set(TERMS) - {"generated"} <= set(list_datasets())
    assert set(list_datasets()) - set(TERMS) == {"torchvision/MNIST"}
