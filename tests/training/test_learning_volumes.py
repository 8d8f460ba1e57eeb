"""On synthetic volumes a small model captions correctly and looks at the things it names.

The shipped recipe, objective, optimizer and batches are used; only the volumes stay in memory.
"On that lesion": at the word of its size, the first that needs a look at it ("a small bright shell
in ..."), the middle of the cell with the largest weight, taken back through resampling and the
file's own affine to world millimetres, lies inside the lesion's box. What is said after that word
the model may know from the same look: that the peak is no longer there is printed, too. The
volumes that are judged come from a seed that no setting was chosen on.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from nibabel.nifti1 import Nifti1Image
from torch import Tensor

from regard.captioner import Captioner
from regard.config import Recipe
from regard.errors import ConfigError
from regard.media import cell_at, cell_centre, world_of
from regard.model.encoders import Encoder, build_encoder
from regard.model.encoders.small_cnn import RECEPTIVE_FIELD_3D
from regard.recipes import find_recipe
from regard.synthetic.volumes import KINDS, SIZES, Lesion, SyntheticVolume, make_volumes
from regard.types import AttentionTrace, Caption, Grid, Word
from tests.helpers.learning import learn

TRAINING_VOLUMES, TEST_VOLUMES, TEST_SEED = 8000, 300, 20261126


def file_of(volume: SyntheticVolume) -> bytes:
    return Nifti1Image(volume.values, volume.affine).to_bytes()


def read(volumes: list[SyntheticVolume], encoder: Encoder) -> Tensor:
    pixels = [encoder.prepare(encoder.read(file_of(v))).pixels for v in volumes]
    return torch.from_numpy(np.stack(pixels))


def train(recipe: Recipe, count: int) -> Captioner:
    encoder = build_encoder(recipe.encoder)
    pixels = torch.empty(count, *encoder.input_shape)
    captions: list[str] = []
    for i, volume in enumerate(make_volumes(count)):  # one by one: files are larger than inputs
        pixels[i] = read([volume], encoder)[0]
        captions.append(volume.caption)
    return learn(recipe, pixels, captions)


def middles(grid: Grid) -> np.ndarray:
    """(L, 3) in world millimetres."""
    return np.array([world_of(grid, cell_centre(grid, cell)) for cell in range(grid.cells)])


def inside(point: np.ndarray, lesion: Lesion) -> bool:
    return all(start <= at <= stop for at, (start, stop) in zip(point, lesion.box, strict=True))


def mentions(
    caption: Caption, volume: SyntheticVolume, what: str = "size"
) -> list[tuple[np.ndarray, Lesion]]:
    """Return alpha (L,) of each word of size (or kind) that is right, with its lesion."""
    words = [word for word in caption.words if word.text in {"kind": KINDS, "size": SIZES}[what]]
    pairs = zip(words, volume.lesions, strict=False)  # speckled ones are not spoken of
    return [(w.alpha.reshape(-1), lesion) for w, lesion in pairs if w.text == getattr(lesion, what)]


def report(captions: list[Caption], volumes: list[SyntheticVolume]) -> tuple[float, float, str]:
    """Return the shares of exact captions and of hits, and both beside what they mean."""
    exact = np.mean([c.text == v.caption for c, v in zip(captions, volumes, strict=True)])
    hits, uniform, centre, mass, peak_error, mean_error, later = ([] for _ in range(7))
    for caption, volume in zip(captions, volumes, strict=True):
        points = middles(caption.grid)
        middle = cell_at(caption.grid, tuple((a + b) / 2 for a, b in caption.grid.extent))
        for alpha, lesion in mentions(caption, volume):
            holds = np.array([inside(point, lesion) for point in points])
            peak = int(alpha.argmax())
            hits.append(holds[peak])
            uniform.append(holds.mean())
            centre.append(holds[middle])
            mass.append(alpha[holds].sum())
            peak_error.append(np.linalg.norm(points[peak] - lesion.centre))
            mean_error.append(np.linalg.norm(alpha @ points / alpha.sum() - lesion.centre))
        for alpha, lesion in mentions(caption, volume, "kind"):
            later.append(inside(points[int(alpha.argmax())], lesion))
    errors = "; ".join(
        f"{name} {np.median(e):.1f} mm (median), {np.percentile(e, 95):.1f} mm (95 %)"
        for name, e in (("peak cell", peak_error), ("centre of mass", mean_error))
    )
    return (
        float(exact),
        float(np.mean(hits)),
        f"exact captions {exact:.1%}; peak inside the named lesion {np.mean(hits):.1%} of "
        f"{len(hits)} (uniform {np.mean(uniform):.1%}, centre {np.mean(centre):.1%}); attention "
        f"inside it {np.mean(mass):.1%} (uniform {np.mean(uniform):.1%}); from the lesion's "
        f"centre: {errors}. At the word of its kind, two words on: peak inside "
        f"{np.mean(later):.1%}",
    )


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_volumes_are_described_and_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    model = train(find_recipe("synthetic-volume"), TRAINING_VOLUMES)
    volumes = list(make_volumes(TEST_VOLUMES, split="test", seed=TEST_SEED))
    captions = model.caption([file_of(v) for v in volumes], beam=1)
    assert isinstance(captions, list)
    exact, hits, text = report(captions, volumes)
    with capsys.disabled():
        print(f"\nsynthetic-volume: {text}")
    assert exact >= 0.95
    assert hits >= 0.90


def test_a_few_volumes_are_learnt_by_heart() -> None:
    """Gradients reach the network through the grid: what differs between volumes is seen."""
    recipe = find_recipe("synthetic-volume")
    volume = replace(recipe.encoder.volume, shape=(16, 16, 16), spacing=(4.0, 4.0, 4.0))
    rates = {"learning_rate": 4e-3, "encoder_learning_rate": 4e-3, "warmup_steps": 10}
    recipe = replace(
        recipe,
        encoder=replace(recipe.encoder, volume=volume),
        optimizer=replace(recipe.optimizer, **rates),
        training=replace(recipe.training, epochs=150, batch_size=8),
    )
    model = train(recipe, 8)
    volumes = list(make_volumes(8))
    captions = model.caption([file_of(v) for v in volumes], beam=1)
    assert isinstance(captions, list)
    assert [c.text for c in captions] == [v.caption for v in volumes]


def test_a_cell_sees_its_surroundings_and_no_more() -> None:
    encoder = build_encoder(find_recipe("synthetic-volume").encoder)
    assert (encoder.grid_shape, encoder.input_shape) == ((8, 8, 8), (1, 32, 32, 32))
    noise = torch.randn(1, *encoder.input_shape, generator=torch.Generator().manual_seed(0))
    voxels = noise.requires_grad_()
    cell = (2 * 8 + 3) * 8 + 2
    encoder(voxels)[0, cell].sum().backward()
    assert voxels.grad is not None
    seen = voxels.grad[0, 0].abs() > 0
    half = RECEPTIVE_FIELD_3D // 2
    for places, at in zip(torch.nonzero(seen).T, (2, 3, 2), strict=True):
        middle = 4 * at + 2  # of voxels 4·at to 4·at + 4, the cell's own
        assert (int(places.min()), int(places.max()) + 1) == (middle - half, middle + half)


def test_a_cell_sees_its_middle_best() -> None:
    """Along each axis the outer two of the second convolution's four positions count a quarter."""
    encoder = build_encoder(find_recipe("synthetic-volume").encoder)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.fill_(1.0 if weight.dim() > 1 else 0.0)
    voxels = torch.ones(1, *encoder.input_shape)
    of_middle = (3 * 8 + 3) * 8 + 3  # no padding is in its view
    found = encoder(voxels)[0, of_middle, 0].item()
    assert found == pytest.approx(64 * (24 * 2.5**3) * 64 * 64)


def test_what_does_not_fit_the_network_is_refused() -> None:
    config = find_recipe("synthetic-volume").encoder
    with pytest.raises(ConfigError, match="small_cnn3d has stride4"):
        build_encoder(replace(config, level="stride8"))
    with pytest.raises(ConfigError, match="multiples of 4"):
        build_encoder(replace(config, volume=replace(config.volume, shape=(32, 30, 32))))
    with pytest.raises(ConfigError, match="reads volumes only"):
        build_encoder(replace(config, medium="image"))


def looking(volume: SyntheticVolume, grid: Grid, cells: list[int]) -> Caption:
    """The right caption, whose words of size look at these cells."""
    texts = volume.caption.split()
    alpha = np.full((len(texts), grid.cells), 0.1 / grid.cells, np.float32)
    alpha[[i for i, text in enumerate(texts) if text in SIZES], cells] += 0.9
    words = tuple(
        Word(text, -0.5, row.reshape(grid.shape)) for text, row in zip(texts, alpha, strict=True)
    )
    trace = AttentionTrace(alpha, None, None, "soft", "expected", grid)
    return Caption(volume.caption, words, -1.0, True, trace, "", "volume", "by hand", 0.0)


def test_the_report_itself_by_hand() -> None:
    """A caption that looks at each lesion's own cell, or at another one."""
    encoder = build_encoder(find_recipe("synthetic-volume").encoder)
    volume = next(make_volumes(1, split="test"))
    grid = encoder.prepare(encoder.read(file_of(volume))).grid
    points = middles(grid)
    nearest = [
        int(np.linalg.norm(points - lesion.centre, axis=1).argmin())
        for lesion in volume.lesions[:2]
    ]
    exact, hits, _ = report([looking(volume, grid, nearest)], [volume])
    assert (exact, hits) == (1, 1)
    assert report([looking(volume, grid, [0] * len(nearest))], [volume])[1] == 0
