"""The proof, after training, that no frozen bit has moved."""

from graft.backbones.transfer_model import TransferModel
from graft.backbones.trunk import TrunkChain, trunk_chain
from graft.errors import RunFailed
from graft.spec import Contract
from graft.training.worker_group import Ranks


def prove_frozen(
    trained: str, model: TransferModel, contract: Contract, chain: TrunkChain, ranks: Ranks
) -> None:
    """Hash the trunk again on every worker, and compare it with the chain of before training.

    Args:
        trained: the run or trial, as an error names it.
        model: cut at the depth that was frozen.
        contract: the preprocessing, which the chain begins with.
        chain: the chain of before training.
        ranks: this worker among the others.

    Raises:
        RunFailed: a parameter or buffer of a frozen stage has changed on some worker.
    """
    moved = chain.first_moved(trunk_chain(model, contract))
    for rank, name in enumerate(ranks.gather(moved)):
        if name is not None:
            stage = model.stages.names[model.stage_of(name)]
            raise RunFailed(
                f"{trained}: '{name}' of frozen stage '{stage}' changed during training on worker "
                f"{rank}; what it trained is void"
            )
