"""Job specs: frozen, fully documented, and checked before anything starts.

`load_job` reads a YAML 1.2 file, applies ``--set`` overrides and returns the spec
of its `kind`. A spec is inert data; what its words mean is decided by the modules
that read them (`backbones` for stages, `training` for optimisers).
"""

import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from graft.errors import SpecError

NAME = r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$"
"""What datasets, runs and models may be called: a safe part of an object's key and of a URL."""

Name = Annotated[str, Field(pattern=NAME)]


def _no_number(name: str) -> str:
    if name.isdigit():
        raise ValueError(f"an alias of digits alone would read as a version: {name}")
    return name


AliasName = Annotated[Name, AfterValidator(_no_number)]
Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of a spec: immutable, and no key in it is unknown."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class Dataset(Section):
    """Which images."""

    name: Name
    """Name given to `graft data import`."""
    version: str = "latest"
    """A version, an unambiguous beginning of one, or `latest`; a run records what it found."""


class Preprocess(Section):
    """From a decoded image to the tensor that the backbone sees; part of what is served."""

    resize: Positive = 256
    """Length of the shorter side before the centre crop of evaluation, in pixels."""
    crop: Positive = 224
    """Side of the square that the backbone sees, in pixels."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How images are resized, always antialiased."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from each of R, G, B after scaling to 0..1 (default: ImageNet's)."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Divides each of R, G, B after that (default: ImageNet's)."""

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.crop > self.resize:
            raise ValueError(f"crop ({self.crop}) is larger than resize ({self.resize})")
        if min(self.std) <= 0:
            raise ValueError("std must be above 0")
        return self


class Contract(Preprocess):
    """The preprocessing contract: all that happens from an image file's bytes to the tensor.

    EXIF orientation, RGB, the shrink of import, resize, crop, normalisation, in that
    order. Training reads images that import has shrunk; serving repeats it from the bytes on.
    """

    max_side: Positive
    """Longer side, in pixels, above which import shrinks an image."""


class Backbone(Section):
    """The pretrained network and where it is cut into trunk and tail."""

    arch: str
    """Architecture: resnet18, resnet34, resnet50, squeezenet1_1, vgg16, mobilenet_v3_small."""
    weights: str = "imagenet"
    """`imagenet`, a torchvision weights enum (`ResNet18_Weights.IMAGENET1K_V1`), a path or
    s3:// URI of a .safetensors or .pth file, `model://NAME[@VERSION]`, or `none` (random)."""
    weights_sha256: str | None = None
    """SHA-256 that the weights' file must have; a run records it."""
    freeze: int | str = "all"
    """Freeze depth: 0 trains everything, `all` (or N) the head alone, -1 all but the last
    stage, a stage's name freezes through it, inclusive."""
    dropout: Fraction | None = None
    """Probability of every dropout layer that is trained; null: as published."""


class LinearHead(Section):
    """One linear layer to the classes, shaped as in the architecture's own classifier."""

    kind: Literal["linear"] = "linear"
    replaces: Literal["last", "classifier"] = "last"
    """What of the architecture it replaces: its last layer, or all after the pooling."""


class NoAugment(Section):
    """Every epoch sees view 0, the evaluation transform."""

    kind: Literal["none"]


class StandardAugment(Section):
    """Random resized crop and horizontal flip (Szegedy et al. 2015, arXiv:1409.4842)."""

    kind: Literal["standard"] = "standard"
    views: Positive | Literal["live"] = "live"
    """How many augmented views an image has: epoch e trains on view 1 + (e mod views);
    `live`: a new one every epoch."""
    seed: Seed = 0
    """A view depends on this, the image and the view's number, and on nothing else."""
    scale: tuple[Fraction, Fraction] = (0.08, 1.0)
    """Smallest and largest part of the image's area that a crop covers."""
    ratio: tuple[float, float] = (0.75, 4 / 3)
    """Smallest and largest aspect ratio of a crop."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip; 0 for what must not be mirrored, such as letters."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be [smallest, largest], both above 0")
        return self


Augment = Annotated[NoAugment | StandardAugment, Field(discriminator="kind")]


class SGD(Section):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"]
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate."""
    momentum: Momentum = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4


class AdamW(Section):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    kind: Literal["adamw"]
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Learning rate."""
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2


Optimizer = Annotated[SGD | AdamW, Field(discriminator="kind")]


class Constant(Section):
    """The learning rate stays."""

    kind: Literal["constant"] = "constant"


class Step(Section):
    """The learning rate is multiplied by `factor` every `every` epochs."""

    kind: Literal["step"]
    every: Positive = 7
    """Epochs."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1


class Cosine(Section):
    """The learning rate falls along half a cosine (arXiv:1608.03983, without restarts)."""

    kind: Literal["cosine"]
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs of linear rise from 0 before."""
    final: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of the learning rate left at the end."""


Schedule = Annotated[Constant | Step | Cosine, Field(discriminator="kind")]


class Train(Section):
    """The training recipe."""

    epochs: Positive = 8
    batch_size: Positive = 32
    """Images per step, over all workers together."""
    accumulate: Positive = 1
    """Passes in which a worker takes its share of a batch, their gradients summed: for memory,
    or to repeat the passes of more workers (one worker with 2 passes equals two with 1)."""
    seed: Seed = 0
    """Seeds the head's initialisation, the order of images and dropout."""
    optimizer: Optimizer = SGD(kind="sgd")
    schedule: Schedule = Constant()
    batch_norm: Literal["replica", "sync"] = "replica"
    """Statistics of trained BatchNorm layers: each worker's own batch (rank 0's running
    statistics are kept), or the global batch's (`sync`; GPU only)."""


class Loader(Section):
    """How images get into memory; no setting here changes what is trained."""

    threads: Positive = 2
    """Decoding threads in each worker."""
    prefetch: Positive = 4
    """Batches prepared ahead."""
    decoded_cache_mb: Annotated[int, Field(ge=0)] = 1024
    """Memory in each worker for images kept decoded from one epoch to the next, in MB."""


class Scaling(Section):
    """What the cluster gives, and how failures are met."""

    workers: Positive = 1
    """Ray Train workers; the batch is split over them."""
    cpus_per_worker: Positive = 1
    """Logical CPUs that each worker reserves, and its number of torch threads."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0
    """GPUs that each worker uses."""
    max_restarts: Annotated[int, Field(ge=0)] = 2
    """How often a dead worker is started again from the last checkpoint."""
    stall_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Seconds without a finished step after which an attempt counts as dead."""


class Register(Section):
    """Where a finished run's model goes."""

    model: Name
    weights: Literal["best", "last"] = "best"
    """Those of the epoch with the best validation accuracy, or of the last epoch."""
    alias: AliasName | None = None
    """Alias to point at the new version."""


class Finetune(Section):
    """Fine-tune one backbone on one dataset version."""

    kind: Literal["finetune"]
    name: Name
    """Beginning of the run's id."""
    dataset: Dataset
    backbone: Backbone
    preprocess: Preprocess | None = None
    """null: as the weights were published or trained; ImageNet's usual where that is not known."""
    head: LinearHead = LinearHead()
    augment: Augment = StandardAugment()
    cache: Literal["auto", "off"] = "auto"
    """Whether a frozen trunk's activations are kept; never changes what is trained."""
    train: Train = Train()
    loader: Loader = Loader()
    scaling: Scaling = Scaling()
    register_: Register | None = Field(default=None, alias="register")
    """null: the run's weights stay in the run."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.train.batch_size < self.scaling.workers:
            raise ValueError(
                f"train.batch_size ({self.train.batch_size}) is smaller than "
                f"scaling.workers ({self.scaling.workers}): a worker would have no image"
            )
        share = self.train.batch_size // self.scaling.workers
        if self.train.accumulate > share:
            raise ValueError(
                f"train.accumulate ({self.train.accumulate}) is more than the {share} images "
                "that a worker has of a batch"
            )
        if self.train.batch_norm == "sync" and self.scaling.gpus_per_worker == 0:
            raise ValueError(
                "train.batch_norm: sync needs scaling.gpus_per_worker: 1; "
                "torch synchronises BatchNorm on GPUs only"
            )
        if self.train.batch_norm == "sync" and self.scaling.workers == 1:
            raise ValueError("train.batch_norm: sync has no effect with one worker")
        hashed = self.backbone.weights != "none" and "model://" not in self.backbone.weights
        if self.backbone.weights_sha256 and not hashed:
            raise ValueError(
                f"backbone.weights_sha256 has no effect with weights: {self.backbone.weights}"
            )
        schedule = self.train.schedule
        if isinstance(schedule, Step) and schedule.every >= self.train.epochs:
            raise ValueError(
                f"train.schedule.every ({schedule.every}) has no effect in "
                f"{self.train.epochs} epochs; lower it, or use kind: constant"
            )
        if isinstance(schedule, Cosine) and schedule.warmup_epochs >= self.train.epochs:
            raise ValueError(
                f"train.schedule.warmup_epochs ({schedule.warmup_epochs:g}) leaves nothing of "
                f"{self.train.epochs} epochs"
            )
        return self


Job = Finetune
KINDS: dict[str, type[Job]] = {"finetune": Finetune}
DEFAULT_KINDS = {"augment": "standard", "train.optimizer": "sgd", "train.schedule": "constant"}
"""What a section is where it says no `kind`, so that one key of it can be set alone."""


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> Job:
    """Read a job spec and apply overrides of the form ``a.b.c=value`` (value: YAML).

    Raises:
        SpecError: the file cannot be read, or the spec is not valid; every problem is
            listed with its key and, for an unknown key, the nearest known one.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"cannot read {path}: not text in UTF-8") from error
    document = parse_yaml(text, str(path))
    if not isinstance(document, dict):
        raise SpecError(f"{path}: expected a mapping with a `kind`, found {_kind_of(document)}")
    for override in overrides:
        _apply(document, override)
    return parse_job(document, str(path))


def parse_job(document: dict[str, Any], where: str) -> Job:
    """Check a parsed document; `where` names its origin in errors."""
    kind = document.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise SpecError(f"{where}: kind is {kind!r}; expected one of: {', '.join(KINDS)}")
    for key, default in DEFAULT_KINDS.items():
        document = _with_kind(document, key.split("."), default)
    try:
        # Strict, by way of JSON: "8" is no number, and a list is what JSON has for a tuple.
        content = json.dumps(document, default=str)
    except (TypeError, ValueError) as error:  # a key that is a list, an alias within itself
        raise SpecError(f"{where}: {error}") from error
    try:
        return model.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise SpecError("\n".join(_explain(where, model, error))) from error


def dump_job(job: Job) -> str:
    """Write a spec as YAML, every default spelled out; `load_job` reads it back unchanged."""
    import io

    from ruamel.yaml import YAML

    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(job.model_dump(mode="json", by_alias=True), stream)
    return stream.getvalue()


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML 1.2 (``1e-3`` is a number, ``no`` a string)."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise SpecError(f"{where}:{line} not YAML: {getattr(error, 'problem', error)}") from error


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or the known words where none is near."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(f"'{name}'" for name in close) + "?"
    return f"; known: {', '.join(known)}" if known else ""


def _apply(document: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise SpecError(f"--set {override}: expected KEY=VALUE, such as train.epochs=8")
    *parents, last = key.split(".")
    node = document
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise SpecError(f"--set {override}: '{parent}' is {_kind_of(node)}, not a section")
    node[last] = parse_yaml(value, f"--set {override}")


def _with_kind(document: dict[str, Any], path: Sequence[str], kind: str) -> dict[str, Any]:
    """Return `document` with a `kind` in the section at `path`, where it has that section."""
    if not path:
        return {"kind": kind} | document
    section = document.get(path[0])
    if not isinstance(section, dict):
        return document
    return document | {path[0]: _with_kind(section, path[1:], kind)}


def _explain(where: str, model: type[Section], error: ValidationError) -> Iterable[str]:
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        known, shown = _walk(model, path)
        key = ".".join(shown)
        if problem["type"] == "extra_forbidden":
            yield f"{where}: unknown key '{key}'{nearest(path[-1], known)}"
        elif problem["type"] == "union_tag_invalid":
            tags = [tag.strip(" '") for tag in problem["ctx"]["expected_tags"].split(",")]
            tag = problem["ctx"]["tag"]
            yield f"{where}: '{key}.kind' is '{tag}'{nearest(tag, tags)}"
        elif problem["type"] == "union_tag_not_found":
            yield f"{where}: '{key}.kind' is missing"
        elif problem["type"] == "missing":
            yield f"{where}: '{key}' is missing"
        elif problem["type"] == "value_error":
            message = problem["msg"].removeprefix("Value error, ")
            yield f"{where}: {key + ': ' if key else ''}{message}"
        else:
            found = problem["input"]
            found = "a mapping" if isinstance(found, dict) else json.dumps(found, default=str)
            yield f"{where}: '{key}' is {found}; {_lower(problem['msg'])}"


def _walk(model: type[Section], path: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the fields of the section that holds `path`'s last part, and the path as written.

    Pydantic puts a union's tag, or its member's name, into the path; the user's file does not.
    """
    sections: list[type[Section]] = [model]
    known: list[str] = []
    shown: list[str] = []
    for part in path:
        fields = {
            field.alias or name: field.annotation
            for section in sections
            for name, field in section.model_fields.items()
        }
        tagged = [s for s in sections if part in get_args(_kind(s))]
        if tagged and len(sections) > 1:
            sections = tagged
            continue
        if not sections:
            if part.isdigit():
                shown.append(part)
            continue
        known = list(fields)
        shown.append(part)
        sections = list(_sections(fields.get(part)))
    return known, shown


def _kind(section: type[Section]) -> Any:
    return section.model_fields["kind"].annotation if "kind" in section.model_fields else None


def _sections(annotation: Any) -> Iterable[type[Section]]:
    if get_origin(annotation) is not None:
        for argument in get_args(annotation):
            yield from _sections(argument)
    elif isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation


def _kind_of(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", type(None): "nothing"}
    return names.get(type(value), f"{value!r}")


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
