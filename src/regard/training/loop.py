"""The training loop: batch, loss, backward, clip, check, step, log, evaluate, save.

The batch of a step is processed in parts if there are several devices or if `training.accumulate`
is above 1: every device processes its parts one after the other, then the gradients are summed.
Parts are weighted by their pictures and see the random numbers of the whole batch
(`regard.model.rng`), so a step is the same up to rounding however its batch is split.
"""

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from regard.captioner import Captioner
from regard.config import Recipe
from regard.errors import CheckpointError, RegardError
from regard.model.rng import SlicedGenerator
from regard.training.batches import Chunk, plan_epoch
from regard.training.devices import Devices
from regard.training.distillation import mean_probs
from regard.training.evaluation import Evaluation, evaluate_run, learn_item_statistics
from regard.training.inputs import draw_views, make_batch
from regard.training.logs import Reporter, RunLog, Silent
from regard.training.objectives.base import Loss
from regard.training.setup import TrainingRun, prepare_run
from regard.training.state import rate_factor, set_rate
from regard.util.atomic import recovered

_SAMPLES_SHOWN = 3
_PER_WORD = "_per_word"


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    report: Reporter | None = None,
    devices: Devices | None = None,
) -> Path:
    """Train a captioner.

    Args:
        recipe: the experiment.
        out: the run's folder: `best` and `last` checkpoints, `log.jsonl`, TensorBoard events
            and `diary.html`.
        resume: continue from `last`. The run then ends with the same weights as without the
            interruption: bit for bit on CPU with the same number of devices, up to rounding with
            another. The recipe is read from `last`.
        report: receives the progress.
        devices: the connection to the other processes that train together; each of them calls
            this with the same arguments (`regard.training.devices.connect`). None: a single
            process.

    Returns:
        The folder of the best checkpoint.

    Raises:
        RegardError: captions, pictures, settings or the saved state cannot be used, the loss is
            no longer finite, or another of the processes ended.
    """
    out, devices = Path(out), devices or Devices()
    reporter = report if report is not None and devices.rank == 0 else Silent()
    try:
        if resume:
            _check_resumable(out)
        run = prepare_run(recipe, out, resume, reporter, devices)
        if not resume:
            _save_last(run, {})  # from here on the run can be resumed
        if run.leads:
            resumed = (run.state.step, run.state.epoch)
            pictures = run.recipe.evaluation.diary_pictures
            with closing(RunLog(out, *resumed, run.splits.val, pictures)) as log:
                _train(run, log)
        else:
            _train(run, None)
    except OSError as error:  # of the log, the diary, or a missing picture
        raise RegardError(
            f"the run in {out} cannot continue: {error}. Its last checkpoint is complete. Free "
            "some space, or restore the missing file; then continue with resume."
        ) from error
    return out / "best"


def _check_resumable(folder: Path) -> None:
    """Check that a run was saved in the folder, with a message about runs rather than models."""
    if recovered(folder / "last").is_dir():
        return
    if (folder.parent / "log.jsonl").is_file():
        raise CheckpointError(
            f"{folder} is a checkpoint of a run; --resume takes the run's folder, {folder.parent}."
        )
    raise CheckpointError(
        f"{folder} holds no run that can be resumed: nothing was saved there yet. Repeat the "
        "original command (encoded annotations are kept), or name the folder of another run."
    )


def _train(run: TrainingRun, log: RunLog | None) -> None:
    """Train for all epochs, or until the evaluations no longer improve.

    Args:
        run: its state changes.
        log: log of the leading process; the others have none.
    """
    training, state = run.recipe.training, run.state
    if state.step == 0 and state.epoch == 0:
        evaluation = _evaluate(run, log)  # the diary starts before the first step
        if training.init_from and _is_best(run, evaluation):
            _save_best(run, evaluation)  # the initial model may stay the best
    while state.epoch < training.epochs and not 0 < training.patience <= state.stale:
        _train_epoch(run, log)
        state.epoch, state.batch = state.epoch + 1, 0
        evaluation = _evaluate(run, log)
        if _is_best(run, evaluation):
            _save_best(run, evaluation)
        _save_last(run, _metrics(run, evaluation))


def _train_epoch(run: TrainingRun, log: RunLog | None) -> None:
    training, state = run.recipe.training, run.state
    batch_size = state.parts * training.batch_size
    plan = plan_epoch(run.chunks, batch_size, training.batching, training.seed, state.epoch)
    steps = len(plan) * training.epochs
    began, captions, first = time.perf_counter(), 0, state.step
    for chunks in plan[state.batch :]:
        update = train_step(run, chunks, rate_factor(run.recipe.optimizer, state.step, steps))
        state.batch, state.step = state.batch + 1, state.step + 1
        captions += sum(len(c.captions) for c in chunks)
        seconds = time.perf_counter() - began
        rate, left = captions / seconds, seconds / (state.step - first) * (steps - state.step)
        run.reporter.progress(state.step, steps, rate, update.parts, left)
        if log is not None:
            values = update.parts | {"loss": update.loss, "captions_per_second": rate}
            log.write("train", state.step, values)
        if training.save_every and state.step % training.save_every == 0:
            _save_last(run, {})


# A step


@dataclass(frozen=True)
class Update:
    """The loss of a step over the whole batch, before the update.

    Attributes:
        loss: its total.
        parts: its parts by name.
    """

    loss: float
    parts: dict[str, float]


def train_step(run: TrainingRun, chunks: list[Chunk], factor: float) -> Update:
    """Update the weights once.

    Args:
        run: its state changes.
        chunks: the whole batch.
        factor: multiplies the peak learning rates.

    Raises:
        RegardError: loss or gradient are not finite; the weights were not updated.
    """
    recipe, state = run.recipe, run.state
    state.optimizer.zero_grad(set_to_none=True)  # first, which frees their memory for this step
    state.decoder.train()
    state.encoder.train(recipe.encoder.trainable)
    views = draw_views(recipe.data, len(chunks), state.generator)
    seed = int(torch.randint(2**63 - 1, (), generator=state.generator))
    if state.objective.needs_first_pass:
        with torch.no_grad():
            _run_batch(run, chunks, views, seed, backward=False)
    update = _run_batch(run, chunks, views, seed, backward=True)
    _sum_gradients(state.parameters(), run.devices)
    limit = recipe.optimizer.clip_norm or math.inf
    norm = nn.utils.clip_grad_norm_(state.parameters(), limit).item()
    if not math.isfinite(update.loss) or not math.isfinite(norm):
        raise RegardError(
            f"the loss is {update.loss} and the gradient's norm {norm} at step {state.step}; the "
            f"weights were not updated. {_advice(run)}"
        )
    set_rate(state.optimizer, factor)
    state.optimizer.step()
    if state.average is not None:
        state.average.update(state.parameters())
    return update


def _advice(run: TrainingRun) -> str:
    """Return advice after a failed step. A resumed run would fail again."""
    last = run.folder / "last"
    rate = run.recipe.optimizer.learning_rate / 2
    settings = f"--set optimizer.learning_rate={rate:g}"
    if run.recipe.training.precision != "fp32":
        settings += " --set training.precision=fp32"
    return (
        f"{last} holds the state of the last evaluation or save, and --resume would fail again. "
        "Start a new run from it, with the recipe and data of this one and a lower rate: regard "
        f"train RECIPE --data CAPTIONS --images FOLDER --init {last} {settings} --out ANOTHER."
    )


def own_parts(devices: Devices, parts: int, pictures: int) -> Iterator[tuple[slice, float]]:
    """Yield the pictures of a batch for each pass of this device, and their share.

    Every device makes the same number of passes. Pictures are dealt to the parts in turn, since
    the captions of a batch are sorted by length. A part without pictures takes the first picture
    with a share of 0, so that its device takes part in all sums.

    Args:
        devices: their number and the rank of this one.
        parts: number of parts; rounded up to a multiple of the number of devices.
        pictures: number of pictures in the batch.
    """
    passes = -(-parts // devices.world)
    parts = passes * devices.world
    for part in range(devices.rank, parts, devices.world):
        if part < pictures:
            yield slice(part, None, parts), len(range(part, pictures, parts)) / pictures
        else:
            yield slice(0, 1), 0.0


def _run_batch(
    run: TrainingRun, chunks: list[Chunk], views: list[str], seed: int, *, backward: bool
) -> Update:
    """Compute the losses of the batch's parts, and with `backward` their gradients."""
    state, devices = run.state, run.devices
    losses: list[tuple[Loss, float]] = []
    longest = max(chunk.length for chunk in chunks)
    for part, share in own_parts(devices, state.parts, len(chunks)):
        batch = make_batch(chunks[part], run.splits.train, run.pictures, views[part], longest)
        if run.teachers:
            items = [run.splits.train.items[i] for i in batch.items]
            batch = replace(batch, teacher=mean_probs(run.teachers, batch, items, views[part]))
        draws = SlicedGenerator(torch.Generator().manual_seed(seed), part, len(chunks))
        with devices.autocast(run.recipe.training.precision):
            vectors = run.pictures.vectors(batch.vectors, batch.mask)
            projected = state.decoder.project(vectors, batch.mask)
            loss = state.objective.loss(state.decoder, projected, batch, draws)
        if backward:
            devices.backward(loss.total * share)
        losses.append((loss, share))
    return _combine(run, losses)


def _combine(run: TrainingRun, losses: list[tuple[Loss, float]]) -> Update:
    """Return the loss of the whole batch from the parts of all devices."""
    names = list(losses[0][0].parts)
    statistics = torch.zeros(0, dtype=torch.float64)
    sums = torch.zeros(2 + len(names), dtype=torch.float64)  # total, words, then each part
    for loss, share in losses:
        words = loss.words if share else 0
        weights = [words if name.endswith(_PER_WORD) else share for name in names]
        values = [v * w for v, w in zip(loss.parts.values(), weights, strict=True)]
        sums += torch.tensor([loss.total.item() * share, words, *values], dtype=torch.float64)
        if loss.statistics is not None:
            before = statistics if len(statistics) else 0
            statistics = loss.statistics * bool(share) + before
    total, words, *values = run.devices.sum(torch.cat([sums, statistics.double()])).tolist()
    if len(statistics):
        run.state.objective.update(torch.tensor(values[len(names) :]))
    parts = {
        name: value / words if name.endswith(_PER_WORD) else value
        for name, value in zip(names, values, strict=False)
    }
    return Update(total, parts)


def _sum_gradients(parameters: list[nn.Parameter], devices: Devices) -> None:
    """Replace the gradients on every device by their sum over all devices."""
    if devices.world == 1:
        return
    reached = [p for p in parameters if p.grad is not None]  # the same on every device
    gradients = [p.grad for p in reached if p.grad is not None]
    flat = devices.sum(torch.cat([g.flatten() for g in gradients]))
    pieces: tuple[Tensor, ...] = flat.split([g.numel() for g in gradients])
    for parameter, piece in zip(reached, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)


# Evaluate and save


def _evaluate(run: TrainingRun, log: RunLog | None) -> Evaluation:
    """Caption and score the val split; log the scores, some captions and the diary's maps."""
    state = run.state
    with state.averaged():
        evaluation = evaluate_run(run)
    if log is not None:
        shown = [(item.key, evaluation.captions[item.key]) for item in log.items[:_SAMPLES_SHOWN]]
        run.reporter.evaluated(state.epoch, evaluation.scores, shown)
        log.write("evaluation", state.step, {"epoch": state.epoch} | evaluation.scores)
        hypotheses, scores = evaluation.hypotheses, evaluation.scores
        log.add_to_diary(state.epoch, scores, hypotheses, run.vocabulary, run.pictures)
    return evaluation


def _is_best(run: TrainingRun, evaluation: Evaluation) -> bool:
    """Record an evaluation; return whether this process should save it as the best."""
    metric = run.recipe.evaluation.metric
    return run.state.record_scores(evaluation.scores, metric) and run.leads


def _save_best(run: TrainingRun, evaluation: Evaluation) -> None:
    with run.state.averaged():
        captioner = _captioner(run)
        if run.recipe.data.familiarity:
            captioner = captioner.with_components(familiarity=learn_item_statistics(run))
        captioner.save(run.folder / "best", metrics=_metrics(run, evaluation))


def _save_last(run: TrainingRun, metrics: dict[str, object]) -> None:
    if not run.leads:
        return
    training_state = run.state.to_dict() | {"data": run.splits.digest}
    with run.state.averaged():
        _captioner(run).save(run.folder / "last", metrics=metrics, training_state=training_state)


def _captioner(run: TrainingRun) -> Captioner:
    state, recipe = run.state, run.recipe
    return Captioner(state.encoder, state.decoder, run.vocabulary, recipe, name=recipe.name)


def _metrics(run: TrainingRun, evaluation: Evaluation) -> dict[str, object]:
    settings = {"split": "val", "beam": run.recipe.evaluation.beam, "tokenizer": "python"}
    reached = {"epoch": run.state.epoch, "step": run.state.step}
    settings |= {"pictures": len(evaluation.captions)} | reached
    return {"scores": evaluation.scores, "settings": settings}
