"""Caption metrics: scores of a corpus, rewards, hallucination, pointing."""

from regard.metrics.cider import CiderD
from regard.metrics.scores import METRICS, Scores, score_captions
from regard.metrics.tokenize import ptb_tokenize

__all__ = ["METRICS", "CiderD", "Scores", "ptb_tokenize", "score_captions"]
