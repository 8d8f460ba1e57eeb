"""Sections of a recipe that say how the networks are trained, decoded and judged."""

from __future__ import annotations

from dataclasses import dataclass

from regard.config.checks import at_least, in_range, one_of
from regard.errors import ConfigError

MOST_PENALTY = 10.0
"""Of a length penalty: the longest caption wins long before."""


@dataclass(frozen=True)
class DataConfig:
    """Where captions and pictures come from."""

    annotations: str = ""
    """Karpathy, COCO or MSR-VTT JSON, Flickr8k token file, MSVD's folder or CSV, CSV or JSONL; or
    WebDataset shards: their `shards.json` or a pattern of tars, on any path of fsspec."""
    images: str = ""
    """Folder of the pictures, clips or scans."""
    present_only: bool = False
    """Leave out what has captions and no file; of MSVD hardly anyone has all clips."""
    store: str = ""
    """Folder of encoded annotations; empty: `annotations` inside the run's folder."""
    tokens: str = "word"
    """word, character, or bpe (languages without spaces)."""
    min_count: int = 5
    """A word seen less often in training becomes <unk>."""
    max_words: int = 10000
    """Largest vocabulary, special tokens not counted."""
    max_length: int = 30
    """Longer training captions are cut after this many tokens."""
    flip: bool = False
    """Also train on the mirrored picture."""
    crops: int = 0
    """Also train on so many random parts of each picture; every second one is mirrored where
    `flip` is set."""
    val_fraction: float = 0.1
    """Share of pictures held out where the data names no split."""
    limit: int = 0
    """Use only this many training pictures; 0 uses all."""
    credit: str = ""
    """What the model's card says of the data: whose they are, their licence, how captions came."""
    familiarity: bool = False
    """Keep with the model what its training items were like; captions of others then say so."""

    def __post_init__(self) -> None:
        one_of("data", "tokens", self.tokens, ("word", "character", "bpe"))
        in_range("data", "val_fraction", self.val_fraction, 0.0, 0.9)
        in_range("data", "crops", self.crops, 0, 1000)
        at_least("data", "limit", self.limit, 0)
        in_range("data", "min_count", self.min_count, 1, 10**6)
        in_range("data", "max_words", self.max_words, 1, 10**7)
        in_range("data", "max_length", self.max_length, 1, 1000)


@dataclass(frozen=True)
class ObjectiveConfig:
    """What training minimises."""

    kind: str = "cross_entropy"
    """cross_entropy, hard_attention (REINFORCE), or self_critical (CIDEr-D)."""
    label_smoothing: float = 0.0
    """Share of the target's probability spread over the vocabulary."""
    lambda_ds: float = 1.0
    """Weight of the doubly stochastic penalty."""
    lambda_r: float = 1.0
    """Hard attention: weight of the REINFORCE term."""
    lambda_e: float = 0.002
    """Hard attention: weight of the entropy term."""
    reward: str = "sum"
    """Hard attention: sum (log p(y|s) of the caption: the paper) or mean (per word: the released
    code), which weighs long and short captions alike. With label_smoothing or teachers it is the
    log-likelihood that is trained, smoothed and mixed, and not that of the caption alone."""
    baseline_decay: float = 0.9
    """Hard attention: b <- decay b + (1 - decay) reward."""
    expectation_probability: float = 0.5
    """Hard attention: chance per image that the sample is replaced by its expectation."""
    samples: int = 5
    """Self-critical: captions sampled per image."""
    reward_end_token: bool = False
    """Self-critical: count the end token as a word of the scored caption."""
    bleu_weight: float = 0.0
    """Self-critical: so many times a caption's smoothed BLEU-4 (0 to 1) is added to its CIDEr-D
    (0 to 10)."""
    cross_entropy_weight: float = 0.0
    """Self-critical: weight of a cross-entropy term mixed in."""
    teachers: tuple[str, ...] = ()
    """Models, as `--model` takes them, whose word probabilities (their mean) are learned besides
    the captions; their words must be the run's own."""
    teacher_weight: float = 0.5
    """Share of the teachers in what is learned of every word; the captions have the rest."""
    teacher_stores: tuple[str, ...] = ()
    """Folder of each teacher's encoded annotations; empty: `teacher1`, ... in the run's folder."""

    def __post_init__(self) -> None:
        one_of("objective", "kind", self.kind, ("cross_entropy", "hard_attention", "self_critical"))
        one_of("objective", "reward", self.reward, ("sum", "mean"))
        in_range("objective", "label_smoothing", self.label_smoothing, 0.0, 0.9)
        in_range("objective", "bleu_weight", self.bleu_weight, 0.0, 100.0)
        in_range("objective", "baseline_decay", self.baseline_decay, 0.0, 1.0)
        in_range("objective", "expectation_probability", self.expectation_probability, 0.0, 1.0)
        in_range("objective", "teacher_weight", self.teacher_weight, 0.0, 1.0)
        in_range("objective", "samples", self.samples, 1, 10**6)
        for name in ("lambda_ds", "lambda_r", "lambda_e", "cross_entropy_weight"):
            at_least("objective", name, getattr(self, name), 0.0)
        if self.teacher_stores and len(self.teacher_stores) != len(self.teachers):
            raise ConfigError(
                f"objective.teacher_stores names {len(self.teacher_stores)} folders for "
                f"{len(self.teachers)} teachers. Name one for each, or none."
            )
        if self.teachers and self.kind == "self_critical" and not self.cross_entropy_weight:
            raise ConfigError(
                "objective.teachers would teach nothing: self_critical reads captions only where "
                "objective.cross_entropy_weight is above 0."
            )


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights are updated."""

    name: str = "adam"
    """adam, adamw, rmsprop, or adadelta."""
    learning_rate: float = 4e-4
    """Peak rate of the decoder."""
    encoder_learning_rate: float = 1e-5
    """Peak rate of a trainable encoder."""
    weight_decay: float = 0.0
    """L2 (adam, rmsprop, adadelta) or decoupled (adamw)."""
    schedule: str = "constant"
    """constant or cosine (to zero at the last step)."""
    warmup_steps: int = 0
    """Steps of linear warm-up; a fifth of the run at most."""
    clip_norm: float = 5.0
    """Largest gradient norm; 0 does not clip."""
    ema_decay: float = 0.0
    """Exponential moving average of the weights, used for evaluation; 0 is off."""

    def __post_init__(self) -> None:
        one_of("optimizer", "name", self.name, ("adam", "adamw", "rmsprop", "adadelta"))
        one_of("optimizer", "schedule", self.schedule, ("constant", "cosine"))
        in_range("optimizer", "ema_decay", self.ema_decay, 0.0, 0.99999)
        for name in ("encoder_learning_rate", "weight_decay", "warmup_steps", "clip_norm"):
            at_least("optimizer", name, getattr(self, name), 0)
        if self.learning_rate <= 0:
            raise ConfigError(f"optimizer.learning_rate is {self.learning_rate}; it must be > 0.")


@dataclass(frozen=True)
class TrainingConfig:
    """The loop."""

    epochs: int = 20
    """Passes over the training captions."""
    batch_size: int = 64
    """Captions per step; of every device where there are several."""
    accumulate: int = 1
    """Passes over `batch_size` captions each whose gradients make one step."""
    captions_per_image: int = 5
    """Captions of one picture that share one projection in a step."""
    batching: str = "bucket"
    """bucket: pictures with captions of similar length together; equal: one length only
    (the paper), which a run takes with captions_per_image = 1 alone; random."""
    seed: int = 0
    """Of initialisation, order, dropout and sampling."""
    precision: str = "fp32"
    """fp32, bf16 (autocast), or auto: bf16 where the processor computes in it. One that does not
    takes many times as long in bf16 as in fp32."""
    patience: int = 0
    """Stop after this many evaluations with neither a better metric nor a lower val loss; 0
    never."""
    save_every: int = 0
    """Also save the resumable state every so many steps; 0: only after each epoch."""
    init_from: str = ""
    """Model that the run begins from, as `--model` takes it: its weights, and its words before
    those that the captions add. `encoder` and `decoder` must be its own (`regard train --init`)."""

    def __post_init__(self) -> None:
        one_of("training", "batching", self.batching, ("bucket", "equal", "random"))
        one_of("training", "precision", self.precision, ("auto", "fp32", "bf16"))
        for name in ("epochs", "batch_size", "captions_per_image", "accumulate"):
            in_range("training", name, getattr(self, name), 1, 10**7)
        in_range("training", "seed", self.seed, 0, 2**63 - 1)
        for name in ("patience", "save_every"):
            at_least("training", name, getattr(self, name), 0)


@dataclass(frozen=True)
class DecodingConfig:
    """What captions of the model are decoded with where a caller names nothing else.

    Which of these serves a model best depends on what it was trained for, so they are its own;
    choose them on val (`regard evaluate --length-penalty 0.8 --keep-decoding`).
    """

    length_penalty: float = 0.0
    """A caption's score is sum(log p) / length ** length_penalty; 0: the paper's plain sum."""
    block_ngram: int = 0
    """No n-gram of this size is said twice; 0 blocks nothing."""

    def __post_init__(self) -> None:
        in_range("decoding", "length_penalty", self.length_penalty, 0.0, MOST_PENALTY)
        in_range("decoding", "block_ngram", self.block_ngram, 0, 1000)


@dataclass(frozen=True)
class EvaluationConfig:
    """How the model is judged while it trains."""

    metric: str = "cider_d"
    """Early stopping and `best` follow this score of free-running val captions."""
    beam: int = 1
    """Beam width of the evaluation in training."""
    limit: int = 0
    """Use only this many val pictures; 0 uses all."""
    diary_pictures: int = 6
    """Fixed val pictures in the learning diary."""

    def __post_init__(self) -> None:
        one_of(
            "evaluation",
            "metric",
            self.metric,
            ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider_d", "loss"),
        )
        in_range("evaluation", "beam", self.beam, 1, 100)
        for name in ("limit", "diary_pictures"):
            at_least("evaluation", name, getattr(self, name), 0)
