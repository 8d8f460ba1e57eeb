"""Sections of a recipe for the networks: the encoder, its input, and the decoder."""

from dataclasses import dataclass, field
from typing import Annotated

from regard.config.io import Length, OneOf, Range, Section

_WINDOWS = ("lung", "mediastinum", "bone", "brain", "liver", "percentile", "zscore")


@dataclass(frozen=True)
class VideoConfig(Section, section="encoder.video"):
    """The frames of a clip that are read, and their grid (Yao et al. 2015)."""

    frames: Annotated[int, Range(1, 4096)] = 26
    """K, frames that are read at most (the paper's 26). A shorter clip has fewer: the rest of
    its grid is padding, on which alpha is 0."""
    choice: Annotated[str, OneOf("chunks", "seconds", "all")] = "chunks"
    """chunks: K equal parts, one frame of each; seconds: one frame every `every` seconds, or K
    equal parts where those would be more; all: every frame of clips of at most K."""
    take: Annotated[str, OneOf("middle", "first")] = "middle"
    """Which frame of each chunk: middle, or first (the paper's released code)."""
    first_frames: Annotated[int, Range(0, 10**9)] = 0
    """Use only this many first frames of a clip (the paper's 240); 0: the whole clip."""
    every: Annotated[float, Range(0, exclusive=True)] = 1.0
    """Seconds between frames where choice is seconds."""
    grid: Annotated[str, OneOf("temporal", "spatio_temporal")] = "temporal"
    """temporal: one cell per frame, its mean vector (the paper); spatio_temporal: frames × rows
    × cols."""
    motion: Annotated[str, OneOf("none", "conv3d")] = "none"
    """none, or conv3d: local motion features of a small 3D CNN join the frames' vectors (Yao et
    al. 2015, section 4.1). They are trained with the decoder, at its rate, even where the encoder
    is frozen, so that frames are encoded in every step instead of once."""
    motion_dim: Annotated[int, Range(1, 4096)] = 64
    """Motion features per frame, or per cell of a spatio-temporal grid."""


@dataclass(frozen=True)
class VolumeConfig(Section, section="encoder.volume"):
    """Preprocessing of scans for a network; axes are (slices, rows, cols)."""

    shape: Annotated[tuple[int, ...], Length(3), Range(1)] = (48, 48, 48)
    """Voxels of the input."""
    spacing: Annotated[tuple[float, ...], Length(0, 3), Range(0, exclusive=True)] = (1.0, 1.0, 1.0)
    """Millimetres between the input's voxels; the scan is resampled to them, then cut or padded
    around its middle. Empty: the whole scan is squashed into the shape."""
    window: Annotated[str, OneOf(*_WINDOWS)] = "percentile"
    """Intensity window: lung, mediastinum, bone, brain, liver (CT, Hounsfield
    units), percentile or zscore (MRI, which has no absolute scale)."""
    channels: Annotated[tuple[int, ...], Range(1, 65536)] = ()
    """Features of each stage of a MONAI ResNet; empty: its own."""
    numbers: Annotated[int, Range(0, 4096)] = 0
    """Number of scalar targets that the encoder is pretrained on and that its vectors keep."""
    parts: Annotated[int, Range(0, 4096)] = 0
    """Number of parts whose share of each cell it is pretrained on, from masks."""


@dataclass(frozen=True)
class EncoderConfig(Section, section="encoder"):
    """The network that turns pixels into annotation vectors."""

    name: str = "efficientnet_lite0"
    """Name in the encoder table; `timm:NAME` takes any timm backbone, `monai:NAME` any MONAI
    network for volumes. A picture's encoder reads clips frame by frame, scans slice by slice."""
    image_size: Annotated[int, Range(16, 2048)] = 224
    """Side of the square input in pixels."""
    level: str = "stride32"
    """Which feature map is read: stride16 or stride32; of clip_vit_b16 last or dense; of
    timm an index into its features."""
    resize: Annotated[str, OneOf("squash", "crop", "pad")] = "squash"
    """squash: to a square, aspect ratio lost; crop: short side, then centre crop (the paper);
    pad: long side, then padded."""
    trainable: bool = False
    """Fine-tune the encoder with the decoder; its BatchNorm statistics stay frozen. Motion
    features are trained either way."""
    frozen_blocks: Annotated[int, Range(0, 1000)] = 0
    """First blocks of a fine-tuned EfficientNet-Lite that stay frozen. Their output is stored, so
    that only the rest runs in every step."""
    weights: str = ""
    """Initial weights of the encoder, instead of its package's: an encoder's safetensors file, or
    the folder of a model that has the same encoder."""
    medium: Annotated[str, OneOf("image", "video", "volume")] = "image"
    """image, video or volume."""
    video: VideoConfig = field(default_factory=VideoConfig)
    """Read where the medium is video."""
    volume: VolumeConfig = field(default_factory=VolumeConfig)
    """Read where the medium is volume."""


@dataclass(frozen=True)
class DecoderConfig(Section, section="decoder"):
    """The attention LSTM (Xu et al. 2015, section 3.1)."""

    embedding_dim: Annotated[int, Range(1, 65536)] = 512
    """E, size of a word's embedding."""
    hidden_dim: Annotated[int, Range(1, 65536)] = 512
    """H, size of the LSTM's state."""
    attention_dim: Annotated[int, Range(1, 65536)] = 512
    """A, size in which query and keys are compared."""
    feature_dim: Annotated[int, Range(0, 65536)] = 0
    """D after a linear projection of the encoder's vectors; 0 keeps the encoder's own D."""
    annotation_norm: bool = False
    """LayerNorm on the annotations (after the projection)."""
    attention: Annotated[str, OneOf("soft", "hard")] = "soft"
    """soft: expectation over all cells; hard: one sampled cell."""
    scores: Annotated[str, OneOf("additive", "dot", "scaled_dot", "uniform")] = "additive"
    """additive (the paper's MLP), dot, scaled_dot, or uniform (equal weights: a control)."""
    temperature: Annotated[float, Range(0, exclusive=True)] = 1.0
    """Divides the scores before the softmax."""
    gate: Annotated[str, OneOf("scalar", "feature", "none")] = "scalar"
    """beta: scalar (the paper), feature (one per annotation feature), or none."""
    init: Annotated[str, OneOf("mlp", "mean")] = "mlp"
    """First state: mlp (tanh MLPs of the mean annotation) or mean (the mean itself)."""
    position: Annotated[str, OneOf("none", "learned", "sinusoidal")] = "none"
    """Position code added to the annotations per grid axis: none, learned, sinusoidal."""
    grid_shape: Annotated[tuple[int, ...], Range(1)] = ()
    """The grid that a learned position code is made for; filled in by training."""
    output_activation: Annotated[str, OneOf("tanh", "linear")] = "tanh"
    """Activation of the deep output: tanh (released code) or linear (the paper's equation 7)."""
    dropout: Annotated[float, Range(0.0, 0.95)] = 0.5
    """Dropout after h_t, after the deep output, and in the first state's MLP."""
    embedding_dropout: Annotated[float, Range(0.0, 0.95)] = 0.0
    """Dropout on the word embeddings."""
    tie_embeddings: bool = False
    """Share the output matrix L_o with the embedding E."""
    concepts: Annotated[int, Range(0, 65536)] = 0
    """Number of concepts that a pointer can name from the cells; 0: no pointer (the papers)."""
    concept_dim: Annotated[int, Range(1, 65536)] = 512
    """Size of a concept's vector."""
    concept_split: Annotated[int, Range(0, 65536)] = 0
    """Features of an annotation, from the first, by which whole items are compared with concepts;
    single cells are by the others. 0: both by all features."""
    concept_cells: bool = False
    """Add to every annotation an embedding of what the pointer would name there."""
    concept_negatives: Annotated[int, Range(0, 65536)] = 0
    """Number of typical directions that the model keeps, by which it learns new concepts."""
    concept_dropout: Annotated[float, Range(0.0, 0.95)] = 0.4
    """Share of the concepts that only the pointer can say, drawn anew for every batch; otherwise
    the vocabulary learns to say them all, and nothing is learned for concepts added later."""
