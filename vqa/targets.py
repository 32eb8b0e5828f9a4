"""What to explain of an answer: its score before the softmax, read off the model's output (B, N)."""

from common.targets import Index


class AnswerScore(Index):
    """The pre-softmax score (B,) of the answer with number `index` (paper, section 8.2).

    The same answer for all images, or one for each: a tensor (B,).
    """
