"""Chat models of `transformers` as VQA models: a question about a photograph, and the reply explained word by word.

Letters: S replies to each question, B questions, M prompt tokens, L reply tokens, W both with the image's, T targets,
C channels, N image tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from common.chat import loading
from common.chat.model import ChatModel, Sight
from common.chat.split import ENTRANCE, ChatSplit, split_at
from common.errors import UserError
from common.formulas import gradients, wide
from common.gradcam import Known
from common.layers import hooked
from common.request import Encoded, PhotoReader, Request
from common.targets import score_table
from common.text import SCORE, Place, Sequences, Text, TextLogLikelihood, TextOutput, joined, marks, padded, scored
from vqa.answerer import Answerer
from vqa.network import Answer
from vqa.question import question_words

MAX_WORDS = 100  # of a reply, each explained


def load(name: str, device: str | torch.device = "cpu", layer: str | None = None, **held: Any) -> Answerer:
    """The chat model in a folder, in the local cache or on the model hub, as a model that answers questions.

    `held`: `dtype`, `device_map` and `max_tokens`, see `common.chat.loading.load`.
    """
    network: Any = ChatNetwork(loading.load(name, device, **held))
    return Answerer(network, layer)


class ChatNetwork(PhotoReader):
    """A chat model as `Answerer` needs it (see `vqa.network.AnswerNetwork`): its answer is its reply.

    Features and states are what the model has seen of each photograph. A query is prompts (B, M), with a placeholder
    for the image, and the replies to be scored (S, B, L), both padded with -1. A reply's score is the sum of its
    tokens' logits (`common.text.SCORE`), without its end.
    """

    layer = ENTRANCE
    about: Mapping[str, Any] = {"score": SCORE}

    def __init__(self, model: ChatModel) -> None:
        self.model = model
        self.module: Any = model.module
        self.name, self.source, self.fingerprint = model.name, model.source, f"{model.kind} {model.source}"

    def read(self, question: str) -> Text:
        question_words(question)
        return self.model.prompts.read(question)

    def look(self, photograph: Any) -> Sight:
        return self.model.look(photograph)

    def states(self, features: Any) -> Any:
        return features

    def answers(self, encoded: Encoded, questions: Sequence[Text], top: int) -> list[list[Answer]]:
        """The reply to each question; a model that writes has no list of other answers."""
        return [[self._answer(sight, asked)] for sight, asked in zip(encoded.features, questions, strict=True)]

    def _answer(self, sight: Sight, question: Text) -> Answer:
        (reply,) = self.model.replies(sight, question.tokens)
        query = padded([question.tokens]), padded([reply.tokens])[None]
        score = float(self._run(sight, sight.tokens, query).log_probs.sum())
        return Answer(reply.text, score, float(torch.tensor(score).exp()), read=reply)

    def blind_answer(self, question: str) -> str:
        """The reply to a question without an image."""
        (reply,) = self.model.replies(None, self.model.prompts.read(question, image=False).tokens)
        return reply.text

    def request(self, questions: Sequence[Text], answers: Sequence[Sequence[str | Text]]) -> Request:
        """Replies, each as a whole; where one of several words is asked for, each of them as well."""
        texts = [[self._reply(answer) for answer in each] for each in answers]
        sequences = Sequences([each[0].tokens for each in texts])
        wholes = [
            [Place(sequences.add(b, text.tokens), 0, len(text.tokens)) for text in each] for b, each in enumerate(texts)
        ]
        columns: list[list[Place | None]] = [list(column) for column in zip(*wholes, strict=True)]
        words = [text.words if len(each) == 1 < len(text.words) else () for each in texts for text in each[:1]]
        columns += [[_word(each[0], number) for each in texts] for number in range(max(map(len, words)))]
        query = sequences.stacked(fill=-1)
        targets = scored([TextLogLikelihood(marks(column, query.shape)) for column in columns], SCORE)
        count = len(texts[0])
        rows = [[*range(count), *(count + number for number in range(len(each)))] for each in words]
        names = [[*(text.text for text in each), *own] for each, own in zip(texts, words, strict=True)]
        prompts = padded([question.tokens for question in questions], fill=-1)
        return Request((prompts, query), targets, names, rows)

    def _reply(self, answer: str | Text) -> Text:
        text = answer if isinstance(answer, Text) else self.model.prompts.reply(answer)
        if not text.words:
            raise UserError(f"the answer {text.text!r} is empty; name one of at least a word")
        if len(text.words) > MAX_WORDS:
            raise UserError(f"the answer has {len(text.words)} words; at most {MAX_WORDS} are explained")
        return self.model.checked_reply(text)

    def head(self, states: Any, query: tuple[Tensor, Tensor]) -> TextOutput:
        """How likely the replies are, fields (S, B, L); one photograph may be asked B questions."""
        prompts, replies = query
        B = len(prompts)
        sights = [states[0]] * B if len(states) == 1 else list(states)
        return joined([self._run(s, s.tokens, (prompts[[b]], replies[:, [b]])) for b, s in enumerate(sights)])

    def _run(self, sight: Sight, tokens: Tensor, query: tuple[Tensor, Tensor]) -> TextOutput:
        """The same for one question (1, M) and its replies (S, 1, L), given the image's tokens (N, C)."""
        replies = query[1].to(self.model.device)
        logits = self.model.logits(sight, tokens, *self._rows(query))
        return TextOutput.of(logits[:, None], replies.clamp(min=0), replies >= 0)

    def _rows(self, query: tuple[Tensor, Tensor]) -> tuple[list[list[int]], Tensor]:
        """Prompt and reply (S, L) of each of S rows, as a chat model takes them."""
        asked = [token for token in query[0][0].tolist() if token >= 0]
        return [asked] * len(query[1]), query[1][:, 0].to(self.model.device)

    def attribute(self, encoded: Encoded, request: Request) -> tuple[list[Known], Tensor]:
        B, M = request.query[0].shape
        found = torch.zeros(len(request.targets), B, M, device=self.model.device)
        known = []
        for b, sight in enumerate(encoded.features):
            each, found[request.own(b), b] = self._gradients(sight, request.of(b, B))
            known.append(each)
        return known, found

    def _gradients(self, sight: Sight, request: Request) -> tuple[Known, Tensor]:
        """What is known of one photograph's map, and the gradient times the embedding of each token of the prompt,
        summed over its entries (T, M): by one backward pass of both.
        """
        A, embed = sight.A.detach(), self.module.get_input_embeddings()
        with torch.no_grad():
            words = embed(self.model.rows(sight, *self._rows(request.query))[0])
        both = torch.cat([A.flatten(), words.to(A).flatten()])[None].requires_grad_()
        with torch.enable_grad():
            leaf = both[0, A.numel() :].view(words.shape).to(words)
        with torch.enable_grad(), hooked([embed], lambda *_: leaf.clone()):
            output = self._run(sight, sight.with_map(both[0, : A.numel()].view(A.shape)), request.query)
            scores = score_table(request.targets, output, 1, differentiable=True)
            slopes = wide(gradients(scores, both))[:, 0]
        of_map = slopes[:, : A.numel()].view(len(slopes), *A.shape)
        known = Known(scores.detach(), of_map.mean((-2, -1)), A, of_map)
        added = (slopes[:, A.numel() :].view(len(slopes), *words.shape) * words).sum((1, 3)).float()  # (T, W)
        return known, self._of_prompt(sight, added, request.query[0].shape[1])

    def _of_prompt(self, sight: Sight, slopes: Tensor, length: int) -> Tensor:
        """Values (T, W) of a row's tokens as those of the prompt's, which has a placeholder for the image's (T, M)."""
        cut = sight.splice
        start, stop = len(cut.before), len(cut.before) + len(cut.image)
        inside = slopes.new_zeros(len(slopes), len(cut.placeholder))
        return torch.cat([slopes[:, :start], inside, slopes[:, stop:]], 1)[:, :length]

    def explainable(self, layer: str | None) -> Callable[[Sight], ChatSplit]:
        return split_at(self.model, layer, self._run)


def _word(reply: Text, number: int) -> Place | None:
    return Place(0, *reply.spans[number]) if number < len(reply.words) else None
