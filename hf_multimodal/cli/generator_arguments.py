"""The flags of the commands whose models write images or texts, as plain data."""

from dataclasses import dataclass, field
from pathlib import Path

from hf_multimodal.cli.arguments import (
    BasicTrainingFlags,
    CountArguments,
    LoadingArguments,
    RowArguments,
    flag,
)
from hf_multimodal.validation import check_choice, check_folder

QUANTIZERS = ("fsq", "vq", "vq_grad")
STAGES = ("both", "projector", "decoder")
STARTS = ("vision_model", "from_aligner", "text_model", "from_run")
TASKS = ("conversation", "caption")
CHATML = "chatml"


@dataclass
class ImageTokenizerArguments:
    """The image tokenizer."""

    image_size: int = flag("Height and width of an image in pixels.", 64)
    hidden_size: int = flag("Channels of the convolutions.", 64)
    num_downsamplings: int = flag("How often height and width are halved: 2 makes 4 x 4 pixels a token.", 2)
    num_residual_blocks: int = flag("In the encoder and in the decoder each.", 2)
    quantizer: str = flag(f"One of {', '.join(QUANTIZERS)}.", "fsq")
    levels: list[int] = flag("Of fsq: values of each channel of a code.", [8, 8, 8])
    codebook_size: int = flag("Of vq: number of codes.", 512)
    codebook_dim: int = flag("Of vq: width of the codes.", 16)
    codebook_decay: float = flag("Of vq: decay of the moving averages a step.", 0.99)
    commitment_weight: float = flag("Of vq: weight of the loss that keeps features near their codes.", 0.25)

    def __post_init__(self) -> None:
        check_choice("quantizer", self.quantizer, QUANTIZERS)


@dataclass
class DecoderArguments:
    """A decoder that starts from random weights, and its tokenizer."""

    decoder: str = flag("Model type of transformers: gpt2, llama, qwen3, ...", "gpt2")
    hidden_size: int = flag("Width of the decoder.", 128)
    num_hidden_layers: int = flag("Layers of the decoder.", 3)
    num_attention_heads: int = flag("Attention heads of the decoder; they divide its width.", 4)
    dropout: float = flag("Dropout of the decoder, where it has some.", 0.0)
    tokenizer: str | None = flag("Hub name or folder of a text tokenizer. Default: trained on the texts.")

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads must divide hidden_size {self.hidden_size}, got {self.num_attention_heads}."
            )


@dataclass
class TextToImageArguments:
    """What the decoder reads, and the image tokenizer whose tokens it writes."""

    image_tokenizer: str | None = flag("Folder or Hub name of a trained image tokenizer.")
    prompt_length: int | None = flag("Text tokens of a prompt. Default: the longest training text, at most 64.")
    text_dropout: float = flag("Share of training texts replaced by the empty one, for guidance.", 0.1)

    def __post_init__(self) -> None:
        if self.image_tokenizer is not None:
            check_folder("image_tokenizer", self.image_tokenizer)


@dataclass
class CaptionReadingArguments(RowArguments):
    """How a training run uses the examples."""

    feature_cache: str | None = flag("Folder for the tokens of each image, computed once.")


@dataclass
class VisionLanguageArguments:
    """The vision model and the decoder, and which of their weights learn."""

    vision_model: str | None = flag("Hub name or folder, or torchvision:<name>; of a CLIP its vision side.")
    from_aligner: str | None = flag("Trained aligner or classifier of this package, whose vision model is taken.")
    text_model: str | None = flag("Hub name or folder of a decoder. Default: a small one from random weights.")
    from_run: str | None = flag("Model of this family to go on from, in place of all three.")
    chat_template: str | None = flag("Jinja file, or chatml. Default: the tokenizer's own, else ChatML.")
    freeze_vision: bool = flag("Leave the vision model as it is.", False)
    lora_rank: int = flag("Train LoRA matrices of this rank, not the pretrained weights. 0: no LoRA.", 0)
    stage: str | None = flag(f"One of {', '.join(STAGES)}. Default: both with --text_model, else decoder.")
    projector_epochs: float = flag("Passes of the first stage, in which the projector learns alone.", 1.0)
    projector_learning_rate: float = flag("Of the first stage.", 1e-3)

    def __post_init__(self) -> None:
        given = [name for name in STARTS if getattr(self, name) is not None]
        if self.from_run is not None and given != ["from_run"]:
            raise ValueError(f"from_run brings vision model and decoder: leave {given[0]} out.")
        if self.from_run is None and len({"vision_model", "from_aligner"} & set(given)) != 1:
            raise ValueError("one of vision_model and from_aligner is needed, or from_run.")
        for name in given:
            check_folder(name, getattr(self, name))
        if self.stage is None:
            self.stage = "both" if self.text_model is not None else "decoder"
        check_choice("stage", self.stage, STAGES)
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank must be 0 or more, got {self.lora_rank}.")
        if self.lora_rank and self.from_scratch:
            raise ValueError("lora_rank needs the pretrained weights of a text_model.")
        if self.stage != "decoder" and self.from_scratch:
            raise ValueError(f"stage {self.stage!r} needs a text_model: a decoder that knows nothing teaches nothing.")
        if self.chat_template is not None and self.from_run is not None:
            raise ValueError("from_run brings its own chat_template: leave that out.")
        if self.chat_template not in (None, CHATML) and not Path(self.chat_template).is_file():
            raise ValueError(f"chat_template must be {CHATML!r} or a file, and there is no {self.chat_template!r}.")
        if self.projector_epochs <= 0:
            raise ValueError(f"projector_epochs must be above 0, got {self.projector_epochs}.")

    @property
    def from_scratch(self) -> bool:
        """Whether the decoder starts from random weights."""
        return self.text_model is None and self.from_run is None


@dataclass
class ConversationReadingArguments(CountArguments):
    """How a training run uses the examples."""

    task: str = flag(f"One of {', '.join(TASKS)}: a caption is the answer to --prompt.", "conversation")
    prompt: str = flag("What the user says beside an image to be captioned.", "Describe the image.")
    max_length: int | None = flag("Longest conversation in tokens, those of images included. Default: the decoder's.")
    whole_images: bool = flag("Resize images and cut nothing off their borders.", False)

    def __post_init__(self) -> None:
        check_choice("task", self.task, TASKS)


@dataclass
class AnswerColumnArguments:
    """Columns of conversations."""

    answer_column: str | None = flag("Answers, where --text_column holds questions. Default: answer.")
    group_by: str | None = flag("Column of the kinds by which answers are scored apart.")


@dataclass(kw_only=True)
class AskArguments(LoadingArguments):
    """What is asked of which model."""

    model: str = field(metadata={"help": "Folder of the run, or name of the model on the Hub."})
    image: str | None = flag("The image that is talked about.")
    question: str | None = flag("The question. Without one, questions are read line by line.")
    max_new_tokens: int = flag("Longest answer in tokens.", 128)
    temperature: float = flag("0: the likeliest answer; above, answers are drawn.", 0.0)
    seed: int = flag("Of drawn answers.", 0)

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be 1 or more, got {self.max_new_tokens}.")
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 or more, got {self.temperature}.")


@dataclass(kw_only=True)
class GenerationArguments(LoadingArguments):
    """What is drawn, and where it goes."""

    model: str = field(metadata={"help": "Folder of the run, or name of the model on the Hub."})
    text: list[str] = field(metadata={"help": "One text or several."})
    n: int = flag("Images a text.", 4)
    output: str = flag("PNG of all of them, a row a text.", "sheet.png")
    output_dir: str | None = flag("Folder for each image as a file of its own.")
    seed: int = flag("Same seed, same images.", 0)
    guidance_scale: float = flag("How far each step is moved away from the empty text; 1: not at all.", 3.0)
    top_k: int = flag("Draw from the K likeliest tokens; 0: from all.", 50)
    top_p: float = flag("Draw from the likeliest tokens of together this probability.", 1.0)
    temperature: float = flag("Below 1 draws likelier tokens more often.", 1.0)
    rerank: str | None = flag("Aligner or CLIP that orders the images of each text, best first.")
    candidates: int | None = flag("Images drawn a text, of which --rerank keeps the best --n.")
    batch_size: int = flag("Images a forward pass.", 64)

    def __post_init__(self) -> None:
        for name in ("n", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}.")
        if self.guidance_scale < 1:
            raise ValueError(f"guidance_scale must be 1 or more, where 1 is none, got {self.guidance_scale}.")
        if self.candidates is not None and self.rerank is None:
            raise ValueError("candidates are ordered by --rerank: name an aligner or a CLIP there.")
        if self.candidates is not None and self.candidates < self.n:
            raise ValueError(f"candidates must be at least n, {self.n}, got {self.candidates}.")
        check_choice("the suffix of output", Path(self.output).suffix.lower(), (".png",))
        if self.rerank is not None:
            check_folder("rerank", self.rerank)


@dataclass
class GeneratorTrainingFlags(BasicTrainingFlags):
    """Training: the flags that people change. `--help-all` shows what transformers has beside them."""

    learning_rate: float = flag("Of all that learns.", 1e-3)
