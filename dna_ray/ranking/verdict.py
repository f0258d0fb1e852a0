"""The answer in words: does the rating rank, and does it tell more than cost does?"""

from collections.abc import Mapping
from math import isfinite

from dna_ray.ranking.evaluation import Evaluation, Figure
from dna_ray.ranking.truth import Truth
from dna_ray.space import cost_name


def verdict(evaluation: Evaluation) -> str:
    """One to three sentences. What an interval leaves open is called open.

    The rating tells more (less) than cost does where the whole interval of its lead over the best
    cost is above (below) 0. It tells something apart from that cost where it agrees with accuracy
    among architectures of about equal cost, clearly and more than what is left of the cost there.
    """
    rating, best, lead = evaluation.rating.kendall, evaluation.best_cost, evaluation.lead
    count = len(evaluation.rated.accuracy)
    if not isfinite(rating.value):
        return f"The rating ranks nothing: it is the same for all {count:,} architectures."
    if rating.high < 0:
        return (
            f"The rating ranks the wrong way round: Kendall {_with_interval(rating)} over "
            f"{count:,} architectures. Is a lower loss better in this table?"
        )
    if not evaluation.rated.costs:
        return (
            "Whether the rating tells more than cost does is open, for no cost is known: "
            "add columns such as macs and params to the ratings table, or to the bench."
        )
    if best is None or lead is None:
        return "Cost tells nothing here, for all architectures cost the same."
    by, against = cost_name(best), evaluation.baselines[best].kendall.value
    figures = (
        f"Kendall {rating.value:.3f} against {against:.3f} of {by}, a difference of "
        f"{_with_interval(lead)}, over {count:,} architectures"
    )
    if lead.high < 0:
        first = f"The rating tells less than cost does: {figures}. Choose by {by}."
    elif lead.low > 0 and rating.low > 0:
        first = f"The rating tells more than cost does: {figures}."
    else:
        first = f"No clear difference between the rating and cost: {figures}."
    return f"{first} {_apart(evaluation, best)}"


def truth_verdict(total: Truth, blocks: Mapping[int, Truth]) -> str:
    """One to four sentences on paths trained alone: of all blocks, and of those that fall short.

    The rating is shown to rank where the whole interval of its tau is above 0, and to tell more
    (less) than cost where that of its lead over the best cost is above (below) 0; cells to be
    compared unfairly where that of what their alignment gains is above 0.
    """
    rating, lead, best = total.rating, total.lead, total.best_cost
    count = f"{total.paths:,} paths trained alone"
    if not isfinite(rating.value):
        return f"Nothing can be said: {count} do not differ. Ask for more with --paths."
    tau = f"Kendall {_with_interval(rating)} over {count}"
    if rating.high < 0:
        first = f"The rating ranks the wrong way round: {tau}. Do not retrain what it found."
    elif rating.low <= 0:
        first = (
            f"The rating is not shown to rank: {tau}, where a random order reaches "
            f"{total.chance.high:.3f}. Do not pay for a retraining yet: train the cells longer "
            "(distill.epochs, features.images), or ask for more --paths."
        )
    elif best is None or lead is None:
        first = f"The rating ranks: {tau}."
    else:
        name, other = cost_name(best), total.costs[best].value
        by = f"{other:.3f} of {name}, a difference of {_with_interval(lead)}"
        if lead.low > 0:
            first = f"The rating ranks, and tells more than cost does: {tau}, against {by}."
        elif lead.high < 0:
            first = (
                f"The rating ranks, but tells less than cost does: {tau}, against {by}. The "
                "largest network within the limits would be as good a choice."
            )
        else:
            first = (
                f"The rating ranks: {tau}. Whether it tells more than cost does is open: {by}; "
                "more --paths would tell."
            )
    short = [str(number) for number, truth in blocks.items() if not truth.rating.low > 0]
    if len(blocks) > 1 and short and rating.low > 0:
        word = "block" if len(short) == 1 else "blocks"
        first += f" By {word} {', '.join(short)} alone that is not shown."
    if total.aligned is not None and total.gain is not None and total.gain.low > 0:
        first += (
            f" It compares cells of a block unfairly: aligned, they rank by Kendall "
            f"{_with_interval(total.aligned)}; --aligned writes such ratings."
        )
    return first


def _apart(evaluation: Evaluation, cost: str) -> str:
    """What the rating tells that the cost does not."""
    equal, by = evaluation.equal_cost[cost], cost_name(cost)
    where = f"Among architectures of about equal {by}"
    if not isfinite(equal.rating.value):
        return f"{where} nothing can be said: the bench has no pairs of them that differ."
    figure = f"Kendall {_with_interval(equal.rating)} in {equal.pairs:,} pairs"
    left = equal.cost.value if isfinite(equal.cost.value) else 0.0
    if equal.rating.low > max(0.0, left) and evaluation.given_cost[cost].low > 0:
        return f"{where} it ranks: {figure}."
    return f"{where} it is not shown to rank: {figure}."


def _with_interval(figure: Figure) -> str:
    return f"{figure.value:.3f} (95 % interval {figure.low:.3f} to {figure.high:.3f})"
