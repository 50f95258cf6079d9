"""Drawing what a version's answers mean."""

from typing import TYPE_CHECKING

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from graft.cli.show.tables import facts
from graft.report.uses import used_already

if TYPE_CHECKING:
    from graft.decisions.promises import Promise
    from graft.decisions.records import Decision, Held


def decision_page(decision: "Decision") -> Group:
    """Return a decision for people to read."""
    rows = {
        "model": decision.model,
        "decision": f"{decision.number}, in force from now on",
        "answers": _answers(decision),
    }
    rows["calibration"] = str(decision.calibration)
    if decision.error_after is not None and decision.error_before is not None:
        where = "left out in turn" if decision.crossed else "that judge"
        rows["calibration error"] = (
            f"{decision.error_after:.4f}, {decision.error_before:.4f} before (images {where})"
        )
    if decision.coverage is not None:
        rows["promise"] = (
            f"{100 * decision.coverage:g} % of sets hold the true class, on average over draws of "
            "the images that certify it; of all images together, not of each class"
        )
    if decision.promises:
        rows["promises"] = (
            f"with a confidence of {100 * (decision.confidence or 0):g} %, all at once, for images "
            "like these" + _at_shares(decision)
        )
    if decision.dataset:
        rows["images"] = _images(decision)
    if decision.left_out:
        rows["left out"] = "; ".join(decision.left_out)
    if decision.tried_before or decision.level is not None:
        rows["tried"] = _tried(decision)
    if decision.held:
        rows |= _held(decision.held)
    tables = [_promises(decision)] if decision.promises else []
    return Group(facts(None, rows), *tables)


def in_words(decision: "Decision | None") -> str:
    """Return what a version answers, on one line."""
    if decision is None:
        return "the likeliest class"
    return f"{_answers(decision)} (decision {decision.number}, calibration {decision.calibration})"


def _answers(decision: "Decision") -> str:
    from graft.decisions.rules import Costs, Sets, Thresholds

    match decision.rule:
        case Thresholds(by_class=(), others=others):
            return f"the likeliest class from {others:.4g} on; else unknown"
        case Thresholds(by_class=by_class, others=others):
            first = ", ".join(
                f"{single.name} from {single.threshold:.4g} on" for single in by_class
            )
            least = f" from {others:.4g} on" if others else ""
            return f"{first}, else the likeliest of the others{least}; else unknown"
        case Costs():
            return "what costs the least, as the model expects it"
        case Sets(threshold=threshold):
            return f"sets of all classes of at least {threshold:.4g}"
        case _:
            return "the likeliest class"


def _at_shares(decision: "Decision") -> str:
    kinds = {promise.target.kind for promise in decision.promises}
    return ", with these shares of classes" if kinds & {"precision", "accuracy", "cost"} else ""


def _images(decision: "Decision") -> str:
    parts = [f"{decision.fitted_on:,} fit"]
    if decision.certified_on:
        parts.append(f"{decision.certified_on:,} others certify")
    if decision.held:
        parts.append(f"{decision.held.images:,} more judge")
    used = used_already(decision.used_before)
    return f"{decision.dataset}, {decision.split}: {', '.join(parts)}{used}"


def _tried(decision: "Decision") -> str:
    """Return how often these images were asked to certify something, and how strictly so."""
    others = decision.tried_before
    times = {0: "the first try", 1: "one other thing"}.get(others, f"{others} other things")
    before = f"{times} with these images{' before' if others else ''}"
    if decision.level is None:
        return before
    return (
        f"{before}: tested at a level of {decision.level:.2g}, so that all tries together keep the "
        "confidence"
    )


def held_facts(number: int, held: "Held") -> Table:
    """Return how a decision answers for images that judge."""
    rows = {str(promise.target): _of(promise) for promise in held.promises}
    return facts(f"by decision {number}, which is in force", _held(held) | rows)


def _of(promise: "Promise") -> str:
    return f"{_found(promise)} of {promise.images:,} images"


def _held(held: "Held") -> dict[str, str]:
    """Return what images that judge say of the answers."""
    right = f", {100 * held.right / held.answered:.1f} % of these right" if held.answered else ""
    rows = {"judged": f"{100 * held.answered / held.images:.1f} % answered{right}"}
    if held.covered is not None:
        rows["sets judged"] = (
            f"{100 * held.covered / held.images:.1f} % hold the true class; {held.mean_set:.2f} "
            "classes each"
        )
    return rows


def _promises(decision: "Decision") -> Table:
    table = Table("promise", "certified by", "p", "judged")
    held = decision.held.promises if decision.held else ()
    judged = {str(promise.target): promise for promise in held}
    for promise in decision.promises:
        other = judged.get(str(promise.target))
        table.add_row(
            escape(str(promise.target)),
            f"{_found(promise)} of {promise.images:,}",
            f"{promise.p_value:.2g}",
            f"{_found(other)} of {other.images:,}" if other else "",
        )
    return table


def _found(promise: "Promise") -> str:
    """Return what images say of a target."""
    if promise.mean_cost is not None:
        return f"{promise.mean_cost:.4g} each"
    if not promise.images:
        return "none"
    share = promise.kept / promise.images
    return f"{100 * (1 - share if promise.target.kind == 'false-accepts' else share):.1f} %"
