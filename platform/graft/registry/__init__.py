"""The registry: immutable model versions, the aliases that point at them, and their lineage.

A version is a trunk digest, the tail trained on that trunk, the preprocessing contract and the
golden images, by which a server proves that it computes what training did.
"""

from graft.registry.aliases import (
    CHAMPION,
    Alias,
    Move,
    Mover,
    alias_history,
    aliases,
    get_model,
    promote,
    promote_new,
    user_and_host,
)
from graft.registry.verdicts import Outcome, Verdict, record_verdict, verdicts
from graft.registry.versions import (
    Fence,
    Lineage,
    ModelDraft,
    ModelVersion,
    VersionRow,
    list_models,
    list_versions,
    register,
)

__all__ = [
    "CHAMPION",
    "Alias",
    "Fence",
    "Lineage",
    "ModelDraft",
    "ModelVersion",
    "Move",
    "Mover",
    "Outcome",
    "Verdict",
    "VersionRow",
    "alias_history",
    "aliases",
    "get_model",
    "list_models",
    "list_versions",
    "promote",
    "promote_new",
    "record_verdict",
    "register",
    "user_and_host",
    "verdicts",
]
