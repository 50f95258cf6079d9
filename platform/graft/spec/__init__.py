"""Job specs: frozen, fully documented, and checked before anything starts.

`load_job` reads a YAML 1.2 file, applies ``--set`` overrides and returns the spec
of its `kind`. A spec is inert data; what its words mean is decided by the modules
that read them (`backbones` for stages, `training` for optimisers).
"""

from graft.spec.data import (
    Augment,
    Contract,
    Dataset,
    Loader,
    NoAugment,
    Preprocess,
    StandardAugment,
)
from graft.spec.demo import Demo
from graft.spec.evaluation import Evaluation
from graft.spec.explain import nearest
from graft.spec.finetune import Finetune, Register, Scaling
from graft.spec.jobfile import Job, dump_job, load_job, parse_job, parse_yaml, trial_spec
from graft.spec.model import Backbone, Head, LinearHead, MLPHead
from graft.spec.scheduler import ASHA, PBT, HyperBand, MedianStopping, NoScheduler
from graft.spec.section import NAME, Name, Section
from graft.spec.sweep import (
    METRICS,
    MUTABLE,
    AsIs,
    BOHBSearch,
    Budget,
    Choice,
    GridSearch,
    IntUniform,
    ListSearch,
    LogUniform,
    RandomSearch,
    Range,
    Retrain,
    Sweep,
    TPESearch,
    Uniform,
)
from graft.spec.train import (
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
    Step,
    Train,
    Unfreeze,
    UniformRates,
)
from graft.spec.transfer import Arm, Arms, Pretrained, TransferReport

__all__ = [
    "ASHA",
    "METRICS",
    "MUTABLE",
    "NAME",
    "PBT",
    "SGD",
    "AdamW",
    "Arm",
    "Arms",
    "AsIs",
    "Augment",
    "BOHBSearch",
    "Backbone",
    "Budget",
    "Choice",
    "Constant",
    "Contract",
    "Cosine",
    "Dataset",
    "DecayedRates",
    "Demo",
    "EarlyStopping",
    "Evaluation",
    "Finetune",
    "GridSearch",
    "Head",
    "HyperBand",
    "IntUniform",
    "Job",
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
    "Preprocess",
    "Pretrained",
    "RandomSearch",
    "Range",
    "Register",
    "Retrain",
    "Scaling",
    "Schedule",
    "Section",
    "StageRate",
    "StandardAugment",
    "Step",
    "Sweep",
    "TPESearch",
    "Train",
    "TransferReport",
    "Unfreeze",
    "Uniform",
    "UniformRates",
    "dump_job",
    "load_job",
    "nearest",
    "parse_job",
    "parse_yaml",
    "trial_spec",
]
