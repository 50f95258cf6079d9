"""Bad input, through the real `main`: a clear reason, exit code 2, nothing lost or left behind.

What one module can refuse by itself (images, tables, HTTP bodies) is tested with it.
"""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import commands
from colours import colour_spec, draw_colours
from graft.data.importing import import_dataset
from graft.errors import TRY_LATER
from graft.spec import dump_job
from graft.store import Store
from graft.training.run_records import Result

RUN = "colours-20260101-000000-abcd"


class User:
    """Somebody in a folder with a store, a dataset, a finished run and a spec."""

    def __init__(self, folder: Path):
        self.folder = folder

    def run(
        self, *arguments: str, how: Callable[..., commands.Done] = commands.main, **environment: str
    ) -> tuple[int, str, str]:
        done = how(*arguments, cwd=self.folder, env=environment)
        return done.returncode, done.stdout, done.stderr

    def files(self) -> dict[str, int]:
        """All files of the store."""
        store = self.folder / "graft-store"
        files = (path for path in store.rglob("*") if path.is_file())
        return {str(path.relative_to(store)): path.stat().st_size for path in files}

    def refused(
        self,
        *arguments: str,
        how: Callable[..., commands.Done] = commands.main,
        exit_code: int = 2,
        **environment: str,
    ) -> str:
        """Run a command that must fail on the user's account, and return what it says."""
        before = self.files()
        code, output, messages = self.run(*arguments, how=how, **environment)
        assert code == exit_code, messages
        assert output == ""
        assert self.files() == before
        said = messages[messages.index("graft: ") :]
        assert "Traceback" not in messages
        assert said.endswith("\n")
        return said


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory, s3_server: Any) -> User:
    folder = tmp_path_factory.mktemp("user")
    draw_colours(folder / "images")
    store = Store.open(str(folder / "graft-store"))
    version = import_dataset(
        store, str(folder / "images"), "colours", test_fraction=0
    ).manifest.version
    spec = dump_job(colour_spec())
    (folder / "job.yaml").write_text(spec)
    result = Result(
        run=RUN,
        model="colours@1",
        weights="last",
        epoch=3,
        metrics={"train": {}, "val": {"accuracy": 0.5, "loss": 1.0, "macro_f1": 0.4, "recall": {}}},
        seconds=1.0,
        images_per_second=1.0,
        trunk_digest=64 * "0",
        freeze=0,
        dataset=f"colours@{version}",
        attempt=1,
        history=(),
        created="2026-01-01T00:00:00+00:00",
    )
    store.create(f"runs/{RUN}/spec.yaml", spec.encode())
    store.create(f"runs/{RUN}/result.json", result.model_dump_json().encode())
    return User(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["train.epoch=3"], "job.yaml: unknown key 'train.epoch'; did you mean 'epochs'?"),
        (["train.epochs=three"], "'train.epochs' is \"three\"; input should be a valid integer"),
        (["train.epochs=0"], "'train.epochs' is 0; input should be greater than 0"),
        (["train.epochs"], "--set train.epochs: expected KEY=VALUE"),
        (["train.epochs=["], "--set train.epochs=[: line 1: not YAML"),
        (["name.x=1"], "'name' is text, not a section"),
        (["dataset.name=colour"], "no dataset 'colour' in "),
        (["dataset.version=zz"], "dataset 'colours' has no version 'zz'; known: "),
        (["backbone.arch=resnet19"], "unknown architecture 'resnet19'; did you mean 'resnet18'"),
        (["backbone.freeze=12"], "12 is out of range for squeezenet1_1, which has 9 stages (stem"),
        (["backbone.freeze=fire99"], "has no stage 'fire99'; did you mean 'fire9'"),
        (["train.batch_size=64", "scaling.workers=50"], "39 training images, fewer than"),
        (["scaling.workers=9"], "train.batch_size (8) is smaller than scaling.workers (9)"),
        (["train.batch_norm=sync", "scaling.workers=2"], "synchronises BatchNorm on GPUs only"),
        (["backbone.weights=nowhere.pth"], "no file nowhere.pth; expected `imagenet`, `none`"),
        (["backbone.weights=images"], "images is a folder or no regular file"),
        (["backbone.weights=model://nobody"], "no model 'nobody' in "),
    ],
)
def test_settings_that_cannot_be(user: User, settings: list[str], message: str) -> None:
    options = [word for setting in settings for word in ("--set", setting)]
    said = user.refused("train", "job.yaml", *options)
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read spec.yaml: No such file or directory"),
        (b"", "spec.yaml: expected a mapping with a `kind`, found nothing"),
        (b"some text", "spec.yaml: expected a mapping with a `kind`, found text"),
        (b"kind: [finetune", "spec.yaml: line 1: not YAML"),
        (b"name: a\nname: b\n", "spec.yaml: line 2: not YAML: found duplicate key"),
        (b"\x89PNG\r\n", "cannot read spec.yaml: not text in UTF-8"),
        (b"kind: swoop", "spec.yaml: kind is 'swoop'; expected one of: finetune, sweep"),
        (b"kind: finetune", "spec.yaml: 'dataset' is missing"),
        (b"kind: finetune\n? [a, b]\n: c\n", "spec.yaml: keys must be str"),
        (b"kind: finetune\na: &a [*a]\n", "spec.yaml: Circular reference"),
    ],
)
def test_files_that_are_no_spec(user: User, content: bytes | None, message: str) -> None:
    (user.folder / "spec.yaml").unlink(missing_ok=True)
    if content is not None:
        (user.folder / "spec.yaml").write_bytes(content)
    assert message in user.refused("train", "spec.yaml")


class Harmful:
    """Leaves a trace where it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("trace",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pth", b"", "empty.pth is no file of torch.save, or damaged"),
        ("text.pth", b"hello world", "text.pth is no file of torch.save, or damaged"),
        ("random.safetensors", bytes(range(256)), "is no .safetensors file, or damaged"),
        ("code.pth", Harmful(), "code.pth is more than plain tensors (posix.mkdir)"),
        ("model.pth", torch.nn.Linear(1, 1), "(torch.nn.modules.linear.Linear); save model."),
        ("other.pth", {"conv1.weight": torch.zeros(1)}, "other.pth does not fit: missing features"),
    ],
)
def test_weights_that_are_none_or_do_not_fit(
    user: User, name: str, content: object, message: str
) -> None:
    if isinstance(content, bytes):
        (user.folder / name).write_bytes(content)
    else:
        torch.save(content, user.folder / name)
    said = user.refused("train", "job.yaml", "--set", f"backbone.weights={name}")
    assert message in said
    assert said.count("\n") == 1
    assert not (user.folder / "trace").exists()
    if name == "other.pth":
        assert " more; unknown conv1.weight\n" in said
        said = user.refused(
            *("train", "job.yaml", "--set", f"backbone.weights={name}"),
            *("--set", "backbone.weights_sha256=" + 32 * "ab"),
        )
        assert "has SHA-256" in said


def test_published_weights_without_network(user: User, nobody: str) -> None:
    said = user.refused(
        *("train", "job.yaml", "--set", "backbone.weights=imagenet"),
        exit_code=TRY_LATER,
        TORCH_HOME=str(user.folder / "torch"),
        https_proxy=f"http://{nobody}",
    )
    assert "cannot be downloaded (" in said
    assert f"put it at {user.folder}/torch/hub/checkpoints/squeezenet1_1-b8a52dc0.pth" in said
    assert "--set backbone.weights=PATH" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs", "show", RUN[:-1]], f"no run '{RUN[:-1]}' in "),
        (["runs", "resume", RUN[:-1]], f"did you mean '{RUN}'?"),
        (["models", "show", "colours"], "no model 'colours' in "),
        (["models", "promote", "colours@1"], "no model 'colours' in "),
        (["serve", "colours"], "it has none yet, `graft train` registers them"),
        (["data", "show", "colour"], "did you mean 'colours'?"),
        (["data", "import", "nowhere", "--name", "new"], "source 'nowhere' does not exist"),
        (["data", "import", "images/train/red", "--name", "new"], "and no class folder"),
        (["data", "import", "images", "--name", "Not/A/Name"], "dataset name 'Not/A/Name'"),
    ],
)
def test_what_is_not_there(user: User, arguments: list[str], message: str) -> None:
    said = user.refused(*arguments)
    assert message in said
    assert said.count("\n") == 1


def test_a_finished_run_is_not_trained_again(user: User) -> None:
    before = user.files()
    code, output, messages = user.run("runs", "resume", RUN, "--json")
    assert code == 0
    assert json.loads(output)["model"] == "colours@1"
    assert messages == f"{RUN} has finished already; nothing was trained\n"
    assert user.files() == before


@pytest.mark.slow  # a Ray of its own: nine CPU seconds
def test_a_port_in_use(user: User, tmp_path: Path) -> None:
    from graft.registry import Lineage, ModelDraft, register
    from graft.spec import Contract, LinearHead

    draft = ModelDraft(
        name="colours",
        arch="squeezenet1_1",
        head=LinearHead(),
        dropout=None,
        classes=("blue", "red"),
        contract=Contract(max_side=512),
        freeze=0,
        stages=(),
        trunk_digest=64 * "0",
        metrics={},
        weights="best",
        epoch=1,
        lineage=Lineage(
            run=RUN,
            dataset="colours",
            dataset_version="0",
            spec={},
            weights="none",
            weights_sha256=None,
            packages={},
            git_commit=None,
        ),
    )
    store = str(tmp_path / "store")
    register(Store.open(store), draft, b"tail", b"golden")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words = ("serve", "colours", "--port", port, "--store", store)
        said = user.refused(*words, how=commands.graft)  # importing Ray Serve warns
    assert f"cannot listen at 127.0.0.1:{port}: Address already in use" in said


# Not in the tests' own process, which may use a Ray.


@pytest.mark.slow  # Ray tries for some seconds
@pytest.mark.parametrize("address", ["somewhere", "ray://{}"])
def test_no_ray_at_its_address(user: User, nobody: str, address: str) -> None:
    address = address.format(nobody)
    words = ("train", "job.yaml")
    said = user.refused(*words, how=commands.graft, exit_code=TRY_LATER, RAY_ADDRESS=address)
    assert f"no Ray answers at RAY_ADDRESS={address}" in said


@pytest.mark.slow
def test_more_than_the_cluster_has_leaves_no_run(user: User, ray_cluster_address: str) -> None:
    words = ("train", "job.yaml", "--set", "scaling.gpus_per_worker=1")
    said = user.refused(*words, how=commands.graft, RAY_ADDRESS=ray_cluster_address)
    assert "asks for 1 GPUs (1 workers with 1 each), the cluster has 0" in said


COMMANDS = [
    ["data", "import", "images", "--name", "new"],
    ["train", "job.yaml"],
    ["models", "ls"],
    ["store", "check"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    "trouble", ["bucket", "key", pytest.param("endpoint", marks=pytest.mark.slow)]
)
def test_stores_that_cannot_be_used(
    user: User, s3_server: Any, bucket: str, nobody: str, command: list[str], trouble: str
) -> None:
    uri, environment = f"s3://{bucket}/x", {}
    if trouble == "bucket":
        uri = "s3://there-is-no-such-bucket/x"
        message = "bucket 'there-is-no-such-bucket' does not exist at http"
    elif trouble == "key":
        if not s3_server.fences:
            pytest.skip("moto takes any credentials")
        environment = {"AWS_SECRET_ACCESS_KEY": "wrong"}
        message = "the credentials were refused (SignatureDoesNotMatch)"
    else:
        environment = {"AWS_ENDPOINT_URL": f"http://{nobody}"}
        message = "cannot be reached (EndpointConnectionError); check AWS_ENDPOINT_URL"
    exit_code = TRY_LATER if trouble == "endpoint" else 2
    said = user.refused(*command, "--store", uri, exit_code=exit_code, **environment)
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("store", "environment", "message"),
    [
        ("", {}, "store '': expected s3://bucket/prefix or a local directory"),
        ("s3://", {}, "found no bucket"),
        ("job.yaml", {}, "store 'job.yaml' is a file"),
        ("job.yaml/store", {}, "Not a directory"),
        ("s3://a-bucket", {"AWS_ENDPOINT_URL": "nonsense"}, "Invalid endpoint: nonsense"),
        ("s3://a-bucket", {"AWS_PROFILE": "nobody"}, "The config profile (nobody) could not be"),
    ],
)
def test_stores_that_are_none(
    user: User, store: str, environment: dict[str, str], message: str
) -> None:
    for command in COMMANDS:
        assert message in user.refused(*command, "--store", store, **environment)
