"""The one training loop: batch, loss, backward, clip, check, update, log, evaluate, save."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from regard.captioner import Captioner
from regard.checkpoint import load_checkpoint
from regard.config import Recipe, from_dict
from regard.decoder import AttentionDecoder
from regard.encoders import build_encoder
from regard.errors import CheckpointError, RegardError
from regard.media import NOUNS
from regard.training.batches import Chunk, make_chunks, plan_epoch
from regard.training.diary import DiaryKeeper
from regard.training.evaluation import Evaluation, evaluate_decoder
from regard.training.familiar import check_enough, learn_familiarity
from regard.training.logs import Reporter, RunLog, Silent
from regard.training.objective import Loss
from regard.training.objectives import build_objective
from regard.training.optimizer import rate_factor, set_rate
from regard.training.prepare import (
    Pictures,
    Splits,
    absolute_paths,
    cut_captions,
    encode_captions,
    load_splits,
    make_batch,
)
from regard.training.state import TrainState
from regard.vocabulary import Vocabulary, build_vocabulary

_SAMPLES_SHOWN = 3


@dataclass(frozen=True)
class Run:
    """What a run is made of; only its state changes."""

    recipe: Recipe
    folder: Path
    splits: Splits
    vocabulary: Vocabulary
    pictures: Pictures
    chunks: list[Chunk]
    state: TrainState
    reporter: Reporter


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    report: Reporter | None = None,
) -> Path:
    """Train a captioner.

    Args:
        recipe: the experiment.
        out: the run's folder: `best` and `last` checkpoints, `log.jsonl`, TensorBoard events
            and `diary.html`.
        resume: go on from `last`; the run then ends with the weights that it would have ended
            with unbroken, bit for bit on CPU. The recipe is then read from `last`.
        report: is told of progress.

    Returns:
        The folder of the best checkpoint.

    Raises:
        RegardError: captions, pictures, settings or the saved state cannot be used, or the
            loss is no longer finite.
    """
    out = Path(out)
    try:
        return _train(recipe, out, resume, report or Silent())
    except OSError as error:  # of the log, the diary, a picture that is gone
        raise RegardError(
            f"the run in {out} cannot go on: {error}. Its last checkpoint is whole. Free some "
            "space, or bring back what is missing; then go on with resume."
        ) from error


def _train(recipe: Recipe, out: Path, resume: bool, reporter: Reporter) -> Path:
    run = _prepare(recipe, out, resume, reporter)
    if not resume:
        _save_last(run, {})  # from here on a run that is killed can be resumed
    log = RunLog(out, run.state.step)
    diary = DiaryKeeper(out, run.splits.val, recipe.evaluation.diary_pictures, run.state.epoch)
    try:
        _epochs(run, log, diary)
    finally:
        log.close()
    return out / "best"


def _epochs(run: Run, log: RunLog, diary: DiaryKeeper) -> None:
    recipe, state = run.recipe, run.state
    if state.step == 0 and state.epoch == 0:
        _evaluate(run, log, diary)  # the diary begins before the first step
    while state.epoch < recipe.training.epochs and not _stale(run):
        _one_epoch(run, log)
        state.epoch, state.batch = state.epoch + 1, 0
        evaluation = _evaluate(run, log, diary)
        if state.judge(evaluation.scores, recipe.evaluation.metric):
            with state.averaged():
                captioner = _captioner(run)
                if recipe.data.familiarity:
                    captioner.familiarity = learn_familiarity(
                        state.encoder, run.splits, run.pictures
                    )
                captioner.save(run.folder / "best", metrics=_metrics(run, evaluation))
        _save_last(run, _metrics(run, evaluation))


def _one_epoch(run: Run, log: RunLog) -> None:
    recipe, state = run.recipe, run.state
    training = recipe.training
    plan = plan_epoch(
        run.chunks, training.batch_size, training.batching, training.seed, state.epoch
    )
    steps = len(plan) * training.epochs
    began, captions, first = time.perf_counter(), 0, state.step
    for chunks in plan[state.batch :]:
        loss = _update(run, chunks, rate_factor(recipe.optimizer, state.step, steps))
        state.batch, state.step = state.batch + 1, state.step + 1
        captions += sum(len(c.captions) for c in chunks)
        seconds = time.perf_counter() - began
        run.reporter.progress(
            state.step,
            steps,
            captions / seconds,
            loss.parts,
            seconds / (state.step - first) * (steps - state.step),
        )
        log.write(
            "train",
            state.step,
            loss.parts | {"loss": loss.total.item(), "captions_per_second": captions / seconds},
        )
        if training.save_every and state.step % training.save_every == 0:
            _save_last(run, {})


def _update(run: Run, chunks: list[Chunk], factor: float) -> Loss:
    """Make one step: loss, backward, clip, finite check before the update, update."""
    recipe, state = run.recipe, run.state
    state.optimizer.zero_grad(set_to_none=True)  # first: their memory is free for this step
    state.decoder.train()
    state.encoder.train(recipe.encoder.trainable)
    coins = torch.rand(len(chunks), generator=state.generator) < 0.5
    views = ["flip" if recipe.data.flip and coin else "plain" for coin in coins.tolist()]
    batch = make_batch(chunks, run.splits.train, run.pictures, views)
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.training.precision == "bf16"):
        vectors = run.pictures.vectors(batch.vectors, batch.mask)
        projected = state.decoder.project(vectors, batch.mask)
        loss = state.objective.loss(state.decoder, projected, batch, state.generator)
    loss.total.backward()
    limit = recipe.optimizer.clip_norm or math.inf
    norm = torch.nn.utils.clip_grad_norm_(state.parameters(), limit)
    if not math.isfinite(loss.total.item()) or not math.isfinite(norm.item()):
        raise RegardError(
            f"the loss is {loss.total.item()} and the gradient's norm {norm.item()} at step "
            f"{state.step}; the weights were not updated. `last` holds the state before. Lower "
            "optimizer.learning_rate, or set training.precision to fp32."
        )
    set_rate(state.optimizer, factor)
    state.optimizer.step()
    if state.average is not None:
        state.average.update(state.parameters())
    return loss


def _evaluate(run: Run, log: RunLog, diary: DiaryKeeper) -> Evaluation:
    recipe, state = run.recipe, run.state
    with state.averaged():
        evaluation = evaluate_decoder(
            state.decoder,
            run.vocabulary,
            run.splits,
            run.pictures,
            recipe.evaluation,
            recipe.data.max_length,
        )
    shown = [(item.key, evaluation.captions[item.key]) for item in diary.items[:_SAMPLES_SHOWN]]
    run.reporter.evaluated(state.epoch, evaluation.scores, shown)
    log.write("evaluation", state.step, {"epoch": state.epoch} | evaluation.scores)
    diary.add(state.epoch, evaluation, run.vocabulary, run.pictures.encoder)
    return evaluation


def _prepare(recipe: Recipe, out: Path, resume: bool, reporter: Reporter) -> Run:
    saved = None
    if resume:
        saved = load_checkpoint(out / "last", training=True)
        if saved.training_state is None:
            raise CheckpointError(f"{out / 'last'} holds no training.pt, so it cannot be resumed.")
        recipe = from_dict(Recipe, saved.config["recipe"])
    else:
        encoder_config = recipe.encoder
        if encoder_config.weights:
            weights = str(Path(encoder_config.weights).absolute())
            encoder_config = replace(encoder_config, weights=weights)
        recipe = replace(recipe, data=absolute_paths(recipe.data), encoder=encoder_config)
    out.mkdir(parents=True, exist_ok=True)
    splits = load_splits(recipe.data, recipe.training.seed, recipe.evaluation.limit)
    if recipe.data.familiarity:
        check_enough(splits)
    encoder = build_encoder(recipe.encoder, pretrained=True)
    recipe = replace(recipe, decoder=replace(recipe.decoder, grid_shape=encoder.grid_shape))
    start = load_checkpoint(Path(recipe.training.init_from)) if recipe.training.init_from else None
    vocabulary = (
        saved.vocabulary if saved else start.vocabulary if start else _words(recipe, splits)
    )
    decoder = _fresh_decoder(recipe, encoder.annotation_dim, len(vocabulary))
    if start is not None and saved is None:
        _start_from(decoder, encoder, start.weights)
    reporter.message(
        f"{len(splits.train.items)} training and {len(splits.val.items)} val "
        f"{NOUNS[encoder.medium]}s, "
        f"{len(vocabulary)} words, {sum(p.numel() for p in decoder.parameters()) / 1e6:.1f} "
        "million decoder weights"
    )
    pictures = Pictures(
        encoder,
        splits,
        Path(recipe.data.store or out / "annotations"),
        flip=recipe.data.flip,
        report=reporter.encoded,
    )
    whole = encode_captions(splits.train, vocabulary)
    captions, remark = cut_captions(whole, recipe.data.max_length)
    if remark:
        reporter.message(remark)
    objective = build_objective(recipe, splits.train, vocabulary)
    state = TrainState.begin(recipe, decoder, encoder, objective)
    if saved is not None and saved.training_state is not None:
        state.load(saved.training_state)
    chunks = make_chunks(captions, recipe.training.captions_per_image)
    return Run(recipe, out, splits, vocabulary, pictures, chunks, state, reporter)


def _words(recipe: Recipe, splits: Splits) -> Vocabulary:
    return build_vocabulary(
        (caption for item in splits.train.items for caption in item.captions),
        tokens=recipe.data.tokens,
        min_count=recipe.data.min_count,
        max_words=recipe.data.max_words,
    )


def _fresh_decoder(recipe: Recipe, annotation_dim: int, words: int) -> AttentionDecoder:
    """Build a decoder from the recipe's seed, leaving torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return AttentionDecoder(
            recipe.decoder, annotation_dim=annotation_dim, vocabulary_size=words
        )


def _start_from(
    decoder: AttentionDecoder, encoder: torch.nn.Module, weights: dict[str, torch.Tensor]
) -> None:
    for prefix, module in (("decoder.", decoder), ("encoder.", encoder)):
        part = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        try:
            module.load_state_dict(part)
        except RuntimeError as error:
            raise CheckpointError(
                f"the checkpoint in training.init_from does not fit the recipe's {prefix[:-1]}: "
                f"{error}"
            ) from error


def _captioner(run: Run) -> Captioner:
    return Captioner(
        run.state.encoder, run.state.decoder, run.vocabulary, run.recipe, name=run.recipe.name
    )


def _save_last(run: Run, metrics: dict[str, object]) -> None:
    training_state = run.state.to_dict()
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
