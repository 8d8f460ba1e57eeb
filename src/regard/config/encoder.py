"""Sections of a recipe that make the networks: what is read, and what reads it."""

from __future__ import annotations

from dataclasses import dataclass, field

from regard.config.checks import at_least, in_range, one_of
from regard.errors import ConfigError


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
        one_of("encoder.video", "choice", self.choice, ("chunks", "seconds", "all"))
        one_of("encoder.video", "take", self.take, ("middle", "first"))
        one_of("encoder.video", "grid", self.grid, ("temporal", "spatio_temporal"))
        one_of("encoder.video", "motion", self.motion, ("none", "conv3d"))
        in_range("encoder.video", "frames", self.frames, 1, 4096)
        in_range("encoder.video", "first_frames", self.first_frames, 0, 10**9)
        in_range("encoder.video", "motion_dim", self.motion_dim, 1, 4096)
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
        one_of("encoder.volume", "window", self.window, windows)
        in_range("encoder.volume", "numbers", self.numbers, 0, 4096)
        in_range("encoder.volume", "parts", self.parts, 0, 4096)
        for features in self.channels:
            in_range("encoder.volume", "channels", features, 1, 65536)
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
    """What training starts the encoder from, instead of its package's weights: an encoder's
    safetensors file, or the folder of a model that has the same encoder."""
    medium: str = "image"
    """image, video or volume."""
    video: VideoConfig = field(default_factory=VideoConfig)
    """Read where the medium is video."""
    volume: VolumeConfig = field(default_factory=VolumeConfig)
    """Read where the medium is volume."""

    def __post_init__(self) -> None:
        one_of("encoder", "resize", self.resize, ("squash", "crop", "pad"))
        one_of("encoder", "medium", self.medium, ("image", "video", "volume"))
        in_range("encoder", "image_size", self.image_size, 16, 2048)
        in_range("encoder", "frozen_blocks", self.frozen_blocks, 0, 1000)


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
        one_of("decoder", "attention", self.attention, ("soft", "hard"))
        one_of("decoder", "scores", self.scores, ("additive", "dot", "scaled_dot", "uniform"))
        one_of("decoder", "gate", self.gate, ("scalar", "feature", "none"))
        one_of("decoder", "init", self.init, ("mlp", "mean"))
        one_of("decoder", "position", self.position, ("none", "learned", "sinusoidal"))
        one_of("decoder", "output_activation", self.output_activation, ("tanh", "linear"))
        in_range("decoder", "dropout", self.dropout, 0.0, 0.95)
        in_range("decoder", "embedding_dropout", self.embedding_dropout, 0.0, 0.95)
        for name in ("embedding_dim", "hidden_dim", "attention_dim"):
            in_range("decoder", name, getattr(self, name), 1, 65536)
        in_range("decoder", "feature_dim", self.feature_dim, 0, 65536)
        for cells in self.grid_shape:
            at_least("decoder", "grid_shape", cells, 1)
        if self.temperature <= 0:
            raise ConfigError(f"decoder.temperature is {self.temperature}; it must be above 0.")
