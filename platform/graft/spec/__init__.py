"""Job specs: frozen, fully documented, and checked before anything starts.

`load_job` reads a YAML 1.2 file, applies ``--set`` overrides and returns the spec of the
file's `kind`. A spec is inert data: the modules that read it decide what its words mean
(`backbones` for stages, `training` for optimisers).
"""

from graft.spec.backbone_and_head import Backbone, Head, LinearHead, MLPHead
from graft.spec.checkpointing import Checkpointing
from graft.spec.data import (
    Contract,
    Dataset,
    Loader,
    NoAugment,
    Preprocess,
    StandardAugment,
)
from graft.spec.dataset_import import Import
from graft.spec.demo import Demo
from graft.spec.dotted_keys import Changes
from graft.spec.evaluation import Evaluation
from graft.spec.explain import nearest
from graft.spec.finetune import Finetune, Register, Scaling
from graft.spec.jobfile import (
    Job,
    Kind,
    dump_job,
    load_job,
    parse_job,
    parse_yaml,
    trial_spec,
    with_settings,
)
from graft.spec.prediction import Prediction
from graft.spec.ranges import Choice, IntUniform, LogUniform, Range, Uniform
from graft.spec.scheduler import ASHA, PBT, HyperBand, MedianStopping, NoScheduler
from graft.spec.section import NAME, Digest, Id, Name, Ref, Section
from graft.spec.sweep import (
    AsIs,
    BOHBSearch,
    Budget,
    GridSearch,
    ListSearch,
    RandomSearch,
    Retrain,
    Sweep,
    TPESearch,
)
from graft.spec.train import (
    METRICS,
    SGD,
    AdamW,
    Constant,
    Cosine,
    DecayedRates,
    EarlyStopping,
    ListedRates,
    OneCycle,
    Schedule,
    StageRate,
    StepDecay,
    Train,
    UniformRates,
)
from graft.spec.transfer import Arm, Labels, Pretrained, TransferReport

__all__ = [
    "ASHA",
    "METRICS",
    "NAME",
    "PBT",
    "SGD",
    "AdamW",
    "Arm",
    "AsIs",
    "BOHBSearch",
    "Backbone",
    "Budget",
    "Changes",
    "Checkpointing",
    "Choice",
    "Constant",
    "Contract",
    "Cosine",
    "Dataset",
    "DecayedRates",
    "Demo",
    "Digest",
    "EarlyStopping",
    "Evaluation",
    "Finetune",
    "GridSearch",
    "Head",
    "HyperBand",
    "Id",
    "Import",
    "IntUniform",
    "Job",
    "Kind",
    "Labels",
    "LinearHead",
    "ListSearch",
    "ListedRates",
    "Loader",
    "LogUniform",
    "MLPHead",
    "MedianStopping",
    "Name",
    "NoAugment",
    "NoScheduler",
    "OneCycle",
    "Prediction",
    "Preprocess",
    "Pretrained",
    "RandomSearch",
    "Range",
    "Ref",
    "Register",
    "Retrain",
    "Scaling",
    "Schedule",
    "Section",
    "StageRate",
    "StandardAugment",
    "StepDecay",
    "Sweep",
    "TPESearch",
    "Train",
    "TransferReport",
    "Uniform",
    "UniformRates",
    "dump_job",
    "load_job",
    "nearest",
    "parse_job",
    "parse_yaml",
    "trial_spec",
    "with_settings",
]
