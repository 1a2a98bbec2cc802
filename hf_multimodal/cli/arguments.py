"""The flags of all commands, as plain data: names, defaults, help, and what a group of flags refuses by itself.

Nothing here imports torch or transformers, so that `--help` is quick. A command lists the groups that it reads
(`commands.py`); `command_line.py` parses them.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_multimodal.validation import check_choice, check_folder, did_you_mean

MODALITIES = ("both", "image", "text")
POLICIES = ("error", "missing", "drop")
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression")
SPLITS = ("all", "train", "validation", "test")
IMAGE_POOLINGS = ("auto", "cls", "mean", "cls_mean")
TEXT_POOLINGS = ("auto", "cls", "mean", "last", "pooler")
PROJECTIONS = ("linear", "mlp")
TRIPLET_MININGS = ("semi_hard", "all", "hard")
INDEX_KINDS = ("exact", "flat", "hnsw", "ivf")
PREDICTION_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
RECURRENT_CELLS = ("lstm", "gru")
CLASS_WEIGHTS = ("none", "balanced")
TUNED = "tuned"
USUAL_THRESHOLD = "0.5"


def flag(help: str, default: Any = None, **more: Any) -> Any:
    """A field of a group: its default and its help."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help}, **more)
    return field(default=default, metadata={"help": help}, **more)


@dataclass
class ModelArguments:
    """The vision model and the text model, and which of their weights learn."""

    vision_model: str | None = flag("Hub name or folder, or torchvision:<name>. Not needed with --from_scratch.")
    text_model: str | None = flag("Hub name or folder; with --from_scratch not needed, or lstm or gru.")
    from_scratch: bool = flag("Small random models and a tokenizer trained on the texts.", False)
    word_vectors: str | None = flag("word2vec, GloVe or fastText file to start a from_scratch model from.")
    vision_layers: int | None = flag("Keep only the first N layers of the vision model. Default: all.")
    image_pooling: str = flag(f"One of {', '.join(IMAGE_POOLINGS)}.", "auto")
    text_pooling: str = flag(f"One of {', '.join(TEXT_POOLINGS)}.", "auto")
    freeze_vision_layers: str = flag("Freeze embeddings and the first N layers, or 'all'.", "0")
    freeze_text_layers: str = flag("The same for the text model.", "0")
    lora_rank: int = flag("Train LoRA matrices of this rank, not the pretrained weights. 0: no LoRA.", 0)

    def __post_init__(self) -> None:
        check_choice("image_pooling", self.image_pooling, IMAGE_POOLINGS)
        check_choice("text_pooling", self.text_pooling, TEXT_POOLINGS)
        for name in ("freeze_vision_layers", "freeze_text_layers"):
            layers = getattr(self, name)
            if layers != "all" and not layers.isdecimal():
                raise ValueError(f"{name} must be a number of layers or 'all', got {layers!r}.")
        for name in ("vision_model", "text_model"):
            if getattr(self, name) is not None:
                check_folder(name, getattr(self, name))
        text = self.text_model
        if text in RECURRENT_CELLS and not self.from_scratch:
            raise ValueError(f"text_model {text!r} has no pretrained weights: it needs from_scratch.")
        if text is not None and text not in RECURRENT_CELLS and "/" not in text and not os.path.isdir(text):
            hint = did_you_mean(text, RECURRENT_CELLS)
            if hint:
                raise ValueError(f"text_model {text!r} is neither a folder nor one of {list(RECURRENT_CELLS)}.{hint}")
        if self.vision_layers is not None and self.from_scratch:
            raise ValueError("vision_layers needs a pretrained vision model.")
        if self.word_vectors is not None and not self.from_scratch:
            raise ValueError("word_vectors needs from_scratch and a text model.")
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank must be 0 or more, got {self.lora_rank}.")
        if self.lora_rank and self.from_scratch:
            raise ValueError("lora_rank needs pretrained weights, so it cannot go with from_scratch.")


@dataclass
class ModalityArguments:
    """Which of the two a fused classifier reads."""

    modality: str = flag("One of both, image, text: a single one builds and runs only that.", "both")

    def __post_init__(self) -> None:
        check_choice("modality", self.modality, MODALITIES)


@dataclass
class FusionArguments:
    """How image and text are fused and classified."""

    fusion: str = flag("How the two are fused (docs/training.md); a wrong name lists all.", "concat")
    hidden_size: int = flag("Width of the space that both are projected into; 64 with --from_scratch.", 256)
    dropout: float = flag("Dropout inside the fusion.", 0.1)
    label_smoothing: float = flag("Share of each target spread over all classes.", 0.0)
    class_weights: str = flag("'balanced' weighs classes by inverse frequency.", "none")
    no_target_scaling: bool = flag("Regression: do not scale the targets by mean and deviation.", False)
    threshold: str = flag("Multi-label: a probability from which labels hold, or 'tuned'.", USUAL_THRESHOLD)

    def __post_init__(self) -> None:
        from hf_multimodal.models.fusion import FUSIONS  # here, since torch comes with it

        check_choice("fusion", self.fusion, FUSIONS)
        check_choice("class_weights", self.class_weights, CLASS_WEIGHTS)
        if self.threshold != TUNED and not 0 < _number(self.threshold) < 1:
            raise ValueError(f"threshold must be a number between 0 and 1, or {TUNED!r}, got {self.threshold!r}.")


@dataclass
class RobustArguments:
    """The recipe against missing images and texts."""

    unimodal_loss_weight: float = flag("Weight of each unimodal head's loss beside the joint one.", 0.5)
    no_missing_embeddings: bool = flag("Zeros in place of a missing modality, no learned embedding.", False)
    from_fusion: str | None = flag("Start from a trained fused classifier: folder or Hub name.")
    baselines: bool = flag("Also train the baselines on the same rows, and compare.", False)

    def __post_init__(self) -> None:
        if self.from_fusion is not None and self.baselines:
            raise ValueError(
                "baselines start from pretrained models or from scratch, so they cannot go with from_fusion."
            )
        if self.from_fusion is not None:
            check_folder("from_fusion", self.from_fusion)


@dataclass
class AlignerArguments:
    """The common space of images and texts, and the loss that aligns them."""

    projection: str = flag(f"One of {', '.join(PROJECTIONS)}.", "linear")
    projection_dim: int = flag("Width of the common space; 64 with --from_scratch.", 256)
    loss: str = flag("What aligns them (docs/aligning.md); a wrong name lists all.", "infonce")
    margin: float | None = flag("Of triplet, margin_ranking and contrastive_pair. Default: the loss's own.")
    triplet_mining: str = flag(f"One of {', '.join(TRIPLET_MININGS)}.", "semi_hard")
    logit_scale_init_value: float | None = flag("Logarithm of the scale at the start. Default: the loss's own.")
    captions_per_image: int = flag("Captions of each image in an epoch, drawn anew each time.", 1)

    def __post_init__(self) -> None:
        from hf_multimodal.models.losses import LOSSES  # here, since torch comes with it

        check_choice("projection", self.projection, PROJECTIONS)
        check_choice("loss", self.loss, LOSSES)
        check_choice("triplet_mining", self.triplet_mining, TRIPLET_MININGS)
        if self.captions_per_image < 1:
            raise ValueError(f"captions_per_image must be 1 or more, got {self.captions_per_image}.")


@dataclass
class SourceArguments:
    """Where the examples come from, and how they are read and split."""

    data: str | None = flag("Table, folder or Hub data set, or controlled:<task> (docs/training.md).")
    image_column: str | None = flag("Default: image, image_path or file_name.")
    text_column: str | None = flag("Default: text; of pairs, caption first.")
    id_column: str | None = flag("Default: id or guid, else the row number.")
    image_root: str | None = flag("Folder that image paths are relative to.")
    encoding: str | None = flag("Character encoding of the texts. Default: found out.")
    data_config: str | None = flag("Configuration of a Hub data set.")
    split_seed: int = flag("Seed of the splits that are made.", 42)
    group_duplicates: bool = flag("Keep equal images and equal texts on one side of a split.", False)
    on_bad_sample: str = flag(f"One of {', '.join(POLICIES)}: what becomes of an unreadable one.", "error")
    max_predict_samples: int | None = flag("Use only the first N test examples.")

    def __post_init__(self) -> None:
        if self.on_bad_sample is not None:  # `predict` fills it in
            check_choice("on_bad_sample", self.on_bad_sample, POLICIES)


@dataclass
class LabelArguments:
    """Where the labels stand, and what they are."""

    label_column: list[str] | None = flag("Default: label. Several: one column of 0 and 1 a label.")
    problem_type: str | None = flag("Default: from the labels. " + ", ".join(PROBLEM_TYPES) + ".")
    no_stratify: bool = flag("Split as scikit-learn's plain train_test_split.", False)

    def __post_init__(self) -> None:
        if self.problem_type is not None:
            check_choice("problem_type", self.problem_type, PROBLEM_TYPES)


@dataclass
class ClassArguments:
    """What a training run makes of the classes."""

    label_names: list[str] | None = flag("Names of the classes in order. Default: read off the labels.")
    allow_untrained_classes: bool = flag("Train although a class has no training row.", False)


@dataclass
class PairArguments:
    """Which rows show the same image, and by what recalls are told apart."""

    image_id_column: str | None = flag("Column that names each row's image. Default: the image's path.")
    group_by: str | None = flag("Column by which recalls are told apart.")


@dataclass
class CountArguments:
    """How many of the examples a training run uses."""

    max_train_samples: int | None = flag("Use only the first N training examples.")
    max_eval_samples: int | None = flag("Use only the first N validation examples.")


@dataclass
class RowArguments(CountArguments):
    """How a training run uses the examples."""

    image_value_range: list[float] | None = flag("Black and white of images that are not of 8 bits: 0 4095.")


@dataclass
class ImageReadingArguments(RowArguments):
    """How a training run uses the images."""

    augment: bool = flag("Random crop, flip and light colour on training images.", False)
    whole_images: bool = flag("Resize images and cut nothing off their borders.", False)


@dataclass
class ReadingArguments(ImageReadingArguments):
    """How a training run uses the examples."""

    max_length: int | None = flag("Longest text in tokens. Default: the model's.")
    feature_cache: str | None = flag("Folder for what frozen vision layers make of each image.")
    cached_augmentations: int = flag("Versions of each image in the feature cache, with --augment.", 4)

    def __post_init__(self) -> None:
        if self.cached_augmentations < 1:
            raise ValueError(f"cached_augmentations must be 1 or more, got {self.cached_augmentations}.")


@dataclass
class MissingArguments:
    """Images and texts that are taken away, to train and to measure without them."""

    missing: str | None = flag("Take images or texts from training rows: image:0.5, text:0.9, both:0.7.")
    eval_missing: str | None = flag("The same for the test rows.")
    missing_seed: int = flag("Seed of who lacks what.", 0)
    complete_only: bool = flag("Train only on examples that have both an image and a text.", False)


@dataclass
class RunArguments:
    """The run itself."""

    early_stopping_patience: int = flag("Stop after N evaluations that are no better; 0: never.", 3)
    fit_on_validation: bool = flag("Final fit: train on the validation rows too, keep the last step.", False)
    accept_other_processes: bool = flag("Resume a checkpoint of another number of processes.", False)
    overwrite_output_dir: bool = flag("Replace the finished run in output_dir.", False)
    dry_run: bool = flag("Check all, run one step, write nothing; status 2 if it would not start.", False)


@dataclass
class CardArguments:
    """What a model card says that no run can know."""

    license: str | None = flag("Of the weights, as the Hub names it (apache-2.0), for the card.")
    language: list[str] = flag("Codes of the texts' languages (en), for the card.", [])
    base_models: list[str] = flag("Hub names of the models that were started from, if given as folders.", [])
    dataset_name: str | None = flag("What the card calls the data. Default: no file or folder is named.")

    def __post_init__(self) -> None:
        from hf_multimodal.hub import runs  # here, since huggingface_hub comes with it

        runs.CardArguments(self.license, self.language, self.base_models, self.dataset_name)


@dataclass
class BasicTrainingFlags:
    """Training: the flags that people change. `--help-all` shows what transformers has beside them."""

    output_dir: str = flag("Folder that the run leaves.", "runs/fusion")
    num_train_epochs: float = flag("Passes over the training rows.", 3.0)
    max_steps: int = flag("Steps, in place of epochs.", -1)
    per_device_train_batch_size: int = flag("Examples of a step on each process.", 32)
    total_train_batch_size: int | None = flag("Examples of a step on all processes, in place of the former.")
    gradient_accumulation_steps: int = flag("Batches a step.", 1)
    weight_decay: float = flag("Of all weights but norms and biases.", 0.01)
    warmup_steps: float = flag("Steps, or a share of all, until the learning rate is reached.", 0.1)
    ema_decay: float = flag("Keep an exponential moving average of the weights (0.98). 0: none.", 0.0)
    seed: int = flag("Of weights, order, dropout and augmentation.", 42)
    metric_for_best_model: str = flag("The checkpoint that is best by it is kept.", "nll")
    bf16: bool = flag("Mixed precision.", False)
    use_cpu: bool = flag("Leave a GPU alone.", False)
    dataloader_num_workers: int = flag("Processes that decode and tokenize. Default: by the cores.", 0)
    report_to: str = flag("none, tensorboard, trackio, wandb, ...", "none")
    resume_from_checkpoint: str | None = flag("Without a value the last checkpoint of the run.")


@dataclass
class TrainingFlags(BasicTrainingFlags):
    """Training: the flags that people change. `--help-all` shows what transformers has beside them."""

    learning_rate: float | None = flag("Of the pretrained parts. Default: 2e-5; with --from_scratch 1e-3.")
    head_learning_rate: float | None = flag("Of all other parts. Default: 1e-3; with --from_scratch as above.")


@dataclass
class RobustTrainingFlags:
    """Training of a robust classifier."""

    modality_dropout: list[float] | None = flag("Shares shown both, image only, text only. Default: .7 .15 .15.")
    fit_stack: bool = flag("--no_fit_stack predicts by the joint branch, neither stacked nor calibrated.", True)


@dataclass
class ClassifierTrainingFlags:
    """Training of a classifier."""

    oversample: bool = flag("Repeat rare classes until all are equally frequent.", False)


@dataclass
class AlignerTrainingFlags:
    """Training of an aligner."""

    gradient_cache_chunk_size: int | None = flag("Hold the activations of N images at once: large batches.")


@dataclass
class HubTrainingFlags:
    """The Hub."""

    push_to_hub: bool = flag("Push the run's folder at its end.", False)
    hub_model_id: str | None = flag("user/name. Default: the folder's name.")


@dataclass(kw_only=True)
class LoadingArguments:
    """How a model is loaded."""

    revision: str | None = flag("Branch, tag or hash of a commit of a model on the Hub.")
    trust_remote_code: bool = flag("Run code that comes with the model; ours need none.", False)


@dataclass(kw_only=True)
class EvaluationArguments(LoadingArguments):
    """What is evaluated, and what comes of it."""

    model: str = field(metadata={"help": "Folder of the run, or name of the model on the Hub."})
    split: str | None = flag(f"One of {', '.join(SPLITS)}. Default: the run's test split, else all rows.")
    against: str | None = flag("predictions.csv of another run: adds the interval of the difference.")
    missing: str | None = flag("Take images or texts away: image:0.5, text:0.9, both:0.7.")
    missing_seed: int = flag("Seed of who lacks what.", 0)
    missing_curve: bool = flag("Also with images, texts or either taken away from 0 to 100 %% of the rows.", False)
    curve_models: list[str] = flag("Runs of the same recipe with other seeds, for the curve's bands.", [])
    group_by: str | None = flag("Of an aligner: column by which recalls are told apart.")
    image_id_column: str | None = flag("Of an aligner: column that names each row's image.")
    output_dir: str | None = flag("Folder for metrics, predictions and plots.")
    batch_size: int = flag("Examples a forward pass.", 64)
    num_workers: int = flag("Processes that decode and tokenize.", 0)

    def __post_init__(self) -> None:
        if self.split is not None:
            check_choice("split", self.split, SPLITS)
        if self.curve_models and not self.missing_curve:
            raise ValueError("curve_models are for --missing_curve.")
        for name in self.curve_models:
            check_folder("curve_models", name)


@dataclass(kw_only=True)
class PredictionArguments(LoadingArguments):
    """What is predicted, and where the predictions go."""

    model: str = field(metadata={"help": "Folder of the run, or name of the model on the Hub."})
    image: str | None = flag("Path of one image, in place of --data.")
    text: str | None = flag("One text, in place of --data; with --image or alone.")
    split: str | None = flag(f"predict, {', '.join(SPLITS)}. Default: rows without labels, else test, else all.")
    output: str | None = flag("Table of predictions beside the data's own columns. Default: predictions.csv.")
    guid_tag_output: str | None = flag("File of `guid,tag` lines, in the order of the list without labels.")
    show: str | None = flag("PNG with image, text, class and probabilities; for one example.")
    batch_size: int = flag("Examples a forward pass.", 64)
    num_workers: int = flag("Processes that decode and tokenize.", 0)

    def __post_init__(self) -> None:
        if self.show is not None and not self.is_one_example:
            raise ValueError("show draws one example: give its --image, --text or both.")
        if self.split is not None:
            check_choice("split", self.split, ("predict", *SPLITS))
        if self.output is not None:
            check_choice("the suffix of output", Path(self.output).suffix.lower(), PREDICTION_SUFFIXES)
        for name in ("guid_tag_output", "output", "split"):
            if getattr(self, name) is not None and self.is_one_example:
                raise ValueError(f"{name} is for --data, not for one example.")

    @property
    def is_one_example(self) -> bool:
        """Whether one example is given in place of data."""
        return self.image is not None or self.text is not None


@dataclass(kw_only=True)
class IndexArguments(LoadingArguments):
    """What is indexed, and where the index goes."""

    model: str = field(metadata={"help": "Folder or Hub name of an aligner, a CLIP or a SigLIP."})
    index_dir: str = field(metadata={"help": "Folder of the index; one that is there is replaced."})
    modality: str = flag("One of both, image, text: what is indexed.", "both")
    split: str | None = flag(f"One of {', '.join(SPLITS)}. Default: the test split, else all rows.")
    index: str = flag(f"One of {', '.join(INDEX_KINDS)}; all but exact need the extra `retrieval`.", "exact")
    image_id_column: str | None = flag("Column that names each row's image. Default: the image's path.")
    batch_size: int = flag("Images or texts a forward pass.", 64)
    num_workers: int = flag("Processes that decode images.", 0)

    def __post_init__(self) -> None:
        check_choice("modality", self.modality, MODALITIES)
        check_choice("index", self.index, INDEX_KINDS)
        if self.split is not None:
            check_choice("split", self.split, SPLITS)


@dataclass(kw_only=True)
class SearchArguments(LoadingArguments):
    """What is searched for, and where."""

    model: str = field(metadata={"help": "Folder or Hub name of the model that made the index."})
    index_dir: str = field(metadata={"help": "Folder of the index."})
    text: str | None = flag("Find images for this text.")
    image: str | None = flag("Find images like this one, or texts for it.")
    find: str = flag("images or texts; texts are found by --image.", "images")
    k: int | None = flag("Number of hits. Default: ten, or all if there are fewer.")
    sheet: str | None = flag("PNG with the query and the images that it found.")

    def __post_init__(self) -> None:
        check_choice("find", self.find, ("images", "texts"))
        if (self.text is None) == (self.image is None):
            raise ValueError("a search needs --text or --image, one of the two.")
        if self.find == "texts" and self.image is None:
            raise ValueError("texts are found by --image, not by --text.")
        if self.find == "texts" and self.sheet is not None:
            raise ValueError("sheet shows images: it has no use with --find texts.")


@dataclass(kw_only=True)
class WriteCardArguments(CardArguments):
    """Whose card is written where, and what it says beside the run's own."""

    run: str = field(metadata={"help": "Folder of the run."})
    output: str | None = flag("The file. Default: README.md in the run's folder.")
    curve: str | None = flag("Folder that `evaluate --missing_curve` wrote.")
    repo_id: str | None = flag("Repository that the card's snippet loads. Default: the run's.")
    title: str | None = flag("Heading of the card. Default: the name.")
    limits: list[str] = flag("Further limits, a sentence each, in Markdown.", [])


@dataclass
class PushArguments:
    """What is pushed, and where."""

    model: str = field(metadata={"help": "Folder of the run."})
    repo_id: str = field(metadata={"help": "Name on the Hub: user/name. Made if there is none."})
    private: bool = flag("Make the repository private; a public one is refused.", False)
    revision: str | None = flag("Branch, made if there is none. Default: main.")
    commit_message: str = flag("Message of the commit.", "Upload model")
    hub_token: str | None = flag("Token that may write. Default, and safer: that of `hf auth login`.", repr=False)


@dataclass
class DemoArguments:
    """Where the demo writes."""

    output_dir: str = flag("Holds a folder for each model.", "runs/demo")
    overwrite_output_dir: bool = flag("Replace the runs of an earlier demo.", False)


def _number(text: str) -> float:
    """What a text says, NaN where it says no number."""
    try:
        return float(text)
    except ValueError:
        return float("nan")
