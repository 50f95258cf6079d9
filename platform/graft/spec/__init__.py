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
from graft.spec.finetune import Finetune, Register, Scaling
from graft.spec.jobfile import Job, dump_job, load_job, nearest, parse_job, parse_yaml
from graft.spec.model import Backbone, Head, LinearHead, MLPHead
from graft.spec.section import NAME, Name, Section
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

__all__ = [
    "NAME",
    "SGD",
    "AdamW",
    "Augment",
    "Backbone",
    "Constant",
    "Contract",
    "Cosine",
    "Dataset",
    "DecayedRates",
    "EarlyStopping",
    "Finetune",
    "Head",
    "Job",
    "LinearHead",
    "ListedRates",
    "Loader",
    "MLPHead",
    "Name",
    "NoAugment",
    "OneCycle",
    "Preprocess",
    "Register",
    "Scaling",
    "Schedule",
    "Section",
    "StageRate",
    "StandardAugment",
    "Step",
    "Train",
    "Unfreeze",
    "UniformRates",
    "dump_job",
    "load_job",
    "nearest",
    "parse_job",
    "parse_yaml",
]
