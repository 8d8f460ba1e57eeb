"""Recipes: frozen dataclasses that TOML fills (`regard.settings`) and the checkpoint stores whole.

A recipe is data: no evaluation, no class paths. This module imports neither torch nor numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from regard.errors import ConfigError


def _one_of(section: str, name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{section}.{name} is {value!r}; it must be one of {', '.join(allowed)}.")


def _in_range(section: str, name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{section}.{name} is {value}; it must lie between {low} and {high}.")


@dataclass(frozen=True)
class VideoConfig:
    """Which frames of a clip are read, and on which grid (Yao et al. 2015)."""

    frames: int = 26
    """K, frames that are read at most (the paper's 26). A shorter clip has fewer: the rest of
    its grid is padding, on which alpha is 0."""
    choice: str = "chunks"
    """chunks: K equal parts, one frame of each; seconds: one frame every `every` seconds, or K
    equal parts where those would be more; all: every frame of clips of at most K."""
    take: str = "middle"
    """Which frame of each chunk: middle, or first (the paper's released code)."""
    first_frames: int = 0
    """Only the first so many frames of a clip (the paper's 240); 0: the whole clip."""
    every: float = 1.0
    """Seconds between frames where choice is seconds."""
    grid: str = "temporal"
    """temporal: one cell per frame, its mean vector (the paper); spatio_temporal: frames × rows
    × cols."""
    motion: str = "none"
    """none, or conv3d: local motion features of a small 3D CNN join the frames' vectors (Yao et
    al. 2015, section 4.1). They are trained with the decoder, at its rate, even where the encoder
    is frozen, so that frames are encoded in every step instead of once."""
    motion_dim: int = 64
    """Motion features per frame, or per cell of a spatio-temporal grid."""

    def __post_init__(self) -> None:
        _one_of("encoder.video", "choice", self.choice, ("chunks", "seconds", "all"))
        _one_of("encoder.video", "take", self.take, ("middle", "first"))
        _one_of("encoder.video", "grid", self.grid, ("temporal", "spatio_temporal"))
        _one_of("encoder.video", "motion", self.motion, ("none", "conv3d"))
        _in_range("encoder.video", "frames", self.frames, 1, 4096)
        _in_range("encoder.video", "first_frames", self.first_frames, 0, 10**9)
        _in_range("encoder.video", "motion_dim", self.motion_dim, 1, 4096)
        if self.every <= 0:
            raise ConfigError(f"encoder.video.every is {self.every}; it must be above 0 seconds.")


@dataclass(frozen=True)
class VolumeConfig:
    """How a scan becomes the input of a network; axes are (slices, rows, cols)."""

    shape: tuple[int, ...] = (48, 48, 48)
    """Voxels of the input."""
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    """Millimetres between the input's voxels; the scan is resampled to them, then cut or padded
    around its middle. Empty: the whole scan is squashed into the shape."""
    window: str = "percentile"
    """What becomes black and white: lung, mediastinum, bone, brain, liver (CT, Hounsfield
    units), percentile or zscore (MRI, which has no absolute scale)."""
    channels: tuple[int, ...] = ()
    """Features of each stage of a MONAI ResNet; empty: its own."""
    numbers: int = 0
    """Numbers of the whole that the encoder is taught before any word, and that its vectors say."""
    parts: int = 0
    """Parts whose share of each cell it is taught likewise, by masks."""

    def __post_init__(self) -> None:
        windows = ("lung", "mediastinum", "bone", "brain", "liver", "percentile", "zscore")
        _one_of("encoder.volume", "window", self.window, windows)
        _in_range("encoder.volume", "numbers", self.numbers, 0, 4096)
        _in_range("encoder.volume", "parts", self.parts, 0, 4096)
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ConfigError(
                f"encoder.volume.shape is {list(self.shape)}; it must be three numbers of voxels, "
                "for slices, rows and cols."
            )
        if self.spacing and (len(self.spacing) != 3 or min(self.spacing) <= 0):
            raise ConfigError(
                f"encoder.volume.spacing is {list(self.spacing)}; it must be three numbers of "
                "millimetres above 0, for slices, rows and cols, or empty."
            )


@dataclass(frozen=True)
class EncoderConfig:
    """Which network turns pixels into annotation vectors."""

    name: str = "efficientnet_lite0"
    """Name in the encoder table; `timm:NAME` takes any timm backbone, `monai:NAME` any MONAI
    network for volumes. A picture's encoder reads clips frame by frame, scans slice by slice."""
    image_size: int = 224
    """Side of the square input in pixels."""
    level: str = "stride32"
    """Which feature map is read: stride16 or stride32 (timm: an index into its features)."""
    resize: str = "squash"
    """squash: to a square, aspect ratio lost; crop: short side, then centre crop (the paper);
    pad: long side, then padded."""
    trainable: bool = False
    """Fine-tune the encoder with the decoder; its BatchNorm statistics stay frozen. Motion
    features are trained either way."""
    frozen_blocks: int = 0
    """Of an EfficientNet-Lite that is fine-tuned: so many of its first blocks stay as they are.
    What they make of a picture is stored, so that only the rest is run in every step."""
    weights: str = ""
    """Safetensors file that training starts the encoder from, instead of its package's weights."""
    medium: str = "image"
    """image, video or volume."""
    video: VideoConfig = field(default_factory=VideoConfig)
    """Read where the medium is video."""
    volume: VolumeConfig = field(default_factory=VolumeConfig)
    """Read where the medium is volume."""

    def __post_init__(self) -> None:
        _one_of("encoder", "resize", self.resize, ("squash", "crop", "pad"))
        _one_of("encoder", "medium", self.medium, ("image", "video", "volume"))
        _in_range("encoder", "image_size", self.image_size, 16, 2048)
        _in_range("encoder", "frozen_blocks", self.frozen_blocks, 0, 1000)


@dataclass(frozen=True)
class DecoderConfig:
    """The attention LSTM (Xu et al. 2015, section 3.1)."""

    embedding_dim: int = 512
    """E, size of a word's embedding."""
    hidden_dim: int = 512
    """H, size of the LSTM's state."""
    attention_dim: int = 512
    """A, size in which query and keys are compared."""
    feature_dim: int = 0
    """D after a linear projection of the encoder's vectors; 0 keeps the encoder's own D."""
    annotation_norm: bool = False
    """LayerNorm on the annotations (after the projection)."""
    attention: str = "soft"
    """soft: expectation over all cells; hard: one sampled cell."""
    scores: str = "additive"
    """additive (the paper's MLP), dot, scaled_dot, or uniform (every cell alike: a control)."""
    temperature: float = 1.0
    """Divides the scores before the softmax."""
    gate: str = "scalar"
    """beta: scalar (the paper), feature (one per annotation feature), or none."""
    init: str = "mlp"
    """First state: mlp (tanh MLPs of the mean annotation) or mean (the mean itself)."""
    position: str = "none"
    """Position code added to the annotations per grid axis: none, learned, sinusoidal."""
    grid_shape: tuple[int, ...] = ()
    """The grid that a learned position code is made for; filled in by training."""
    output_activation: str = "tanh"
    """Of the deep output: tanh (released code) or linear (the paper's equation 7)."""
    dropout: float = 0.5
    """After h_t, after the deep output, and in the first state's MLP."""
    embedding_dropout: float = 0.0
    """On the word embeddings."""
    tie_embeddings: bool = False
    """Share the output matrix L_o with the embedding E."""

    def __post_init__(self) -> None:
        _one_of("decoder", "attention", self.attention, ("soft", "hard"))
        _one_of("decoder", "scores", self.scores, ("additive", "dot", "scaled_dot", "uniform"))
        _one_of("decoder", "gate", self.gate, ("scalar", "feature", "none"))
        _one_of("decoder", "init", self.init, ("mlp", "mean"))
        _one_of("decoder", "position", self.position, ("none", "learned", "sinusoidal"))
        _one_of("decoder", "output_activation", self.output_activation, ("tanh", "linear"))
        _in_range("decoder", "dropout", self.dropout, 0.0, 0.95)
        _in_range("decoder", "embedding_dropout", self.embedding_dropout, 0.0, 0.95)
        for name in ("embedding_dim", "hidden_dim", "attention_dim"):
            _in_range("decoder", name, getattr(self, name), 1, 65536)
        if self.temperature <= 0:
            raise ConfigError(f"decoder.temperature is {self.temperature}; it must be above 0.")


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
        _one_of("data", "tokens", self.tokens, ("word", "character", "bpe"))
        _in_range("data", "val_fraction", self.val_fraction, 0.0, 0.9)
        _in_range("data", "crops", self.crops, 0, 1000)
        _in_range("data", "min_count", self.min_count, 1, 10**6)
        _in_range("data", "max_words", self.max_words, 1, 10**7)
        _in_range("data", "max_length", self.max_length, 1, 1000)


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
    code), which weighs long and short captions alike."""
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

    def __post_init__(self) -> None:
        _one_of(
            "objective", "kind", self.kind, ("cross_entropy", "hard_attention", "self_critical")
        )
        _one_of("objective", "reward", self.reward, ("sum", "mean"))
        _in_range("objective", "label_smoothing", self.label_smoothing, 0.0, 0.9)
        _in_range("objective", "bleu_weight", self.bleu_weight, 0.0, 100.0)
        _in_range("objective", "baseline_decay", self.baseline_decay, 0.0, 1.0)
        _in_range("objective", "expectation_probability", self.expectation_probability, 0.0, 1.0)


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
        _one_of("optimizer", "name", self.name, ("adam", "adamw", "rmsprop", "adadelta"))
        _one_of("optimizer", "schedule", self.schedule, ("constant", "cosine"))
        _in_range("optimizer", "ema_decay", self.ema_decay, 0.0, 0.99999)
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
    (the paper); random."""
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
        _one_of("training", "batching", self.batching, ("bucket", "equal", "random"))
        _one_of("training", "precision", self.precision, ("auto", "fp32", "bf16"))
        for name in ("epochs", "batch_size", "captions_per_image", "accumulate"):
            _in_range("training", name, getattr(self, name), 1, 10**7)


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
        _in_range("decoding", "length_penalty", self.length_penalty, 0.0, 100.0)
        _in_range("decoding", "block_ngram", self.block_ngram, 0, 1000)


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
        _one_of(
            "evaluation",
            "metric",
            self.metric,
            ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider_d", "loss"),
        )
        _in_range("evaluation", "beam", self.beam, 1, 100)


@dataclass(frozen=True)
class Recipe:
    """One experiment, whole."""

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
                'objective.kind = "hard_attention" trains sampled cells, and decoder.attention is '
                f'{self.decoder.attention!r}. Set decoder.attention = "hard".'
            )
        if self.objective.kind == "cross_entropy" and self.decoder.attention == "hard":
            raise ConfigError(
                'decoder.attention = "hard" cannot be trained by cross_entropy alone: the sampled '
                'cell has no gradient. Set objective.kind = "hard_attention".'
            )
