"""The recipe, and its sections for training, decoding and evaluation."""

from dataclasses import dataclass, field
from typing import Annotated

from regard.config.io import OneOf, Range, Section
from regard.config.networks import DecoderConfig, EncoderConfig
from regard.errors import ConfigError

MOST_PENALTY = 10.0
"""Of a length penalty: the longest caption wins long before."""
MOST_BEAM = 100
"""Of a beam's width: captions change little beyond ten, and time and memory grow with it."""


@dataclass(frozen=True)
class DataConfig(Section, section="data"):
    """The sources of captions and pictures."""

    annotations: str = ""
    """Karpathy, COCO or MSR-VTT JSON, Flickr8k token file, MSVD's folder or CSV, CSV or JSONL; or
    WebDataset shards: their `shards.json` or a pattern of tars, on any path of fsspec."""
    images: str = ""
    """Folder of the pictures, clips or scans."""
    present_only: bool = False
    """Leave out captions without a file; few copies of MSVD have all clips."""
    store: str = ""
    """Folder of encoded annotations; empty: `annotations` inside the run's folder."""
    tokens: Annotated[str, OneOf("word", "character", "bpe")] = "word"
    """word, character, or bpe (languages without spaces)."""
    min_count: Annotated[int, Range(1, 10**6)] = 5
    """A word seen less often in training becomes <unk>."""
    max_words: Annotated[int, Range(1, 10**7)] = 10000
    """Largest vocabulary, special tokens not counted."""
    max_length: Annotated[int, Range(1, 1000)] = 30
    """Longer training captions are cut after this many tokens."""
    flip: bool = False
    """Also train on the mirrored picture."""
    crops: Annotated[int, Range(0, 1000)] = 0
    """Also train on this many random crops of each picture; every second one is mirrored if
    `flip` is set."""
    val_fraction: Annotated[float, Range(0.0, 0.9)] = 0.1
    """Share of pictures held out where the data names no split."""
    limit: Annotated[int, Range(0)] = 0
    """Use only this many training pictures; 0 uses all."""
    credit: str = ""
    """Notes on the data for the model card: owner, licence, origin of the captions."""
    familiarity: bool = False
    """Store statistics of the training items; captions of unlike inputs then get a notice."""


@dataclass(frozen=True)
class ObjectiveConfig(Section, section="objective"):
    """The training objective."""

    kind: Annotated[str, OneOf("cross_entropy", "hard_attention", "self_critical")] = (
        "cross_entropy"
    )
    """cross_entropy, hard_attention (REINFORCE), or self_critical (CIDEr-D)."""
    label_smoothing: Annotated[float, Range(0.0, 0.9)] = 0.0
    """Share of the target's probability spread over the vocabulary."""
    lambda_ds: Annotated[float, Range(0.0)] = 1.0
    """Weight of the doubly stochastic penalty."""
    lambda_r: Annotated[float, Range(0.0)] = 1.0
    """Hard attention: weight of the REINFORCE term."""
    lambda_e: Annotated[float, Range(0.0)] = 0.002
    """Hard attention: weight of the entropy term."""
    reward: Annotated[str, OneOf("sum", "mean")] = "sum"
    """Hard attention: sum (log p(y|s) of the caption: the paper) or mean (per word: the released
    code), which weights long and short captions equally. With label_smoothing or teachers it is the
    log-likelihood that is trained, smoothed and mixed, and not that of the caption alone."""
    baseline_decay: Annotated[float, Range(0.0, 1.0)] = 0.9
    """Hard attention: b <- decay b + (1 - decay) reward."""
    expectation_probability: Annotated[float, Range(0.0, 1.0)] = 0.5
    """Hard attention: chance per image that the sample is replaced by its expectation."""
    samples: Annotated[int, Range(1, 10**6)] = 5
    """Self-critical: captions sampled per image."""
    reward_end_token: bool = False
    """Self-critical: count the end token as a word of the scored caption."""
    bleu_weight: Annotated[float, Range(0.0, 100.0)] = 0.0
    """Self-critical: weight of a caption's smoothed BLEU-4 (0 to 1), added to its CIDEr-D (0 to
    10)."""
    cross_entropy_weight: Annotated[float, Range(0.0)] = 0.0
    """Self-critical: weight of a cross-entropy term mixed in."""
    teachers: tuple[str, ...] = ()
    """Models, as `--model` takes them, whose word probabilities (their mean) are learned besides
    the captions; their words must be the run's own."""
    teacher_weight: Annotated[float, Range(0.0, 1.0)] = 0.5
    """Weight of the teachers in the target of every word; the captions have the rest."""
    teacher_stores: tuple[str, ...] = ()
    """Folder of each teacher's encoded annotations; empty: `teacher1`, ... in the run's folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.teacher_stores and len(self.teacher_stores) != len(self.teachers):
            raise ConfigError(
                f"objective.teacher_stores names {len(self.teacher_stores)} folders for "
                f"{len(self.teachers)} teachers. Name one for each, or none."
            )
        if self.teachers and self.kind == "self_critical" and not self.cross_entropy_weight:
            raise ConfigError(
                "objective.teachers would have no effect: self_critical reads captions only where "
                "objective.cross_entropy_weight is above 0."
            )


@dataclass(frozen=True)
class OptimizerConfig(Section, section="optimizer"):
    """The optimizer."""

    name: Annotated[str, OneOf("adam", "adamw", "rmsprop", "adadelta")] = "adam"
    """adam, adamw, rmsprop, or adadelta."""
    learning_rate: Annotated[float, Range(0, exclusive=True)] = 4e-4
    """Peak rate of the decoder."""
    encoder_learning_rate: Annotated[float, Range(0)] = 1e-5
    """Peak rate of a trainable encoder."""
    weight_decay: Annotated[float, Range(0)] = 0.0
    """L2 (adam, rmsprop, adadelta) or decoupled (adamw)."""
    schedule: Annotated[str, OneOf("constant", "cosine")] = "constant"
    """constant or cosine (to zero at the last step)."""
    warmup_steps: Annotated[int, Range(0)] = 0
    """Steps of linear warm-up; a fifth of the run at most."""
    clip_norm: Annotated[float, Range(0)] = 5.0
    """Largest gradient norm; 0 does not clip."""
    ema_decay: Annotated[float, Range(0.0, 0.99999)] = 0.0
    """Exponential moving average of the weights, used for evaluation; 0 is off."""


@dataclass(frozen=True)
class TrainingConfig(Section, section="training"):
    """The training loop."""

    epochs: Annotated[int, Range(1, 10**7)] = 20
    """Passes over the training captions."""
    batch_size: Annotated[int, Range(1, 10**7)] = 64
    """Captions per step; of every device where there are several."""
    accumulate: Annotated[int, Range(1, 10**7)] = 1
    """Passes over `batch_size` captions each whose gradients make one step."""
    captions_per_image: Annotated[int, Range(1, 10**7)] = 5
    """Captions of one picture that share one projection in a step."""
    batching: Annotated[str, OneOf("bucket", "equal", "random")] = "bucket"
    """bucket: pictures with captions of similar length together; equal: one length only
    (the paper), which a run takes with captions_per_image = 1 alone; random."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    """Seed of initialisation, order, dropout and sampling."""
    precision: Annotated[str, OneOf("auto", "fp32", "bf16", "fp16")] = "fp32"
    """fp32, bf16 or fp16 (autocast; fp16 with a scaled loss), or auto: bf16 where the device
    computes in it, else fp32. A device that only imitates bf16 takes many times as long."""
    tf32: bool = False
    """On an NVIDIA GPU, round the factors of fp32 products and convolutions to TF32: faster, and
    no longer equal to a CPU's to rounding."""
    resident: Annotated[str, OneOf("auto", "on", "off")] = "auto"
    """Keep all stored annotations in the GPU's memory: on, off, or auto: where they take at most
    half of what is free."""
    patience: Annotated[int, Range(0)] = 0
    """Stop after this many evaluations with neither a better metric nor a lower val loss; 0
    never."""
    save_every: Annotated[int, Range(0)] = 0
    """Also save the resumable state every this many steps; 0: only after each epoch."""
    init_from: str = ""
    """Model that the run starts from, as for `--model`: its weights, and its words before
    those that the captions add. `encoder` and `decoder` must be its own (`regard train --init`)."""


@dataclass(frozen=True)
class DecodingConfig(Section, section="decoding"):
    """The model's default decoding options.

    Which of these serves a model best depends on what it was trained for, so they are its own;
    choose them on val (`regard evaluate --length-penalty 0.8 --keep-decoding`).
    """

    length_penalty: Annotated[float, Range(0.0, MOST_PENALTY)] = 0.0
    """A caption's score is sum(log p) / length ** length_penalty; 0: the paper's plain sum."""
    block_ngram: Annotated[int, Range(0, 1000)] = 0
    """No n-gram of this size occurs twice; 0 blocks nothing."""
    name_once: bool = False
    """A concept of the pointer's bank occurs at most once in a caption, in one of its forms."""


@dataclass(frozen=True)
class EvaluationConfig(Section, section="evaluation"):
    """Evaluation during training."""

    metric: Annotated[
        str, OneOf("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider_d", "loss")
    ] = "cider_d"
    """Early stopping and `best` follow this score of free-running val captions."""
    beam: Annotated[int, Range(1, MOST_BEAM)] = 1
    """Beam width of the evaluation in training."""
    limit: Annotated[int, Range(0)] = 0
    """Use only this many val pictures; 0 uses all."""
    diary_pictures: Annotated[int, Range(0)] = 6
    """Fixed val pictures in the learning diary."""


@dataclass(frozen=True)
class Recipe:
    """All settings of one experiment."""

    name: str = "custom"
    """Printed in logs and stored in the checkpoint."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if self.objective.kind == "hard_attention" and self.decoder.attention != "hard":
            raise ConfigError(
                'objective.kind = "hard_attention" trains sampled cells, but decoder.attention is '
                f'{self.decoder.attention!r}. Set decoder.attention = "hard".'
            )
        if self.objective.kind == "cross_entropy" and self.decoder.attention == "hard":
            raise ConfigError(
                'decoder.attention = "hard" cannot be trained by cross_entropy alone: the sampled '
                'cell has no gradient. Set objective.kind = "hard_attention".'
            )
