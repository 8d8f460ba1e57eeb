"""The training loop: batch, loss, backward, clip, check, step, log, evaluate, save.

The batch of a step is processed in parts if there are several devices or if `training.accumulate`
is above 1: every device processes its parts one after the other, then the gradients are summed.
Parts are weighted by their pictures and see the random numbers of the whole batch
(`regard.model.rng`), so a step is the same up to rounding however its batch is split. That is also
how a batch which does not fit into a device's memory is made to fit: in more passes.
"""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from regard.captioner import Captioner
from regard.config import Recipe
from regard.errors import CheckpointError, ConfigError, RegardError
from regard.model.rng import SlicedGenerator
from regard.training.batches import Chunk, plan_epoch
from regard.training.devices import Devices, float32_products
from regard.training.distillation import mean_probs
from regard.training.evaluation import Evaluation, evaluate_run, learn_item_statistics
from regard.training.inputs import draw_views, make_batch
from regard.training.logs import Reporter, RunLog, Silent
from regard.training.objectives.base import Loss
from regard.training.setup import TrainingRun, prepare_run
from regard.training.state import TrainState, rate_factor, set_rate
from regard.util.atomic import recovered
from regard.util.folder_lock import locked
from regard.util.torch_device import AUTO, is_memory_error, memory_errors

_SAMPLES_SHOWN = 3
_STEPS_PER_SCALE = 2000  # in fp16, after which the loss is scaled by twice as much
_PER_WORD = "_per_word"


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    report: Reporter | None = None,
    devices: Devices | None = None,
    device: str = AUTO,
    precision: str = "",
    fit_memory: bool = False,
) -> Path:
    """Train a captioner.

    Args:
        recipe: the experiment.
        out: the run's folder: `best` and `last` checkpoints, `log.jsonl`, TensorBoard events
            and `diary.html`.
        resume: continue from `last`. The run then ends with the same weights as without the
            interruption: bit for bit on the CPU with the same number of devices, up to rounding
            with another number or another kind of device. The recipe is read from `last`.
        report: receives the progress.
        devices: the connection to the other processes that train together; each of them calls
            this with the same arguments (`regard.training.devices.connect`). None: a single
            process.
        device: where a single process computes: "auto" (a GPU where torch sees one, else the
            CPU), "cpu", "cuda", "cuda:1" or "mps".
        precision: replaces `training.precision` of the recipe; "": keeps it.
        fit_memory: split a batch that does not fit into the device's memory into more passes;
            the step stays the same up to rounding. Otherwise it is an error.

    Returns:
        The folder of the best checkpoint.

    Raises:
        RegardError: captions, pictures, settings, the device or the saved state cannot be used,
            the loss is no longer finite, another of the processes ended, or another run fills
            the folder.
    """
    out, devices = Path(out), devices or Devices(device)
    reporter = report if report is not None and devices.rank == 0 else Silent()
    if resume:
        _check_resumable(out)
    with ExitStack() as held:
        if devices.rank == 0:
            try:
                held.enter_context(locked(out, "regard train", reporter.message))
            except OSError as error:
                raise ConfigError(
                    f"the folder of the run, {out}, cannot be written: {error.strerror or error}. "
                    "Name another one."
                ) from error
        return _train_locked(recipe, out, resume, reporter, devices, precision, fit_memory)


def _train_locked(
    recipe: Recipe,
    out: Path,
    resume: bool,
    reporter: Reporter,
    devices: Devices,
    precision: str,
    fit_memory: bool,
) -> Path:
    """Train in a folder that no other process fills; see `train`."""
    try:
        name, smaller = str(devices.device), "Set training.resident to off, or a smaller image_size"
        with float32_products(devices.device, False), memory_errors(name, smaller):
            run = prepare_run(recipe, out, resume, reporter, devices, precision)
        run = replace(run, fit_memory=fit_memory)
        if not resume:
            _save_last(run, {})  # from here on the run can be resumed
        resumed, shown = (run.state.step, run.state.epoch), run.recipe.evaluation.diary_pictures
        log = closing(RunLog(out, *resumed, run.splits.val, shown)) if run.leads else nullcontext()
        tf32 = float32_products(devices.device, run.recipe.training.tf32)
        with log as opened, tf32, memory_errors(name, _memory_advice(run)):
            _train(run, opened)
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
    for number, chunks in enumerate(plan[state.batch :], state.batch + 1):
        factor = rate_factor(run.recipe.optimizer, state.step, steps)
        following = plan[number] if number < len(plan) and run.pictures.reads_ahead else None
        update = train_step(run, chunks, factor, following)
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


def train_step(
    run: TrainingRun, chunks: list[Chunk], factor: float, following: list[Chunk] | None = None
) -> Update:
    """Update the weights once; in fp16, skip the update if the scaled gradient overflows.

    Args:
        run: its state changes.
        chunks: the whole batch.
        factor: multiplies the peak learning rates.
        following: the next batch, to be read in the meantime; None: it is read when it is needed.

    Raises:
        RegardError: the loss or the gradient is not finite; the weights were not updated.
    """
    recipe, state = run.recipe, run.state
    state.optimizer.zero_grad(set_to_none=True)  # first, which frees their memory for this step
    state.decoder.train()
    state.encoder.train(recipe.encoder.trainable)
    views = draw_views(recipe.data, len(chunks), state.generator)
    seed = int(torch.randint(2**63 - 1, (), generator=state.generator))
    if following is not None:
        _read_ahead(run, following)
    if state.objective.needs_first_pass:
        with torch.no_grad():
            _run_batch(run, chunks, views, seed, backward=False)
    update = _run_batch(run, chunks, views, seed, backward=True)
    _sum_gradients(state.parameters(), run.devices)
    limit = recipe.optimizer.clip_norm or math.inf
    _unscale(state)
    norm = nn.utils.clip_grad_norm_(state.parameters(), limit).item()
    if _overflows(state, norm) and math.isfinite(update.loss):
        return update
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


def _read_ahead(run: TrainingRun, following: list[Chunk]) -> None:
    """Begin to read the next batch, with the views that the next step will draw."""
    state, items = run.state, [run.splits.train.items[c.item] for c in following]
    generator = torch.Generator()
    generator.set_state(state.generator.get_state())
    views = draw_views(run.recipe.data, len(items), generator)
    parts = own_parts(run.devices, state.parts * state.passes, len(items))
    run.pictures.read_ahead([(items[part], views[part]) for part, _ in parts])


def _run_batch(
    run: TrainingRun, chunks: list[Chunk], views: list[str], seed: int, *, backward: bool
) -> Update:
    """Compute the loss of the whole batch, and with `backward` its gradient, in memory's limits."""
    state, devices = run.state, run.devices
    while True:
        losses: list[tuple[Loss, float]] = []
        try:
            losses = _run_parts(run, chunks, views, seed, backward)
        except RuntimeError as error:
            single = state.parts * state.passes >= len(chunks)  # no part has two pictures
            if single or not run.fit_memory or not is_memory_error(error):
                raise
        full = torch.tensor([float(not losses)])
        if not (devices.sum(full) if run.fit_memory else full).item():  # every device has room
            return _combine(run, losses)
        state.passes *= 2
        state.optimizer.zero_grad(set_to_none=True)
        if devices.device.type == "cuda":
            torch.cuda.empty_cache()  # its pieces may be too small for the new shapes
        run.reporter.message(
            f"the memory of {devices.device} is full: each batch now takes {state.passes} passes, "
            f"of {-(-len(chunks) // (state.parts * state.passes))} pictures or fewer"
        )


def _run_parts(
    run: TrainingRun, chunks: list[Chunk], views: list[str], seed: int, backward: bool
) -> list[tuple[Loss, float]]:
    """Return the losses and shares of this device's parts of a batch; add their gradients."""
    state, devices = run.state, run.devices
    losses: list[tuple[Loss, float]] = []
    longest = max(chunk.length for chunk in chunks)
    for part, share in own_parts(devices, state.parts * state.passes, len(chunks)):
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
            scale = state.loss_scale if state.scales_loss else 1
            (loss.total * (share * scale)).backward()
        losses.append((replace(loss, total=loss.total.detach()), share))
    return losses


def _combine(run: TrainingRun, losses: list[tuple[Loss, float]]) -> Update:
    """Return the loss of the whole batch from the parts of all devices."""
    names = list(losses[0][0].parts)
    statistics = torch.zeros(0, dtype=torch.float64)
    sums = torch.zeros(2 + len(names), dtype=torch.float64)  # total, words, then each part
    for loss, share in losses:
        words = loss.words if share else 0
        weights = [words if name.endswith(_PER_WORD) else share for name in names]
        # One copy of all numbers to the host, which waits for a GPU here.
        found = torch.stack([loss.total, *loss.parts.values()]).cpu().double()
        scaled = found * torch.tensor([share, *weights], dtype=torch.float64)
        sums += torch.cat([scaled[:1], sums.new_tensor([words]), scaled[1:]])
        if loss.statistics is not None:
            before = statistics if len(statistics) else 0
            statistics = loss.statistics.cpu().double() * bool(share) + before
    total, words, *values = run.devices.sum(torch.cat([sums, statistics])).tolist()
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


def _unscale(state: TrainState) -> None:
    """Divide the gradients by the factor of the loss."""
    if state.scales_loss:
        for parameter in state.parameters():
            if parameter.grad is not None:
                parameter.grad /= state.loss_scale


def _overflows(state: TrainState, norm: float) -> bool:
    """Return whether a gradient in fp16 overflows; adapt the factor of the next losses.

    It is halved after an overflow, as long as it is above 1, and doubled after many steps without.
    """
    if not state.scales_loss:
        return False
    overflows = not math.isfinite(norm) and state.loss_scale > 1
    state.unscaled_steps = 0 if overflows else state.unscaled_steps + 1
    if overflows:
        state.loss_scale /= 2
    elif state.unscaled_steps == _STEPS_PER_SCALE:
        state.loss_scale, state.unscaled_steps = state.loss_scale * 2, 0
    return overflows


def _memory_advice(run: TrainingRun) -> str:
    """Return advice for a step that does not fit into memory."""
    resident = " Or set training.resident to off." if run.pictures.is_resident else ""
    return (
        f"Give --batch-size auto, a number below {run.recipe.training.batch_size} (set "
        f"training.accumulate, and the step stays as large), or --precision bf16.{resident}"
    ).removesuffix(".")


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
    device = str(run.devices.device)
    return Captioner(
        state.encoder, state.decoder, run.vocabulary, recipe, name=recipe.name, device=device
    )


def _metrics(run: TrainingRun, evaluation: Evaluation) -> dict[str, object]:
    beam, tokenizer = run.recipe.evaluation.beam, evaluation.tokenizer
    settings: dict[str, object] = {"split": "val", "beam": beam, "tokenizer": tokenizer}
    reached = {"epoch": run.state.epoch, "step": run.state.step}
    settings |= {"pictures": len(evaluation.captions)} | reached
    return {"scores": evaluation.scores, "settings": settings}
