"""The one training loop: batch, loss, backward, clip, check, update, log, evaluate, save.

A step itself is in `regard.training.step`, what a run begins with in `regard.training.setup`.
"""

from __future__ import annotations

import time
from pathlib import Path

from regard.captioner import Captioner
from regard.config import Recipe
from regard.errors import CheckpointError, RegardError
from regard.training.batches import plan_epoch
from regard.training.devices import Devices, OneDevice
from regard.training.evaluation import Evaluation, evaluate_decoder
from regard.training.item_statistics import learn_familiarity
from regard.training.logs import DiaryKeeper, NoLog, Reporter, RunLog, Silent
from regard.training.optimizer import rate_factor
from regard.training.setup import Run, prepare_run
from regard.training.step import make_step
from regard.util.atomic import recovered

_SAMPLES_SHOWN = 3


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
        resume: go on from `last`; the run then ends with the weights that it would have ended
            with unbroken: bit for bit on CPU and the same number of devices, up to rounding
            on another. The recipe is then read from `last`.
        report: is told of progress.
        devices: this process's place among those that train together; each of them calls this
            with the same arguments (`regard.training.devices.meet`). None: it is alone.

    Returns:
        The folder of the best checkpoint.

    Raises:
        RegardError: captions, pictures, settings or the saved state cannot be used, the loss is
            no longer finite, or another of the processes ended.
    """
    out, devices = Path(out), devices or OneDevice()
    reporter = report if report is not None and devices.rank == 0 else Silent()
    try:
        return _train(recipe, out, resume, reporter, devices)
    except OSError as error:  # of the log, the diary, a picture that is gone
        raise RegardError(
            f"the run in {out} cannot go on: {error}. Its last checkpoint is whole. Free some "
            "space, or bring back what is missing; then go on with resume."
        ) from error


def _check_begun(folder: Path) -> None:
    """Refuse to resume what has no `last`; its own message would speak of models.

    Raises:
        CheckpointError: the folder is no run's, or the run was stopped before it could be saved.
    """
    if recovered(folder / "last").is_dir():
        return
    if (folder.parent / "log.jsonl").is_file():
        raise CheckpointError(
            f"{folder} is a checkpoint of a run; --resume takes the run's folder, {folder.parent}."
        )
    raise CheckpointError(
        f"{folder} holds no run that can be resumed: nothing was saved there yet. Give the command "
        "that began it again (what is encoded is kept), or name the folder of another run."
    )


def _train(recipe: Recipe, out: Path, resume: bool, reporter: Reporter, devices: Devices) -> Path:
    if resume:
        _check_begun(out)
    run = prepare_run(recipe, out, resume, reporter, devices)
    if not resume:
        _save_last(run, {})  # from here on a run that is killed can be resumed
    log = RunLog(out, run.state.step, run.state.epoch) if run.leads else NoLog()
    try:
        _epochs(run, log, _diary(run))
    finally:
        log.close()
    return out / "best"


def _diary(run: Run) -> DiaryKeeper | None:
    pictures = run.recipe.evaluation.diary_pictures
    if not run.leads:
        return None
    resumed_at = run.state.epoch if run.state.step else None
    return DiaryKeeper(run.folder, run.splits.val, pictures, resumed_at)


def _epochs(run: Run, log: RunLog | NoLog, diary: DiaryKeeper | None) -> None:
    recipe, state = run.recipe, run.state
    if state.step == 0 and state.epoch == 0:
        evaluation = _evaluate(run, log, diary)  # the diary begins before the first step
        if recipe.training.init_from and _judge(run, evaluation):
            _save_best(run, evaluation)  # a model that is there may stay the best
    while state.epoch < recipe.training.epochs and not _stale(run):
        _one_epoch(run, log)
        state.epoch, state.batch = state.epoch + 1, 0
        evaluation = _evaluate(run, log, diary)
        if _judge(run, evaluation):
            _save_best(run, evaluation)
        _save_last(run, _metrics(run, evaluation))


def _judge(run: Run, evaluation: Evaluation) -> bool:
    """Take in an evaluation; return whether this process shall save the best."""
    return run.state.judge(evaluation.scores, run.recipe.evaluation.metric) and run.leads


def _one_epoch(run: Run, log: RunLog | NoLog) -> None:
    recipe, state = run.recipe, run.state
    training = recipe.training
    plan = plan_epoch(
        run.chunks,
        state.parts * training.batch_size,
        training.batching,
        training.seed,
        state.epoch,
    )
    steps = len(plan) * training.epochs
    began, captions, first = time.perf_counter(), 0, state.step
    for chunks in plan[state.batch :]:
        update = make_step(run, chunks, rate_factor(recipe.optimizer, state.step, steps))
        state.batch, state.step = state.batch + 1, state.step + 1
        captions += sum(len(c.captions) for c in chunks)
        seconds = time.perf_counter() - began
        run.reporter.progress(
            state.step,
            steps,
            captions / seconds,
            update.parts,
            seconds / (state.step - first) * (steps - state.step),
        )
        log.write(
            "train",
            state.step,
            update.parts | {"loss": update.loss, "captions_per_second": captions / seconds},
        )
        if training.save_every and state.step % training.save_every == 0:
            _save_last(run, {})


def _evaluate(run: Run, log: RunLog | NoLog, diary: DiaryKeeper | None) -> Evaluation:
    recipe, state = run.recipe, run.state
    with state.averaged():
        evaluation = evaluate_decoder(
            state.decoder,
            run.vocabulary,
            run.splits,
            run.pictures,
            recipe,
            run.devices,
        )
    if diary is None:  # the leading process has the captions
        return evaluation
    shown = [(item.key, evaluation.captions[item.key]) for item in diary.items[:_SAMPLES_SHOWN]]
    run.reporter.evaluated(state.epoch, evaluation.scores, shown)
    log.write("evaluation", state.step, {"epoch": state.epoch} | evaluation.scores)
    diary.add(state.epoch, evaluation, run.vocabulary, run.pictures)
    return evaluation


def _captioner(run: Run) -> Captioner:
    return Captioner(
        run.state.encoder, run.state.decoder, run.vocabulary, run.recipe, name=run.recipe.name
    )


def _save_best(run: Run, evaluation: Evaluation) -> None:
    state = run.state
    with state.averaged():
        captioner = _captioner(run)
        if run.recipe.data.familiarity:
            detector = learn_familiarity(state.encoder, run.splits, run.pictures)
            captioner = captioner.with_components(familiarity=detector)
        captioner.save(run.folder / "best", metrics=_metrics(run, evaluation))


def _save_last(run: Run, metrics: dict[str, object]) -> None:
    if not run.leads:
        return
    training_state = run.state.to_dict() | {"data": run.splits.digest}
    with run.state.averaged():
        _captioner(run).save(run.folder / "last", metrics=metrics, training_state=training_state)


def _metrics(run: Run, evaluation: Evaluation) -> dict[str, object]:
    return {
        "scores": evaluation.scores,
        "settings": {
            "split": "val",
            "beam": run.recipe.evaluation.beam,
            "tokenizer": "python",
            "pictures": len(evaluation.captions),
            "epoch": run.state.epoch,
            "step": run.state.step,
        },
    }


def _stale(run: Run) -> bool:
    patience = run.recipe.training.patience
    return patience > 0 and run.state.stale >= patience
