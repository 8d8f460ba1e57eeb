"""The pointer: a second way to a word, by naming what is looked at.

    p(w) = (1 - g_t) p_vocab(w | h_t, z_t, E y_{t-1}) + g_t sum_i alpha_ti p(w | a_i)

After copying from detectors' words (Yao et al. 2017, "Incorporating Copying Mechanism in Image
Captioning"), pointing at novel objects (Li et al. 2019) and pointer-generators (See et al. 2017).
Deviations: p(w | a_i) comes from the annotation itself, by its likeness to a bank of concepts, so
attention decides what is named; every cell may also name nothing, and that share of the gate goes
back to the vocabulary; a concept has two forms, singular and plural, and the decoder chooses.

A word of the bank is read by an embedding made from its concept vector. So a concept that is added
later, from a few pictures, is read as well as said, without training (`regard.model.concepts`).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.config import DecoderConfig
from regard.model.attention import at_least_float32
from regard.model.rng import Rng, shared_bernoulli

SINGULAR, PLURAL = 0, 1
_LEAST = 1e-8  # of the vocabulary's share, and of words that only the pointer may say


class Mixture(NamedTuple):
    """The next word of R rows, from vocabulary and pointer.

    Attributes:
        logprob: (R, V), log p(w).
        copied: (R, V), the part of p(w) that came from the pointer.
    """

    logprob: Tensor
    copied: Tensor


class Pointer(nn.Module):
    """The bank of concepts, what each cell would name, and the gate g_t.

    Attributes:
        forms: (C, 2) ids of a concept's singular and plural in the vocabulary; the same id twice
            where it has one form.
        vectors: (C, K) the concepts, of length 1.
        threshold: (C,) the likeness from which on a cell names a concept, in logits.
        negatives: (M, 2, K) directions of typical cells and of the items that they lie in, by
            which thresholds of taught concepts are set; absent where M is 0.

    Training changes `switch`, `read` and `plural`; all that says what a cell is called stays fixed.
    """

    forms: Tensor
    vectors: Tensor
    threshold: Tensor
    negatives: Tensor | None

    def __init__(self, config: DecoderConfig, annotation_dim: int, vocabulary_size: int) -> None:
        """Build an empty bank of the config's number of concepts; `set_bank` fills it.

        Args:
            config: its concept_ settings and embedding_dim are read.
            annotation_dim: features of the encoder's vectors.
            vocabulary_size: V.
        """
        super().__init__()
        concepts, size = config.concepts, config.concept_dim
        self.vocabulary_size = vocabulary_size
        self._split = config.concept_split
        self.cell = nn.Linear(annotation_dim - self._split, size)
        self.whole = nn.Linear(self._split or annotation_dim, size)
        self.sharpness = nn.Parameter(torch.tensor([10.0, 10.0]))  # of a cell's, an item's likeness
        # Concepts can be added only as long as what they are compared with does not change.
        for fixed in (self.cell, self.whole):
            fixed.requires_grad_(False)
        self.sharpness.requires_grad_(False)
        self.switch = nn.Linear(config.embedding_dim, 2)  # g_t, and singular against plural
        with torch.no_grad():  # a plural has to be learned
            self.switch.bias.copy_(torch.tensor([0.0, -3.0]))
        self.read = nn.Linear(size, config.embedding_dim)
        self.plural = nn.Parameter(torch.zeros(config.embedding_dim))
        self.register_buffer("forms", torch.zeros(concepts, 2, dtype=torch.long))
        self.register_buffer("vectors", torch.zeros(concepts, size))
        self.register_buffer("threshold", torch.zeros(concepts))
        typical = config.concept_negatives
        self.register_buffer("negatives", torch.zeros(typical, 2, size) if typical else None)

    def set_bank(self, forms: Tensor, vectors: Tensor, threshold: Tensor) -> None:
        """Fill the bank; see the attributes."""
        self.forms.copy_(forms)
        self.vectors.copy_(functional.normalize(vectors, dim=-1))
        self.threshold.copy_(threshold)

    def likeness(self, vectors: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the directions of cells (N, L, K) and of whole items (N, K), of length 1."""
        real = mask.to(vectors.dtype).unsqueeze(-1)
        mean = (vectors[..., : self._split or None] * real).sum(1) / real.sum(1)
        cells = functional.normalize(self.cell(vectors[..., self._split :]), dim=-1)
        return cells, functional.normalize(self.whole(mean), dim=-1)

    def naming(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Return p(concept | a_i), (N, L, C): sums to at most 1, the rest names nothing.

        Args:
            vectors: (N, L, D), the encoder's.
            mask: (N, L) bool, True = real cell; the others name nothing.
        """
        cells, whole = self.likeness(vectors, mask)
        scores = self.scores(cells, whole, self.vectors, self.threshold)
        nothing = scores.new_zeros(*scores.shape[:2], 1)
        named = torch.softmax(torch.cat([scores, nothing], -1), -1)[..., :-1]
        return named * mask.unsqueeze(-1)

    def scores(self, cells: Tensor, whole: Tensor, vectors: Tensor, threshold: Tensor) -> Tensor:
        """Return the logits of C concepts in every cell, (N, L, C); that of nothing is 0.

        Args:
            cells: (N, L, K), directions.
            whole: (N, K), those of the items.
            vectors: (C, K).
            threshold: (C,).
        """
        of_cell, of_item = self.sharpness.unbind()
        item = of_item * (whole @ vectors.T) - threshold
        return of_cell * (cells @ vectors.T) + item.unsqueeze(1)

    def only_named(self, mixture: Tensor, hidden: Tensor) -> Tensor:
        """Return log p (R, V), at least log 1e-8 for hidden words.

        Neither way can say the hidden word of a concept that no cell shows; without a bound such
        words would dominate the loss, and with it they have no gradient.
        """
        return torch.where(hidden, mixture.clamp_min(math.log(_LEAST)), mixture)

    def pointed(self, alpha: Tensor, naming: Tensor) -> Tensor:
        """Return sum_i alpha_ti p(concept | a_i), (B, C).

        Args:
            alpha: (B, L); 1 at the cell that hard attention chose. The B / N captions of an item
                are consecutive.
            naming: (N, L, C).
        """
        grouped = alpha.view(naming.shape[0], -1, alpha.shape[-1])
        return at_least_float32(grouped.to(naming.dtype) @ naming).flatten(0, 1)

    def mix(self, logits: Tensor, deep: Tensor, pointed: Tensor) -> Mixture:
        """Return the next words' probabilities from vocabulary and pointer.

        Args:
            logits: (R, V), of the vocabulary; -inf for words that only the pointer may say.
            deep: (R, E), the deep output.
            pointed: (R, C), see `pointed`.
        """
        gate, plural = torch.sigmoid(at_least_float32(self.switch(deep))).unbind(-1)
        said = gate.unsqueeze(-1) * pointed
        both = torch.stack([said * (1 - plural.unsqueeze(-1)), said * plural.unsqueeze(-1)], -1)
        copied = said.new_zeros(said.shape[0], self.vocabulary_size)
        copied = copied.index_add(1, self.forms.flatten(), both.flatten(1))
        left = (1 - said.sum(-1, keepdim=True)).clamp_min(_LEAST)
        vocabulary = left.log() + torch.log_softmax(at_least_float32(logits), -1)
        named = copied.clamp_min(torch.finfo(copied.dtype).tiny).log()
        return Mixture(torch.logaddexp(vocabulary, named), copied)

    def embed(self, token: Tensor, embedded: Tensor) -> Tensor:
        """Return the embeddings of words: of those in the bank, made from their concepts.

        Args:
            token: (R,) ids.
            embedded: (R, E), the vocabulary's embeddings of them.
        """
        place = self.place_of()[token]
        concept, form = place // 2, place % 2
        read = self.read(self.vectors[concept]) + form.unsqueeze(-1) * self.plural
        return torch.where((place >= 0).unsqueeze(-1), read.to(embedded.dtype), embedded)

    def hide(self, share: float, generator: Rng | None) -> Tensor:
        """Draw concepts whose words only the pointer may say, (V,) bool.

        Otherwise the vocabulary learns to say every concept in the captions, and nothing is learned
        that transfers to other concepts.

        Args:
            share: of the concepts.
            generator: random generator of the choice; the same in all parts of a batch.
        """
        drawn = shared_bernoulli(self.threshold, len(self.forms), share, generator)
        hidden = torch.zeros(self.vocabulary_size, dtype=torch.bool, device=self.forms.device)
        return hidden.index_fill(0, self.forms[drawn].flatten(), True)

    def place_of(self) -> Tensor:
        """Return for each word of the vocabulary 2·concept + form, or -1, (V,)."""
        places = torch.full((self.vocabulary_size,), -1, device=self.forms.device)
        counted = torch.arange(self.forms.numel(), device=self.forms.device).view_as(self.forms)
        for form in (PLURAL, SINGULAR):  # a word of one form is read as a singular
            places = places.index_copy(0, self.forms[:, form], counted[:, form])
        return places
