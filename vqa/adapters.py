"""VQA models of the `transformers` library, explained like the project's own: `vqa.load("hf:PATH_OR_NAME")`.

ViLT (a classifier over answers; text and image share one transformer) and BLIP (generates its answer; any
answer can be scored). Letters: S answers of each image, B images, M question tokens, L answer tokens, N answers,
T targets, h,w patches, D hidden.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.chat.loading import is_chat
from common.errors import UserError, check_no_options
from common.explainable import Explainable, HookedModel, TokenGrid
from common.networks import hub
from common.request import Encoded, Request
from common.text import Place, Sequences, Text, TextLogLikelihood, TextOutput, check_length, marks, padded
from vqa.answerer import Answerer
from vqa.attribution import token_gradients
from vqa.network import Answer, best_answers
from vqa.question import question_words
from vqa.request import find_answer, numbered_request


class TransformersNetwork:
    """What ViLT and BLIP share. Features are the images themselves: every pass runs the whole model."""

    embedding: str  # the name of the question's word embedding
    loader: str
    layer: str
    grid: TokenGrid

    def __init__(self, found: hub.Pretrained, name: str) -> None:
        self.module: Any = found.module
        self.tokenizer, self.preprocessing = found.tokenizer, found.preprocessing
        self.name, self.source = name, found.source
        self.text: Any = getattr(self.module.config, "text_config", self.module.config)
        self.longest = int(self.text.max_position_embeddings)

    def states(self, features: Tensor) -> Tensor:
        raise NotImplementedError

    def head(self, states: Any, query: Any) -> Any:
        raise NotImplementedError

    def read(self, question: str) -> Text:
        question_words(question)
        words = question.split()
        found = self.tokenizer(words, is_split_into_words=True)
        ids, unknown = found["input_ids"], self.tokenizer.unk_token_id
        if len(ids) > self.longest:
            raise UserError(f"the question has {len(ids)} tokens; {self.name} reads at most {self.longest}")
        hub.check_tokens(ids, int(self.text.vocab_size), self.name)
        places: list[list[int]] = [[] for _ in words]
        for place, word in enumerate(found.word_ids()):
            if word is not None:
                places[word].append(place)
        spans = tuple((min(of, default=0), max(of, default=-1) + 1) for of in places)
        lost = [word for word, of in zip(words, places, strict=True) if any(ids[i] == unknown for i in of)]
        return Text(tuple(words), tuple(ids), spans, tuple(dict.fromkeys(lost)), question)

    def encode(self, images: Tensor) -> Tensor:
        return images

    def attribute(self, encoded: Encoded, request: Request) -> tuple[None, Tensor]:
        return None, token_gradients(self, encoded.states, request)

    def explainable(self, layer: str | None) -> Explainable:
        return HookedModel(self.module, layer or self.layer, self.grid, self._forward)

    def _forward(self, images: Tensor, query: Any) -> Any:
        return self.head(self.states(images), query)

    def tokens(self, questions: Sequence[Text]) -> Tensor:
        """(B, M), padded; the padding is masked out wherever the model reads them."""
        return padded([question.tokens for question in questions], fill=self.tokenizer.pad_token_id or 0)

    def mask(self, tokens: Tensor) -> Tensor:
        """(B, M): 1 where a token is, 0 where padding is."""
        return (tokens != (self.tokenizer.pad_token_id or 0)).long()


class ViltNetwork(TransformersNetwork):
    """ViLT with a VQA head. The patches are embedded here, in reading order: ViLT itself shuffles them at random,
    which changes no answer but would leave them no known place on the image."""

    embedding, loader = "vilt.embeddings.text_embeddings.word_embeddings", "ViltForQuestionAnswering"

    def __init__(self, found: hub.Pretrained, name: str) -> None:
        super().__init__(found, name)
        names: dict[int, str] = self.module.config.id2label
        self.names = [str(names[i]) for i in sorted(names)]
        self.answer_index = {answer: i for i, answer in reversed(list(enumerate(self.names)))}
        # The last block's image tokens don't reach the output, which is read off the first text token: the
        # map is what the last block's attention reads.
        self.layer = f"vilt.encoder.layer.{len(self.module.vilt.encoder.layer) - 1}.layernorm_before"
        h, w = (side // self.module.config.patch_size for side in self.preprocessing.size)
        self.grid = TokenGrid(None, (h, w))  # behind the question's tokens and the image's class token

    def states(self, features: Tensor) -> Tensor:
        """(B, 1 + h*w, D): the class token and the patches in reading order, with their positions."""
        parts = self.module.vilt.embeddings
        patches = parts.patch_embeddings(features)
        side = self.module.config.image_size // self.module.config.patch_size
        places = parts.position_embeddings
        grid = places[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        patches = patches + F.interpolate(grid, size=patches.shape[-2:], mode="bilinear", align_corners=True)
        first = (parts.cls_token + places[:, :1]).expand(len(features), -1, -1)
        return torch.cat([first, patches.flatten(2).transpose(1, 2)], 1)

    def head(self, states: Any, query: Tensor) -> Tensor:
        seen = states.expand(len(query), -1, -1)
        ones = torch.ones(seen.shape[:2], dtype=torch.long, device=query.device)
        return self.module(input_ids=query, attention_mask=self.mask(query), image_embeds=seen, pixel_mask=ones).logits

    def answers(self, encoded: Encoded, questions: Sequence[Text], top: int) -> list[list[Answer]]:
        scores = self.head(encoded.states, self.tokens(questions).to(encoded.pixels.device))
        return best_answers(scores, self.names, top)

    def request(self, questions: Sequence[Text], answers: Sequence[Sequence[str]]) -> Request:
        numbers = [[find_answer(answer, self.answer_index) for answer in each] for each in answers]
        return numbered_request(self.tokens(questions), numbers, self.names)


class BlipNetwork(TransformersNetwork):
    """BLIP-VQA generates its answer: a query is the questions' tokens (B, M) and answers to be scored (S, B, L).

    The score of an answer is the log-probability of its words and its end.
    """

    embedding, loader = "text_encoder.embeddings.word_embeddings", "BlipForQuestionAnswering"

    grid = TokenGrid(1)

    def __init__(self, found: hub.Pretrained, name: str) -> None:
        super().__init__(found, name)
        self.layer = f"vision_model.encoder.layers.{len(self.module.vision_model.encoder.layers) - 1}"

    def states(self, features: Tensor) -> Tensor:
        return self.module.vision_model(pixel_values=features)[0]

    def head(self, states: Any, query: tuple[Tensor, Tensor]) -> TextOutput:
        tokens, answers = query
        B = answers.shape[1]
        asked = self.module.text_encoder(
            input_ids=tokens.expand(B, -1),
            attention_mask=self.mask(tokens).expand(B, -1),
            encoder_hidden_states=states.expand(B, -1, -1),
        )[0]
        lengths = self.mask(tokens).sum(1).expand(B)
        # The library's decoder sees padding whatever the mask: questions of one length go through it together.
        groups = [(lengths == length).nonzero()[:, 0] for length in lengths.unique()]
        parts = [self._answer_logits(asked[rows, : int(lengths[rows[0]])], answers[:, rows]) for rows in groups]
        logits = torch.cat(parts, 1)[:, torch.cat(groups).argsort()]
        return TextOutput.of(logits, answers.clamp(min=0), answers >= 0)

    def _answer_logits(self, asked: Tensor, answers: Tensor) -> Tensor:
        """(S, B, L, V) of what follows at each place of the answers (S, B, L), given encoded questions (B, M, D)."""
        S, B, L = answers.shape
        rows = answers.reshape(S * B, L)
        first = rows.new_full((S * B, 1), self.text.bos_token_id)
        logits = self.module.text_decoder(
            input_ids=torch.cat([first, rows[:, :-1].clamp(min=0)], 1),
            encoder_hidden_states=asked.repeat(S, 1, 1),
            use_cache=False,
        ).logits
        return logits.view(S, B, L, -1)

    def answers(self, encoded: Encoded, questions: Sequence[Text], top: int) -> list[list[Answer]]:
        return [self._generated(encoded[[b]], question, top) for b, question in enumerate(questions)]

    def _generated(self, encoded: Encoded, question: Text, top: int) -> list[Answer]:
        features = encoded.features
        tokens = self.tokens([question]).to(features.device)
        with hub.quiet(self.name):
            rows = self.module.generate(
                input_ids=tokens,
                pixel_values=features,
                attention_mask=torch.ones_like(tokens),
                num_beams=max(top, 3),
                num_return_sequences=top,
                max_new_tokens=10,
                do_sample=False,
            )
        texts = [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows.tolist()]
        texts = [text for text in dict.fromkeys(texts) if text]
        if not texts:
            raise UserError(f"{self.name} gave an empty answer; name an answer to explain")
        request = self.request([question], [texts]).on(features.device)
        output = self.head(encoded.states, request.query)
        scores = torch.stack([target(output)[0] for target in request.targets])
        order = scores.argsort(descending=True, stable=True).tolist()
        return [Answer(texts[i], float(scores[i]), float(scores[i].exp())) for i in order]

    def request(self, questions: Sequence[Text], answers: Sequence[Sequence[str]]) -> Request:
        """Each answer is a sequence of its own, ended; the places that are scored are all its tokens."""
        ids = [[(*self._ids(answer), self.text.sep_token_id) for answer in each] for each in answers]
        sequences = Sequences([each[0] for each in ids])
        places = [[Place(sequences.add(b, row), 0, len(row)) for row in each] for b, each in enumerate(ids)]
        query = sequences.stacked(fill=-1)
        targets: list[Any] = [
            TextLogLikelihood(marks(column, query.shape), name)
            for column, name in zip(zip(*places, strict=True), answers[0], strict=True)
        ]
        return Request((self.tokens(questions), query), targets, [list(each) for each in answers])

    def _ids(self, answer: str) -> list[int]:
        check_length(answer, "an answer")
        ids = list(self.tokenizer(answer, add_special_tokens=False)["input_ids"])
        if not ids:
            raise UserError(f"the answer {answer!r} is empty; name one of at least a word")
        if len(ids) >= self.longest:
            raise UserError(f"an answer of {len(ids)} tokens; {self.name} reads at most {self.longest - 1}")
        hub.check_tokens(ids, int(self.text.vocab_size), self.name)
        return ids


FAMILIES: dict[str, type[TransformersNetwork]] = {"vilt": ViltNetwork, "blip": BlipNetwork}


def load(name: str, device: str | torch.device = "cpu", layer: str | None = None, **options: Any) -> Answerer:
    """The `transformers` VQA model in a folder, in the local cache or on the model hub; `name` as `hf:NAME` or `NAME`.

    Chat models take further `options`, see `vqa.chat.load`.

    Raises `UserError` where it cannot be had, is of another kind, or has incomplete weights.
    """
    name = name.removeprefix("hf:")
    if is_chat(name, FAMILIES, "VQA models"):
        from vqa import chat

        return chat.load(name, device, layer, **options)
    check_no_options(options, f"hf:{name}")
    loaders = {kind: family.loader for kind, family in FAMILIES.items()}
    found = hub.transformers_pretrained(name, loaders, "VQA models")
    network: Any = FAMILIES[found.family](found, f"hf:{name}")
    return Answerer(network, layer).to(device)
