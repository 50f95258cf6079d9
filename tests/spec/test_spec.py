"""Job specs: what is read, what is refused and how that is said, and what is written back."""

from pathlib import Path

import pytest

from graft.errors import SpecError
from graft.spec import (
    SGD,
    AdamW,
    Finetune,
    Job,
    StandardAugment,
    dump_job,
    load_job,
    nearest,
    parse_job,
    parse_yaml,
)

JOBS = Path(__file__).parents[2] / "jobs"
BASE = """\
kind: finetune
name: ants-bees
dataset: {name: ants-bees}
backbone: {arch: resnet18}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(BASE)
    return path


def load(spec: Path, text: str, *overrides: str) -> Job:
    spec.write_text(BASE + text)
    return load_job(spec, overrides)


def refusal(spec: Path, text: str, *overrides: str) -> str:
    with pytest.raises(SpecError) as error:
        load(spec, text, *overrides)
    assert error.value.exit_code == 2
    return str(error.value)


def test_defaults(spec: Path) -> None:
    job = load_job(spec)
    assert isinstance(job, Finetune)
    assert job.dataset.version == "latest"
    assert job.backbone.weights == "imagenet"
    assert job.backbone.freeze == "all"
    assert job.train.optimizer == SGD(kind="sgd", lr=1e-3, momentum=0.9, weight_decay=1e-4)
    assert job.augment == StandardAugment(views="live", seed=0)
    assert job.register_ is None


def test_a_spec_cannot_be_changed(spec: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_job(spec).train.epochs = 3


@pytest.mark.parametrize(
    ("written", "read"), [("1e-3", 1e-3), ("3E-4", 3e-4), ("0.1", 0.1), ("1", 1.0), (".5", 0.5)]
)
def test_numbers_are_those_of_yaml_1_2(spec: Path, written: str, read: float) -> None:
    job = load(spec, f"train: {{optimizer: {{kind: sgd, lr: {written}}}}}")
    assert job.train.optimizer.lr == read


def test_words_are_those_of_yaml_1_2(spec: Path) -> None:
    assert load(spec, "cache: off").cache == "off"
    assert "'cache' is \"no\"" in refusal(spec, "cache: no")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trian: {epochs: 3}", "unknown key 'trian'; did you mean 'train'?"),
        ("train: {epoch: 3}", "unknown key 'train.epoch'; did you mean 'epochs'?"),
        (
            "train: {optimizer: {kind: sgd, learning_rate: 1}}",
            "unknown key 'train.optimizer.learning_rate'; known: kind, lr, momentum, weight_decay",
        ),
        ("train: {optimizer: {kind: sgd, beta: [0, 0]}}", "'train.optimizer.beta'; known: kind"),
        ("train: {optimizer: {kind: adamw, beta: [0, 0]}}", "did you mean 'betas'?"),
        ("train: {optimizer: {kind: adam}}", "'train.optimizer.kind' is 'adam'; did you mean"),
        ("augment: {kind: none, views: 3}", "unknown key 'augment.views'; known: kind"),
        ("register_: {model: x}", "unknown key 'register_'; did you mean 'register'?"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(spec: Path, text: str, said: str) -> None:
    assert said in refusal(spec, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: {epochs: '8'}", "'train.epochs' is \"8\"; input should be a valid integer"),
        ("train: {epochs: 8.5}", "'train.epochs' is 8.5"),
        ("train: {epochs: 0}", "'train.epochs' is 0; input should be greater than 0"),
        ("train: {optimizer: {kind: sgd, lr: .nan}}", "input should be a finite number"),
        ("train: 3", "'train' is 3"),
        ("augment: {kind: standard, views: lots}", "'augment.views' is \"lots\""),
        ("augment: {kind: standard, flip: 2}", "'augment.flip' is 2; input should be less"),
        ("augment: {kind: standard, scale: [1, 0.5]}", "augment: scale must be [smallest, largest"),
        ("preprocess: {crop: 300}", "preprocess: crop (300) is larger than resize (256)"),
        ("register: {model: Not A Name}", "'register.model' is \"Not A Name\""),
        ("scaling: {workers: 64}", "train.batch_size (32) is smaller than scaling.workers (64)"),
        (
            "train: {checkpoint: {every: 10}}",
            "train.checkpoint.every: '10' is no interval; expected",
        ),
        (
            "train: {checkpoint: {every: 10 minutes}}",
            "s, min, h or steps, such as 10min or 500 ste",
        ),
        ("train: {checkpoint: {every: 0s}}", "or epoch for none inside an epoch"),
        (
            "train: {checkpoint: {evry: 1h}}",
            "unknown key 'train.checkpoint.evry'; did you mean 'ev",
        ),
        ("train: {batch_norm: sync}", "train.batch_norm: sync needs scaling.gpus_per_worker: 1"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_right(spec: Path, text: str, said: str) -> None:
    assert said in refusal(spec, text)


def test_every_problem_is_listed(spec: Path) -> None:
    said = refusal(spec, "train: {epochs: 0, batch: 3}\ncahce: off")
    assert len(said.splitlines()) == 3
    assert all(line.startswith(f"{spec}: ") for line in said.splitlines())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a mapping with a `kind`, found nothing"),
        ("- 1", "expected a mapping with a `kind`, found a list"),
        ("a: [", "line 1: not YAML"),
        ("kind: finetune\nkind: finetune", "line 2: not YAML: found duplicate key"),
        ("kind: finetuen", "kind is 'finetuen'; expected one of: finetune"),
        ("kind: finetune\ndataset: {name: a}\nbackbone: {arch: b}", "'name' is missing"),
    ],
)
def test_a_file_that_is_no_spec(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(SpecError) as error:
        load_job(tmp_path / "job.yaml")
    assert said in str(error.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"cannot read .*nothing\.yaml"):
        load_job(tmp_path / "nothing.yaml")
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(SpecError, match=r"cannot read .*picture\.yaml"):
        load_job(tmp_path / "picture.yaml")


def test_overrides(spec: Path) -> None:
    job = load(
        spec,
        "train: {epochs: 8, optimizer: {kind: sgd, lr: 1}}",
        "train.epochs=3",
        "train.optimizer.lr=3e-4",
        "backbone.freeze=-1",
        "backbone.weights=s3://bucket/a=b.pth",
        "register.model=ants",
        "augment={kind: none}",
    )
    assert job.train.epochs == 3
    assert job.train.optimizer == SGD(kind="sgd", lr=3e-4)
    assert job.backbone.freeze == -1
    assert job.backbone.weights == "s3://bucket/a=b.pth"
    assert job.register_ is not None
    assert job.register_.model == "ants"
    assert job.augment.kind == "none"


def test_the_last_override_counts(spec: Path) -> None:
    assert load(spec, "", "train.epochs=3", "train.epochs=4").train.epochs == 4


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epoch=3", "unknown key 'train.epoch'; did you mean 'epochs'?"),
        ("train.epochs", "--set train.epochs: expected KEY=VALUE"),
        ("=3", "--set =3: expected KEY=VALUE"),
        ("name.x=3", "--set name.x=3: 'name' is text, not a section"),
        ("train.epochs=[", "--set train.epochs=[: line 1: not YAML"),
        ("train.epochs=three", "'train.epochs' is \"three\""),
    ],
)
def test_a_wrong_override(spec: Path, override: str, said: str) -> None:
    assert said in refusal(spec, "", override)


FULL = """
preprocess: {resize: 64, crop: 56, interpolation: bicubic, mean: [0, 0, 0], std: [1, 1, 1]}
head: {kind: linear, replaces: classifier}
augment: {kind: standard, views: 5, seed: 7, flip: 0}
cache: off
train:
  epochs: 3
  batch_size: 8
  optimizer: {kind: adamw, lr: 1e-7, betas: [0.8, 0.95]}
  schedule: {kind: cosine, warmup_epochs: 0.5}
scaling: {workers: 2, stall_timeout_s: 30}
register: {model: ants-bees, weights: last, alias: champion}
"""


@pytest.mark.parametrize("text", ["", FULL])
def test_what_is_written_reads_back_the_same(spec: Path, tmp_path: Path, text: str) -> None:
    # A version of digits alone must stay text on the way.
    job = load(
        spec, text, 'dataset.version="123456789012"', 'backbone.weights_sha256="' + 64 * "1" + '"'
    )
    (tmp_path / "dumped.yaml").write_text(dump_job(job))
    assert load_job(tmp_path / "dumped.yaml") == job
    if text:
        assert isinstance(job.train.optimizer, AdamW)
        assert job.train.optimizer.betas == (0.8, 0.95)


@pytest.mark.parametrize(
    ("written", "every", "seconds", "steps"),
    [
        ("90s", "90s", 90, None),
        ("10 min", "10min", 600, None),
        ("2h", "2h", 7200, None),
        ("500steps", "500 steps", None, 500),
        ("1 steps", "1 step", None, 1),
        ("epoch", "epoch", None, None),
    ],
)
def test_an_interval_is_time_or_steps(
    spec: Path, written: str, every: str, seconds: float | None, steps: int | None
) -> None:
    job = load(spec, f"train: {{checkpoint: {{every: {written}}}}}")
    assert isinstance(job, Finetune)
    checkpoint = job.train.checkpoint
    assert (checkpoint.every, checkpoint.seconds, checkpoint.steps) == (every, seconds, steps)
    # At its default it is left out, so that specs of before stay what they were.
    assert ("checkpoint" in dump_job(job)) == (every != "10min")


def test_defaults_are_spelled_out_when_written(spec: Path) -> None:
    written = dump_job(load_job(spec))
    for line in ("version: latest", "epochs: 8", "views: live", "register: null"):
        assert line in written
    assert written.startswith("kind: finetune\nname: ants-bees\n")


def test_a_document_from_elsewhere_is_checked_too() -> None:
    with pytest.raises(SpecError, match="recorded: 'backbone' is missing"):
        parse_job({"kind": "finetune", "name": "a", "dataset": {"name": "a"}}, "recorded")


def test_nearest() -> None:
    assert nearest("resnet81", ["resnet18", "vgg16"]) == "; did you mean 'resnet18'?"
    assert nearest("zzz", ["resnet18", "vgg16"]) == "; known: resnet18, vgg16"
    assert nearest("zzz", []) == ""


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_job_has_every_key(path: Path) -> None:
    written = parse_yaml(path.read_text(), str(path))
    complete = load_job(path, (), None).model_dump(mode="json", by_alias=True)

    def keys(section: object, path: str = "") -> set[str]:
        if not isinstance(section, dict):
            return {path}
        return {key for name, value in section.items() for key in keys(value, f"{path}.{name}")}

    assert keys(complete) == keys(written)


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_job_file_is_valid_and_says_how_it_is_run(path: Path) -> None:
    job = load_job(path, [], None)
    assert f"jobs/{path.name}" in path.read_text()
    assert dump_job(parse_job(parse_yaml(dump_job(job), "again"), "again", None)) == dump_job(job)
