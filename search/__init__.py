"""Problems, sensitivity metrics, solvers, reinforcement learning and the evaluation store."""

from typing import TYPE_CHECKING

from qir.lazy import names_of

if __name__ != "qir.search":
    raise ImportError(f"import this package as qir.search, not as {__name__}")

if TYPE_CHECKING:
    from qir.search.comparison import Comparison as Comparison
    from qir.search.environment import QuantizationEnv as QuantizationEnv
    from qir.search.evaluation import AccuracyObjective as AccuracyObjective
    from qir.search.evaluation import EvaluationProtocol as EvaluationProtocol
    from qir.search.methods import METHODS as METHODS
    from qir.search.methods import leaderboard as leaderboard
    from qir.search.methods import solve as solve
    from qir.search.metrics.output_divergence import output_divergence as output_divergence
    from qir.search.network import network_problem as network_problem
    from qir.search.parallel import DaskCluster as DaskCluster
    from qir.search.parallel import LocalProcesses as LocalProcesses
    from qir.search.preparation import load_network as load_network
    from qir.search.preparation import prepare as prepare
    from qir.search.problem import Budget as Budget
    from qir.search.problem import Decision as Decision
    from qir.search.problem import PairCost as PairCost
    from qir.search.problem import Problem as Problem
    from qir.search.problem import Relation as Relation
    from qir.search.recipes import recipe as recipe
    from qir.search.result import Evaluation as Evaluation
    from qir.search.result import Progress as Progress
    from qir.search.result import Result as Result
    from qir.search.rewards import reward as reward
    from qir.search.store import Store as Store

_HOME = {
    "prepare": "preparation",
    "output_divergence": "metrics.output_divergence",
    "network_problem": "network",
    "load_network": "preparation",
    "EvaluationProtocol": "evaluation",
    "Comparison": "comparison",
    "AccuracyObjective": "evaluation",
    "Budget": "problem",
    "DaskCluster": "parallel",
    "Decision": "problem",
    "Evaluation": "result",
    "LocalProcesses": "parallel",
    "METHODS": "methods",
    "PairCost": "problem",
    "Problem": "problem",
    "Progress": "result",
    "QuantizationEnv": "environment",
    "Relation": "problem",
    "Result": "result",
    "Store": "store",
    "leaderboard": "methods",
    "recipe": "recipes",
    "reward": "rewards",
    "solve": "methods",
}

__getattr__, __dir__ = names_of(__name__, _HOME)
