"""`python -m projects.everyday`: from pictures and captions to the model `everyday`.

Run it from the root of a checkout; README.md has the whole sequence of commands.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from projects.command_line import progress, run
from regard import ConfigError, DatasetError

if TYPE_CHECKING:
    from torch import Tensor

    from projects.everyday.train import ScoredPictures

app = typer.Typer(
    help="Encode the pictures, learn the bank of concepts, train the decoder.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Data = Annotated[Path, typer.Argument(help="Folder of the data; see the README.")]
Work = Annotated[Path, typer.Argument(help="Folder for what the commands write.")]
Weights = Annotated[str, typer.Option(help="Of the encoder, as encoder.weights; else its own.")]
Bf16 = Annotated[bool, typer.Option(help="Compute products in bfloat16, if the CPU has them.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything that is random.")]
Fast = Annotated[bool, typer.Option("--fast", help="Of the small encoder that distil made.")]
_CREDIT = (
    "Captions of Flickr8k (Hodosh et al. 2013), alt texts of OpenStax textbooks (CC BY 4.0), "
    "captions of COCO val2017 without their pictures (CC BY 4.0), labelled pictures. Encoder: CLIP "
    "ViT-B/16 (Radford et al. 2021, OpenAI, MIT)."
)


@app.command()
def encode(data: Data, work: Work, weights: Weights = "", bf16: Bf16 = True) -> None:
    """Encode all pictures once; a run that was stopped continues where it was."""
    from projects.everyday.encode import SETS, files_of, fill_store

    files = [file for name in SETS for file in files_of(data, name)]
    with progress("encoding") as report:
        store = fill_store(work / "store", files, weights=weights, bf16=bf16, report=report)
    typer.echo(f"{len(store)} pictures in {store.folder}")


@app.command()
def distil(
    data: Data,
    work: Work,
    model: Annotated[Path, typer.Argument(help="Folder of the model whose bank is kept.")],
    samples: Annotated[int, typer.Option(min=1, help="Pictures drawn in all.")] = 40_000,
    seed: Seed = 0,
) -> None:
    """Train the small encoder on the annotations of the large one, and encode with it."""
    from projects.everyday.concept_words import ConceptWords
    from projects.everyday.distil import Lessons, first_features, student_config, targets_of
    from projects.everyday.distil import distil as train_student
    from projects.everyday.encode import SETS, files_of, fill_store, open_store, training_files
    from projects.everyday.weak_labels import weak_labels
    from regard import Captioner
    from regard.media import digest_of
    from regard.model.encoders import build_encoder, write_weights
    from regard.model.encoders.efficientnet_lite import DistilledLite

    student = build_encoder(student_config())
    assert isinstance(student, DistilledLite)
    pointer = Captioner.load(model, backend="torch").decoder.pointer
    if pointer is None:
        raise ConfigError(f"{model} has no pointer, so it has no bank. Name the model of train.")
    files = training_files(data)
    with progress("first blocks") as report:
        features = first_features(student, files, report=report)
    store, examples = open_store(work / "store"), weak_labels(data, ConceptWords.read())
    lessons = Lessons(
        features, range(len(files)),
        targets_of(store, [digest_of(file) for file in files], student.grid_shape[0]),
        examples.targets, examples.absence,
    )  # fmt: skip
    run = train_student(student, lessons, pointer, samples=samples, seed=seed)
    for step, (found, labelled) in enumerate(run, 1):
        if step % 50 == 0:
            parts = (found.cells, found.mean, found.naming, labelled)
            typer.echo(f"step {step}: " + " ".join(f"{float(part):.3f}" for part in parts))
    path = work / "student.safetensors"
    write_weights(student, path, int8=True)
    shipped = build_encoder(student_config(str(path)))  # with the weights as they are stored
    with progress("encoding") as report:
        fill_store(
            work / "fast" / "store", [f for name in SETS for f in files_of(data, name)],
            shipped, bf16=False, report=report,
        )  # fmt: skip


@app.command()
def bank(
    data: Data,
    work: Work,
    projection: Annotated[
        Path | None, typer.Option(help="Safetensors of CLIP's projection (512, 768).")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pictures.")] = 5,
    held_out: Annotated[
        bool, typer.Option(help="Hold labelled pictures out and score them.")
    ] = False,
    bf16: Bf16 = True,
    seed: Seed = 0,
) -> None:
    """Learn the bank of concepts from captions and labels, and score it."""
    from projects.everyday.bank import train_head
    from projects.everyday.concept_words import ConceptWords
    from projects.everyday.encode import files_of, open_store, places
    from projects.everyday.naming import box_scores, held_out_accuracy, read_boxes
    from projects.everyday.weak_labels import annotations_of, read_examples
    from regard.media import digest_of

    words, store = ConceptWords.read(), open_store(work / "store")
    examples, test = read_examples(data, store, words, held_out=held_out)
    typer.echo(f"{len(examples.cells)} pictures, {len(words)} concepts")
    head = train_head(
        examples,
        projection=_matrix(projection),
        epochs=epochs,
        bf16=bf16,
        seed=seed,
        report=lambda step, loss: None if step % 100 else typer.echo(f"step {step}: {loss:.3f}"),
    )
    files = files_of(data, "everyday_dev")
    cells = annotations_of(store, [digest_of(file) for file in files], pooled=False)
    boxes = read_boxes(places(data, "everyday_dev")[0].parent / "boxes.json", files, words)
    scores = box_scores(head, cells, boxes, words)
    if held_out:
        scores["held_out_first"] = held_out_accuracy(head, test)
        scores["held_out_first_five"] = held_out_accuracy(head, test, 5)
    typer.echo(json.dumps({name: round(value, 3) for name, value in scores.items()}))
    head.bank().save(work / "bank.safetensors")


@app.command()
def name(data: Data, work: Work, fast: Fast = False) -> None:
    """Write what the bank names in every cell of the training pictures."""
    from projects.everyday.bank import Bank
    from projects.everyday.concept_words import ConceptWords
    from projects.everyday.encode import open_store
    from projects.everyday.mix import read_pictures
    from projects.everyday.naming import name_pictures

    words = ConceptWords.read()
    learned = Bank.load(work / "bank.safetensors", words)
    digests = list(dict.fromkeys(picture.digest for picture in read_pictures(data, words)))
    place = work / "fast" if fast else work
    with progress("naming") as report:
        name_pictures(
            open_store(place / "store"), digests, learned, place / "naming", report=report
        )


@app.command()
def train(
    data: Data,
    work: Work,
    out: Annotated[Path, typer.Argument(help="Folder of the model.")],
    weights: Weights = "",
    steps: Annotated[int, typer.Option(min=1, help="Of two passes each.")] = 1500,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Steps between scores.")] = 500,
    bf16: Bf16 = True,
    seed: Seed = 0,
    fast: Fast = False,
    init: Annotated[
        Path | None, typer.Option(help="Model whose decoder and words training starts from.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(min=0, help="At its peak.")] = 1.5e-3,
) -> None:
    """Train the decoder on the mix, and write the model."""
    from projects.everyday import train as training
    from projects.everyday.bank import Bank
    from projects.everyday.concept_words import ConceptWords
    from projects.everyday.distil import student_config
    from projects.everyday.encode import encoder_config, open_store
    from projects.everyday.mix import Mix, read_pictures, read_texts, vocabulary_of
    from projects.everyday.naming import NamedPictures
    from regard import Captioner
    from regard.model.encoders import build_encoder

    place = work / "fast" if fast else work
    config = student_config(str(work / "student.safetensors")) if fast else encoder_config(weights)
    encoder = build_encoder(config)  # before the hours of training, since it may be missing
    words, store = ConceptWords.read(), open_store(place / "store")
    pictures = read_pictures(data, words)
    texts = read_texts(data / "coco_text" / "captions.txt", words)
    if init is not None:
        first = Captioner.load(init, backend="torch")
        vocabulary, decoder = first.vocabulary, training.trainable(first.decoder)
    else:
        vocabulary = vocabulary_of(pictures, texts, words)
        learned = Bank.load(work / "bank.safetensors", words)
        decoder = training.build_decoder(learned, words, vocabulary, seed=seed)
    mix = Mix(pictures, texts, NamedPictures(store, place / "naming"), words, seed=seed)
    scored = _scored(data)
    metrics: dict[str, object] = {}
    run = training.train(
        decoder, mix, vocabulary, steps=steps, learning_rate=learning_rate, bf16=bf16, seed=seed
    )
    for step, (losses, average) in enumerate(run, 1):
        if step % 50 == 0:
            typer.echo(f"step {step}: losses {losses[0]:.3f} {losses[1]:.3f}")
        if step % evaluate_every == 0 or step == steps:
            shown = copy.deepcopy(decoder)
            shown.load_state_dict(average.state)
            for title, some in scored.items():
                found, _ = training.evaluate(shown, vocabulary, store, some)
                metrics[title] = found
                typer.echo(f"step {step}: {title} {json.dumps(found)}")
    training.save(
        out, encoder, decoder, vocabulary, config=config, metrics=metrics, credit=_CREDIT,
        name="everyday-fast" if fast else "everyday",
    )  # fmt: skip


@app.command()
def refine(
    data: Data,
    work: Work,
    model: Annotated[Path, typer.Argument(help="Folder of the model that train wrote.")],
    out: Annotated[Path, typer.Argument(help="Folder of the refined model.")],
    steps: Annotated[int, typer.Option(min=1, help="Of two passes each.")] = 80,
    bf16: Bf16 = True,
    seed: Seed = 0,
    fast: Fast = False,
) -> None:
    """Refine a decoder by self-critical steps, and write the model."""
    from projects.everyday import train as training
    from projects.everyday.concept_words import ConceptWords
    from projects.everyday.encode import open_store
    from projects.everyday.mix import Mix, Sizes, read_pictures, read_texts
    from projects.everyday.naming import NamedPictures
    from projects.everyday.self_critical import Reward
    from projects.everyday.self_critical import refine as self_critical
    from regard import Captioner

    place = work / "fast" if fast else work
    words, store = ConceptWords.read(), open_store(place / "store")
    captioner = Captioner.load(model, backend="torch")
    decoder, vocabulary = training.trainable(captioner.decoder), captioner.vocabulary
    pictures = read_pictures(data, words)
    texts = read_texts(data / "coco_text" / "captions.txt", words)
    sizes = Sizes(described=16, texts=30, general=14, labels=0)
    named = NamedPictures(store, place / "naming")
    mix = Mix(pictures, texts, named, words, sizes=sizes, seed=seed)
    reward = Reward.of([p for p in pictures if p.kind == "flickr8k"], words)
    run = self_critical(decoder, mix, vocabulary, reward, steps=steps, bf16=bf16, seed=seed)
    for step, (found, other) in enumerate(run, 1):
        if step % 10 == 0:
            typer.echo(f"step {step}: reward {found:.3f}, cross-entropy {other:.3f}")
    metrics: dict[str, object] = {}
    for title, some in _scored(data).items():
        metrics[title], _ = training.evaluate(decoder, vocabulary, store, some)
        typer.echo(f"{title} {json.dumps(metrics[title])}")
    captioner.save(out, metrics=metrics, half=True)


def _scored(data: Path) -> dict[str, ScoredPictures]:
    """Return the pictures that are scored while training: val and development only."""
    from projects.everyday.encode import places
    from projects.everyday.train import ScoredPictures
    from projects.everyday.weak_labels import digests_of
    from regard.data import load_dataset

    found: dict[str, ScoredPictures] = {}
    for title in ("everyday_dev", "flickr8k", "general"):
        dataset = load_dataset(*places(data, title)).split("val")
        references = tuple(item.captions for item in dataset)
        found[title] = ScoredPictures(tuple(digests_of(dataset)), references)
    return found


def _matrix(path: Path | None) -> Tensor | None:
    """Read a file that holds one matrix."""
    if path is None:
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        values = list(load_file(path).values())
    except (OSError, SafetensorError) as error:
        raise DatasetError(f"the projection {path} cannot be read: {error}.") from error
    if len(values) != 1 or values[0].dim() != 2:
        raise DatasetError(f"{path} holds {len(values)} tensors; expected one matrix (512, 768).")
    return values[0].float()


if __name__ == "__main__":
    run(app, "everyday")
