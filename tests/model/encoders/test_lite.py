"""EfficientNet-Lite: its grids, what is frozen of it, and the same vectors from onnxruntime."""

from dataclasses import replace

import torch

from regard.model.encoders import build_encoder
from regard.model.encoders.onnx_encoder import encode_with
from tests.helpers import toys


def test_onnxruntime_and_torch_encode_alike() -> None:
    import numpy as np

    encoder = build_encoder(toys.recipe().encoder, pretrained=True)
    pixels = np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)
    one, other = (encode_with(encoder, runtime=r)(pixels) for r in ("torch", "onnxruntime"))
    cosine = (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)
    assert cosine > 0.9999
    assert one.shape == (3, 4, 1280)


def test_grids_of_the_lite_encoders() -> None:
    for name, size, level, shape, features in (
        ("efficientnet_lite0", 224, "stride32", (7, 7), 1280),
        ("efficientnet_lite0", 224, "stride16", (14, 14), 112),
        ("efficientnet_lite2", 224, "stride32", (7, 7), 1280),
    ):
        config = replace(toys.recipe().encoder, name=name, image_size=size, level=level)
        encoder = build_encoder(config, pretrained=False)
        vectors = encoder(torch.zeros(1, 3, size, size))
        assert tuple(vectors.shape) == (1, shape[0] * shape[1], features)
        assert encoder.grid_shape == shape
        assert encoder.annotation_dim == features


def test_frozen_batch_norm_stays_frozen() -> None:
    config = replace(toys.recipe().encoder, trainable=True)
    encoder = build_encoder(config, pretrained=False).train()
    before = {k: v.clone() for k, v in encoder.state_dict().items() if "running" in k}
    encoder(torch.randn(2, 3, 64, 64))
    after = encoder.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert before
