"""Answers of a vision-language model, and how many of them are right."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from tqdm.auto import tqdm

from hf_multimodal.data.conversation_collator import ConversationCollator
from hf_multimodal.data.conversations import caption_messages
from hf_multimodal.evaluation.answers import QuestionPrior, answer_metrics, caption_metrics

MAX_NEW_TOKENS = 64
BATCHES_OPEN = 8


@torch.inference_mode()
def answer(
    model: Any,
    processor: Any,
    conversations: Sequence[list[dict[str, Any]]],
    *,
    batch_size: int = 64,
    **generation: Any,
) -> list[str]:
    """What the model says next in each conversation.

    Conversations of like length share a batch, so that little is spent on padding.

    Args:
        model: A `VisionLanguageForConditionalGeneration`; it is put into eval mode.
        processor: Its processor.
        conversations: Messages as chat templates have them, the last of them the user's; a part of type `image` holds
            its PIL `image`.
        batch_size: Conversations a batch.
        generation: As for `generate`; by default the likeliest token is taken, `MAX_NEW_TOKENS` at most.

    Returns:
        A text for each conversation.
    """
    model.eval()
    options = {"do_sample": False, "max_new_tokens": MAX_NEW_TOKENS, **generation}
    spoken = [sum(len(part.get("text", "")) for turn in turns for part in turn["content"]) for turns in conversations]
    order = sorted(range(len(conversations)), key=spoken.__getitem__)
    answers = [""] * len(conversations)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        inputs = processor.apply_chat_template(
            [conversations[place] for place in chosen],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(model.device)
        written = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
        texts = processor.batch_decode(written, skip_special_tokens=True)
        for place, text in zip(chosen, texts, strict=True):
            answers[place] = text.strip()
    return answers


def turns_of(collator: ConversationCollator, rows: Dataset) -> list[dict[str, Any]]:
    """Each turn of the assistant with what stands before it, as the rows have it.

    Args:
        collator: Opens the images.
        rows: Rows with `messages` and `image`, perhaps with `kinds`, a word for each answer, or `group`, one for all.

    Returns:
        `conversation` (messages up to the question), `question` (what was said last), `reference` (the answer),
        `kind` (None where there is none), and `row`.
    """
    found = []
    for number, row in enumerate(rows):
        messages = collator.conversation(row, number)
        answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        kinds = row.get("kinds") or [row.get("group")] * len(answers)
        for place, kind in zip(answers, kinds, strict=True):
            said = [_text(message) for message in messages[: place + 1]]
            found.append(
                {
                    "conversation": messages[:place],
                    "question": said[-2] if place else "",
                    "reference": said[-1],
                    "kind": kind,
                    "row": number,
                }
            )
    return found


def measure_answers(
    model: Any,
    collator: ConversationCollator,
    rows: Dataset,
    *,
    prior: QuestionPrior | None = None,
    batch_size: int = 64,
    show_progress: bool = False,
    **generation: Any,
) -> dict[str, Any]:
    """Ask every question of the rows, each behind the right answers to those before it.

    Args:
        model: The model.
        collator: Of its rows.
        rows: As for `turns_of`.
        prior: What is said without looking at an image, the baseline; None leaves it out.
        batch_size: Questions a batch.
        show_progress: Whether to show a progress bar.
        generation: As for `answer`.

    Returns:
        What `answer_metrics` finds.
    """
    said: list[str] = []
    turns: list[dict[str, Any]] = []
    for part in _parts(rows, batch_size, show_progress):
        asked = turns_of(collator, part)
        conversations = [turn.pop("conversation") for turn in asked]  # their images are open
        said += answer(model, collator.processor, conversations, batch_size=batch_size, **generation)
        turns += asked
    kinds = [turn["kind"] for turn in turns]
    return answer_metrics(
        said,
        [turn["reference"] for turn in turns],
        None if None in kinds else kinds,
        None if prior is None else [prior.guess(turn["question"]) for turn in turns],
    )


def most_frequent(texts: Sequence[str]) -> str:
    """The text that stands there most often; of several the first.

    Example:

    >>> most_frequent(["a cat", "a dog", "a dog"])
    'a dog'
    """
    return Counter(texts).most_common(1)[0][0]


def question_prior(rows: Dataset) -> QuestionPrior:
    """The most frequent answer to each question of the training rows.

    Args:
        rows: Rows with `messages`.
    """
    questions, answers = [], []
    for messages in rows["messages"][:]:
        for before, message in zip(messages, messages[1:], strict=False):
            if message["role"] == "assistant":
                questions.append(before["content"])
                answers.append(message["content"])
    return QuestionPrior(questions, answers)


def measure_captions(
    model: Any,
    collator: ConversationCollator,
    images: Dataset,
    prompt: str,
    *,
    frequent: str | None = None,
    batch_size: int = 64,
    show_progress: bool = False,
    **generation: Any,
) -> dict[str, Any]:
    """Describe every image, and compare with all of its captions.

    Args:
        model: The model.
        collator: Opens the images.
        images: A row an image with its `texts`, as `group_pairs` gives them.
        prompt: What the model learned captions as the answer to.
        frequent: The most frequent caption in training, the baseline; None leaves it out.
        batch_size: Images a batch.
        show_progress: Whether to show a progress bar.
        generation: As for `answer`.

    Returns:
        What `caption_metrics` finds, and with `frequent` the same of it under `most_frequent_...`.
    """
    said: list[str] = []
    turns = caption_messages(prompt, ".")  # the caption is not read
    for part in _parts(images, batch_size, show_progress):
        asked = [collator.conversation({**row, "messages": turns}, row["id"])[:1] for row in part]
        said += answer(model, collator.processor, asked, batch_size=batch_size, **generation)
    references = images["texts"][:]
    found = caption_metrics(said, references)
    if frequent is not None:
        same = caption_metrics([frequent] * len(said), references)
        found |= {f"most_frequent_{name}": same[name] for name in ("bleu_4", "cider")}
    return found


def _parts(rows: Dataset, batch_size: int, show_progress: bool) -> Iterator[Dataset]:
    """Some batches of rows at a time: enough to find like lengths, and few enough for their images to be open."""
    size = BATCHES_OPEN * batch_size
    for start in tqdm(range(0, len(rows), size), desc="Answering", disable=not show_progress):
        yield rows.select(range(start, min(start + size, len(rows))))


def _text(message: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in message["content"]).strip()
