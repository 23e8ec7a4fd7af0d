"""Published methods by name, as compositions of a metric, a solver and an objective."""

from __future__ import annotations

from qir.errors import SearchError
from qir.registry import Registry
from qir.search.recipes.autoqnn import BITS, AutoQnnRecipe
from qir.search.recipes.run import Recipe


def recipe(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        SearchError: there is none.
    """
    return RECIPES[name]


_NO_RETRAINING = "Without `train=` policies are measured without retraining; the paper retrains each."
_TRACE = (
    "The paper's traces take labels; without them the network's own predictions serve. Hutchinson's draws are made "
    "block by block. No retraining follows."
)

_SHIPPED = (
    Recipe(
        "hawq-v3",
        "Yao et al., 2021, HAWQ-V3",
        "milp",
        "hessian-trace",
        "proxy",
        f"{_TRACE} Activations count too (weights only in the paper), and HiGHS replaces GLPK. Ties are those of "
        "the target, and first and last layer are decisions.",
    ),
    Recipe(
        "hawq-v2",
        "Dong et al., 2020, HAWQ-V2",
        "pareto-dp",
        "hessian-trace",
        "proxy",
        f"{_TRACE} The front is exact by dynamic programming on any budget, not on model size alone.",
    ),
    Recipe(
        "zeroq",
        "Cai et al., 2020, ZeroQ",
        "pareto-dp",
        "output-divergence",
        "proxy",
        'Zero-shot with `data="distilled"`, which needs the batch-norm statistics of a network that is not folded; '
        "given data serve too. The other layers are at their widest, not in float.",
        metric_options={"correct": False},
    ),
    Recipe(
        "mpqnnco",
        "Chen et al., 2021, mixed precision via constrained optimization",
        "greedy",
        "second-order",
        "proxy",
        "Activations count too. Greedy steps respect the target's relations. No fine-tuning follows.",
    ),
    Recipe(
        "evoq",
        "Yuan et al., 2020, EvoQ",
        "evolution",
        "output-mse",
        "output-mse",
        "Budgets are hard (a cost of the target), not average bits. Population and rates are ours.",
    ),
    Recipe(
        "haq",
        "Wang et al., 2019, HAQ",
        "haq",
        None,
        "accuracy",
        f"{_NO_RETRAINING} Cost comes from the target's model, not from a measured table.",
        protocol="haq",
    ),
    Recipe(
        "wang2024",
        "Wang et al., 2024",
        "wang2024",
        None,
        "accuracy",
        f"{_NO_RETRAINING} The paper names no algorithm and prints no reward: DDPG and the reward are assumptions; the "
        "reward grows with 1/ratio, so that it prefers the cheapest policies where a budget is tight.",
        protocol="wang2024",
    ),
    Recipe(
        "releq",
        "Elthakeb et al., 2020, ReLeQ",
        "releq",
        None,
        "accuracy",
        f"{_NO_RETRAINING} Policies are chosen by the printed reward, which weighs bits against accuracy, inside a "
        "budget too. Activations keep their widest width (float in the paper), but for those that a target "
        "ties to weights. Accuracy is relative to that of the widest policy, not of the float network; actions that "
        "break a budget are projected.",
        relative=True,
        insert="weight_scheme=wrpn",
        weights_only=True,
        needs_budget=False,
        protocol="releq-short",
    ),
    Recipe(
        "jasq",
        "Chen et al., 2018, JASQ",
        "evolution",
        None,
        "accuracy",
        f"The architecture is fixed. {_NO_RETRAINING} Budgets are hard, so that fitness is accuracy, as in the paper "
        "up to its target size; what would lie above it is not met.",
    ),
    Recipe(
        "apq",
        "Wang et al., 2020, APQ",
        "apq",
        None,
        "accuracy",
        "The architecture is fixed: no once-for-all network. The predictor learns from policies of this network.",
    ),
    Recipe(
        "adrl",
        "Ning et al., 2021, ADRL",
        "adrl",
        "output-mse",
        "accuracy",
        f"{_NO_RETRAINING} The profile is the error of the output, not accuracy. Of proposals that lose no more than "
        "the least sensitive policy accepts somewhere, the narrowest is tried; after repeated policies fewer proposals "
        "compete.",
    ),
    Recipe(
        "autoq",
        "Lou et al., 2020, AutoQ",
        "autoq",
        None,
        "accuracy",
        f"{_NO_RETRAINING} Up to eight groups of neighbouring channels a weight have widths of their own (every "
        "channel in the paper); where a target ties weights to activations, each layer has one. HIRO's goal "
        "correction is replaced by the executed goal.",
        channel_groups=8,
    ),
    Recipe(
        "obacwa",
        "Zhe et al., 2019, OBACWA",
        "lagrangian",
        "rate-distortion",
        "proxy",
        "One multiplier makes the slopes of error over rate equal, on the convex envelope of errors measured at "
        "the target's widths; rates are a cost of the target.",
    ),
    Recipe(
        "aq",
        "Zhou et al., 2018, adaptive quantization",
        "lagrangian",
        "adversarial-noise",
        "proxy",
        "Noise is measured at every width instead of fitting exp(-a·bits), so the multiplier is found over "
        "discrete widths, not in closed form. Activations count too; a drop of 20 points is ours.",
    ),
    Recipe(
        "pdb",
        "Chu et al., 2021, progressively decreasing bitwidth",
        "greedy",
        "feature-separability",
        "proxy",
        "A budget replaces the thresholds of separability (0.8, 0.85) and their scaling integer, and the price of "
        "a width is ours. The separability's formula is read as a share (the survey prints a product). Activations "
        "count too (fixed in the paper). The paper trains from scratch; here nothing is trained.",
    ),
    Recipe(
        "hybrid-net",
        "Chakraborty et al., 2020, Hybrid-Net",
        "greedy",
        "pca-significance",
        "proxy",
        "The network at its narrowest widths is the binary one, and it is not trained. A budget replaces the "
        "margin by which dimensions must rise: significant layers are widened as far as it goes. First and last "
        "layer are decisions, not in float.",
    ),
    AutoQnnRecipe(
        "autoqnn",
        "Gong et al., 2024, AutoQNN",
        "autoqnn",
        None,
        "learned",
        "Budgets are hard, of any cost of the target or of average bits (`bits`); the legal policy nearest to the "
        "learned bits is found exactly. `evaluations` are epochs. BatchNorm is folded, weights have a range per "
        "channel, and the network starts from its float weights. The first half of the data is trained on.",
        more_budgets=(BITS,),
    ),
)

RECIPES: Registry[Recipe] = Registry(
    "recipe",
    "qir.recipes",
    {shipped.name: shipped for shipped in _SHIPPED},
    accepts=lambda found: isinstance(found, Recipe),
    expected="a qir.search.recipes.run.Recipe",
    error=SearchError,
)
"""Recipes by name; one of another package is an entry point of the group `qir.recipes`."""
