"""The commands: what each does, the groups of flags that it reads, and its defaults. Plain data, as the flags are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_multimodal.cli.arguments import (
    AlignerArguments,
    AlignerTrainingFlags,
    CardArguments,
    ClassArguments,
    ClassifierTrainingFlags,
    DemoArguments,
    EvaluationArguments,
    FusionArguments,
    HubTrainingFlags,
    ImageReadingArguments,
    IndexArguments,
    LabelArguments,
    MissingArguments,
    ModalityArguments,
    ModelArguments,
    PairArguments,
    PredictionArguments,
    PushArguments,
    ReadingArguments,
    RobustArguments,
    RobustTrainingFlags,
    RunArguments,
    SearchArguments,
    SourceArguments,
    TrainingFlags,
    WriteCardArguments,
)
from hf_multimodal.cli.generator_arguments import (
    AnswerColumnArguments,
    AskArguments,
    CaptionReadingArguments,
    ConversationReadingArguments,
    DecoderArguments,
    GenerationArguments,
    GeneratorTrainingFlags,
    ImageTokenizerArguments,
    TextToImageArguments,
    VisionLanguageArguments,
)

# Where a training command differs from transformers and shows no flag of its own: it measures itself each epoch, keeps
# the best checkpoint and can be resumed.
TRAINING_DEFAULTS: dict[str, Any] = {
    "per_device_eval_batch_size": 64,
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "logging_strategy": "epoch",
    "load_best_model_at_end": True,
    "save_total_limit": 1,
    "restore_callback_states_from_checkpoint": True,
    "hub_strategy": "end",  # what is pushed is the run's whole folder, which only then stands
    "logging_nan_inf_filter": False,
    "train_sampling_strategy": "group_by_length",
    "dataloader_persistent_workers": True,
}
# With no validation rows left, nothing is chosen: the last step is the result.
FINAL_FIT_DEFAULTS: dict[str, Any] = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}


@dataclass(frozen=True)
class Command:
    """One command of `hf-multimodal`.

    Args:
        module: File of `cli/` whose `function` runs it.
        description: Its first line says what it does; the rest is shown by `--help`.
        groups: The dataclasses that it reads, by the name under which the command finds each.
        training: Those whose flags are fields of `MultimodalTrainingArguments`; empty where nothing is trained.
        defaults: What replaces the defaults of the dataclasses and of `MultimodalTrainingArguments`.
        from_scratch: The same with `--from_scratch`, whose small models ask for larger batches and more epochs.
        function: Takes the flags.
        positional: Name of the flag that may also be given without it.
    """

    module: str
    description: str
    groups: Mapping[str, type]
    training: tuple[type, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    from_scratch: Mapping[str, Any] = field(default_factory=dict)
    function: str = "main"
    positional: str | None = None


CLASSIFIER: dict[str, type] = {"model": ModelArguments, "fusion": FusionArguments}
DATA: dict[str, type] = {
    "source": SourceArguments,
    "labels": LabelArguments,
    "classes": ClassArguments,
    "reading": ReadingArguments,
    "missing": MissingArguments,
    "run": RunArguments,
    "card": CardArguments,
}
SMALL = {"per_device_train_batch_size": 64, "num_train_epochs": 4, "hidden_size": 64}

COMMANDS: dict[str, Command] = {
    "train-fusion": Command(
        "train_fusion",
        """train a fused image+text classifier, or one of a single modality

It leaves a folder that `AutoModel.from_pretrained` loads, with metrics, predictions and plots. All flags can stand in
a YAML file (`--config run.yaml --seed 1`). `torchrun --nproc_per_node 2 scripts/train_fusion.py` trains on two
processes.

    hf-multimodal train-fusion --data controlled:unique --from_scratch --output_dir runs/unique""",
        {"model": ModelArguments, "modality": ModalityArguments, "fusion": FusionArguments, **DATA},
        (TrainingFlags, ClassifierTrainingFlags, HubTrainingFlags),
        {**TRAINING_DEFAULTS, "output_dir": "runs/fusion"},
        SMALL,
    ),
    "train-robust-fusion": Command(
        "train_robust_fusion",
        """train a classifier that stays right when an example lacks its image or its text

The flags of `train-fusion` hold here too. `--missing` and `--eval_missing` take images and texts away, `--baselines`
trains the baselines on the same rows.

    hf-multimodal train-robust-fusion --data controlled:unique --from_scratch --missing both:0.7""",
        {**CLASSIFIER, "robust": RobustArguments, **DATA},
        (TrainingFlags, RobustTrainingFlags, ClassifierTrainingFlags, HubTrainingFlags),
        {**TRAINING_DEFAULTS, "output_dir": "runs/robust"},
        SMALL,
    ),
    "train-aligner": Command(
        "train_aligner",
        """align images and captions in one space, for retrieval and zero-shot classification

A table has a column of images and one of captions; rows of one image share its path or, with `--image_id_column`, a
name. `--gradient_cache_chunk_size 32` trains large batches on small memory.

    hf-multimodal train-aligner --data controlled:retrieval --from_scratch --output_dir runs/aligner""",
        {
            "model": ModelArguments,
            "aligner": AlignerArguments,
            "source": SourceArguments,
            "pairs": PairArguments,
            "reading": ReadingArguments,
            "run": RunArguments,
            "card": CardArguments,
        },
        (TrainingFlags, AlignerTrainingFlags, HubTrainingFlags),
        {
            **TRAINING_DEFAULTS,
            "output_dir": "runs/aligner",
            "per_device_train_batch_size": 128,
            "metric_for_best_model": "rsum",
            "train_sampling_strategy": "random",  # texts of like length would be hard negatives by their length alone
        },
        {"num_train_epochs": 4, "projection_dim": 64},
    ),
    "train-image-tokenizer": Command(
        "train_image_tokenizer",
        """train a VQ-VAE, which makes an image a grid of tokens and back

It needs images alone: captions and labels of the data are not read. What it leaves is what `train-text-to-image`
takes as `--image_tokenizer`.

    hf-multimodal train-image-tokenizer --data controlled:retrieval --image_size 32""",
        {
            "tokenizer": ImageTokenizerArguments,
            "source": SourceArguments,
            "reading": ImageReadingArguments,
            "run": RunArguments,
            "card": CardArguments,
        },
        (GeneratorTrainingFlags, HubTrainingFlags),
        {
            **TRAINING_DEFAULTS,
            "output_dir": "runs/tokenizer",
            "learning_rate": 4e-3,
            "num_train_epochs": 10.0,
            "lr_scheduler_type": "cosine",
            "metric_for_best_model": "psnr",
            "train_sampling_strategy": "random",
        },
    ),
    "train-text-to-image": Command(
        "train_text_to_image",
        """train a DALL-E, which draws images for texts

A decoder learns to write the tokens of an image after those of its caption, the column `caption` or `text`. With
`--feature_cache FOLDER` each image's tokens are computed once.

    hf-multimodal train-text-to-image --data controlled:retrieval --image_tokenizer runs/tokenizer""",
        {
            "text_to_image": TextToImageArguments,
            "decoder": DecoderArguments,
            "source": SourceArguments,
            "reading": CaptionReadingArguments,
            "run": RunArguments,
            "card": CardArguments,
        },
        (GeneratorTrainingFlags, HubTrainingFlags),
        {
            **TRAINING_DEFAULTS,
            "output_dir": "runs/text_to_image",
            "learning_rate": 3e-3,
            "num_train_epochs": 10.0,
            "per_device_train_batch_size": 64,
            "lr_scheduler_type": "cosine",
            "metric_for_best_model": "loss",
            "train_sampling_strategy": "random",
        },
    ),
    "train-vision-language": Command(
        "train_vision_language",
        """train a model that reads images and answers (LLaVA), on conversations

Any vision model stands in front of any decoder. The data are conversations (`messages`, or LLaVA's `conversations`),
questions with answers, or with `--task caption` images with captions. With a pretrained `--text_model` the projector
between the two learns alone first. `--dry_run` shows what is learned of a conversation.

    hf-multimodal train-vision-language --data controlled:questions --from_aligner runs/aligner""",
        {
            "vision_language": VisionLanguageArguments,
            "decoder": DecoderArguments,
            "source": SourceArguments,
            "columns": AnswerColumnArguments,
            "reading": ConversationReadingArguments,
            "run": RunArguments,
            "card": CardArguments,
        },
        (TrainingFlags, HubTrainingFlags),
        {
            **TRAINING_DEFAULTS,
            "output_dir": "runs/vision_language",
            "decoder": "qwen3",
            "num_hidden_layers": 2,
            "lr_scheduler_type": "cosine",
            "metric_for_best_model": "loss",
        },
    ),
    "ask": Command(
        "ask",
        """ask about an image

Without a question it reads one a line, each with those before it: `/image FILE` takes another image and begins anew,
an empty line ends.

    hf-multimodal ask --model runs/vision_language --image x.jpg "What is this?\"""",
        {"asking": AskArguments},
        positional="question",
    ),
    "generate": Command(
        "generate",
        """draw images for texts

`--rerank` orders the images of each text by an aligner or a CLIP, best first: with `--candidates 16 --n 1` the best of
sixteen is kept.

    hf-multimodal generate --model runs/text_to_image --text "a red circle" --n 8 --output sheet.png""",
        {"generation": GenerationArguments},
    ),
    "evaluate": Command(
        "evaluate",
        """evaluate a trained model: a classifier on labelled data, the others on pairs or images

`--against other/predictions.csv` adds the 95 % interval of the difference to another run on the same rows;
`--output_dir` writes metrics, predictions and plots. Column names, and how splits are made, are those of the model's
run unless given.

    hf-multimodal evaluate --model runs/unique --data controlled:unique""",
        {"evaluation": EvaluationArguments, "source": SourceArguments, "labels": LabelArguments},
    ),
    "predict": Command(
        "predict",
        """predict a table, a folder or one example

Of a sidecar-text folder the list without labels is predicted; `--guid_tag_output` writes its `guid,tag` file. One
example is `--image image.jpg`, `--text "words"` or both; `--show prediction.png` draws it.

    hf-multimodal predict --model runs/unique --data table.csv --output predictions.csv""",
        {"prediction": PredictionArguments, "source": SourceArguments, "labels": LabelArguments},
        defaults={"on_bad_sample": None},  # missing for a table, error for one example
    ),
    "retrieve index": Command(
        "retrieve",
        """index images and texts by an aligner

The images and texts of a folder, a table or a Hub data set; `retrieve search` finds them.

    hf-multimodal retrieve index --model runs/aligner --data images/ --index_dir runs/index""",
        {"index": IndexArguments, "source": SourceArguments},
        defaults={"on_bad_sample": "missing"},
        function="index",
    ),
    "retrieve search": Command(
        "retrieve",
        """search an index by a text or an image

`--image query.jpg` finds images like it, with `--find texts` texts that describe it; `--sheet found.png` draws them.

    hf-multimodal retrieve search --model runs/aligner --index_dir runs/index --text "a dog"
""",
        {"search": SearchArguments},
        function="search",
    ),
    "card": Command(
        "card",
        """write the model card of a run again

With its curve over missing rates, or with what its training was not told. What is given is kept in the run's folder,
for each later card. `--output model_cards/robust.md` writes it elsewhere, with copies of its images.

    hf-multimodal card --run runs/robust --curve runs/robust/curve --license apache-2.0""",
        {"card": WriteCardArguments},
    ),
    "push": Command(
        "push",
        """push a run's folder to the Hub

Model, code, processor, and the card with its images; nothing else of the folder. Whoever pulls it needs
`trust_remote_code=True`, or this package.

    hf-multimodal push --model runs/unique --repo_id me/unique""",
        {"push": PushArguments},
    ),
    "demo": Command(
        "demo",
        """train three classifiers on generated data whose best possible accuracy is known

On images alone, on texts alone and on both. Neither alone can pass .475, together they reach .9025.

    hf-multimodal demo""",
        {"demo": DemoArguments},
    ),
}
