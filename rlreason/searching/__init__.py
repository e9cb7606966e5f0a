"""Search at test time: several solutions of a problem, scored by a model, and one that is chosen.

Nothing here sees a right answer.
"""

from rlreason.searching.config import LIKELIHOOD, SearchConfig
from rlreason.searching.results import Candidate, Cost
from rlreason.searching.scores import aggregate, best_of_n_kl
from rlreason.searching.searcher import Reader, Searched, Solution, make_searcher
from rlreason.searching.votes import choose, merge_equal

__all__ = [
    "Candidate", "Cost", "LIKELIHOOD", "Reader", "SearchConfig", "Searched", "Solution",
    "aggregate", "best_of_n_kl", "choose", "make_searcher", "merge_equal"]
