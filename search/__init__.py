"""Problems, sensitivity metrics, solvers, reinforcement learning and the evaluation store."""

from typing import TYPE_CHECKING

from qir.support.lazy import names_of

if __name__ != "qir.search":
    raise ImportError(f"import this package as qir.search, not as {__name__}")

if TYPE_CHECKING:
    from qir.search.environment.gym import QuantizationEnv as QuantizationEnv
    from qir.search.environment.rewards import reward as reward
    from qir.search.evaluation.accuracy import AccuracyObjective as AccuracyObjective
    from qir.search.evaluation.accuracy import EvaluationProtocol as EvaluationProtocol
    from qir.search.evaluation.parallel import DaskCluster as DaskCluster
    from qir.search.evaluation.parallel import LocalProcesses as LocalProcesses
    from qir.search.evaluation.splits import Splits as Splits
    from qir.search.evaluation.store import Store as Store
    from qir.search.job.quantize import quantize as quantize
    from qir.search.job.stages import Job as Job
    from qir.search.methods import METHODS as METHODS
    from qir.search.methods import leaderboard as leaderboard
    from qir.search.methods import solve as solve
    from qir.search.metrics.outputs.output_divergence import output_divergence as output_divergence
    from qir.search.network.preparation import load_network as load_network
    from qir.search.network.preparation import prepare as prepare
    from qir.search.network.problem import network_problem as network_problem
    from qir.search.problem.parts import Budget as Budget
    from qir.search.problem.parts import Decision as Decision
    from qir.search.problem.parts import PairCost as PairCost
    from qir.search.problem.parts import Relation as Relation
    from qir.search.problem.problem import Problem as Problem
    from qir.search.problem.result import Evaluation as Evaluation
    from qir.search.problem.result import Progress as Progress
    from qir.search.problem.result import Result as Result
    from qir.search.recipes.table import recipe as recipe
    from qir.search.report.comparison import Comparison as Comparison
    from qir.search.report.quantized import Quantized as Quantized

_HOME = {
    "prepare": "network.preparation",
    "output_divergence": "metrics.outputs.output_divergence",
    "network_problem": "network.problem",
    "load_network": "network.preparation",
    "EvaluationProtocol": "evaluation.accuracy",
    "Comparison": "report.comparison",
    "AccuracyObjective": "evaluation.accuracy",
    "Budget": "problem.parts",
    "DaskCluster": "evaluation.parallel",
    "Decision": "problem.parts",
    "Evaluation": "problem.result",
    "Job": "job.stages",
    "LocalProcesses": "evaluation.parallel",
    "METHODS": "methods",
    "PairCost": "problem.parts",
    "Problem": "problem.problem",
    "Progress": "problem.result",
    "Quantized": "report.quantized",
    "QuantizationEnv": "environment.gym",
    "Relation": "problem.parts",
    "Result": "problem.result",
    "Splits": "evaluation.splits",
    "Store": "evaluation.store",
    "leaderboard": "methods",
    "quantize": "job.quantize",
    "recipe": "recipes.table",
    "reward": "environment.rewards",
    "solve": "methods",
}

__getattr__, __dir__ = names_of(__name__, _HOME)
