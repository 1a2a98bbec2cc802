"""A run's folder on the Hub: what of it is shared, and the push."""

import json
import re
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError

from .pickles import refuse_pickles

# All that loading needs, and the card. Whatever else lies in the folder stays: predictions, rows, paths, checkpoints.
SHARED = (
    *("config.json", "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json", "*.py"),
    *("processor_config.json", "preprocessor_config.json", "tokenizer*", "vocab.*", "merges.txt", "*.model"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "README.md", "LICENSE"),
)
# The two lines of a card's snippet that name where it loads from.
LOADING = re.compile(
    r"""^((?:model = AutoModel|processor = AutoProcessor)\.from_pretrained\()"(?:[^"\\]|\\.)*"(, trust_remote)""", re.M
)
PICTURE = re.compile(r"""!\[[^\]]*\]\(\s*<?([^)\s>]+)|<img\s[^>]*src=["']([^"']+)""")


@dataclass
class PushArguments:
    """What is pushed, and where."""

    model: str = field(metadata={"help": "Folder of the run."})
    repo_id: str = field(metadata={"help": "Name on the Hub: user/name. The repository is made if there is none."})
    private: bool = field(default=False, metadata={"help": "Make the repository private; one that is there stays."})
    revision: str | None = field(default=None, metadata={"help": "Branch, made if there is none. Default: main."})
    commit_message: str = field(default="Upload model", metadata={"help": "Message of the commit."})
    hub_token: str | None = field(
        default=None,
        metadata={"help": "Token that may write. Default: that of HF_TOKEN or of `hf auth login`, which is safer."},
    )


def pictures_of_card(card: str) -> list[str]:
    """Relative paths of the pictures that a card shows, in order.

    Example:

    >>> pictures_of_card("![loss](history.png) <img src='a/b.png'> ![](https://x.org/c.png) [text](run.yaml)")
    ['history.png', 'a/b.png']
    """
    found = ["".join(groups) for groups in PICTURE.findall(card)]
    return list(dict.fromkeys(path for path in found if not re.match(r"[a-z]+:|/|#", path)))


def card_of(repo_id: str, card: str) -> str:
    """A run's card whose snippet loads from the repository, whichever folder or repository it named.

    Example:

    >>> card_of("me/mine", 'model = AutoModel.from_pretrained("runs/a", trust_remote_code=True)')
    'model = AutoModel.from_pretrained("me/mine", trust_remote_code=True)'
    """
    return LOADING.sub(lambda found: f'{found[1]}"{repo_id}"{found[2]}', card)


def shared_files(folder: str | Path) -> list[str]:
    """Which files of a run's folder are shared.

    The model (`config.json`, safetensors, code), its processor, the card (`README.md`) with the pictures that it
    shows, and a `LICENSE`; nothing else, and of subfolders only those pictures.

    Args:
        folder: Of a run, or whatever `save_pretrained` left.

    Returns:
        Their names in the folder, sorted.

    Raises:
        FileNotFoundError: If the folder holds no whole model, or a picture of the card is not in it.
        ValueError: If it holds pickled weights.
    """
    folder = Path(folder)
    names = [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    refuse_pickles(str(folder), names)
    shared = {name for name in names if any(fnmatch(name, pattern) for pattern in SHARED)}
    if "config.json" not in shared or not any(name.endswith(".safetensors") for name in shared):
        hint = " It holds a LoRA adapter alone: merge it and save the model." if "adapter_config.json" in names else ""
        raise FileNotFoundError(f"{folder} holds no model: a config.json and a model.safetensors are needed.{hint}")
    if "README.md" in shared:
        for picture in pictures_of_card((folder / "README.md").read_text(encoding="utf-8")):
            file = folder / picture
            if not file.is_file() or not file.resolve().is_relative_to(folder.resolve()):
                raise FileNotFoundError(f"{folder / 'README.md'} shows {picture!r}, which is not in {folder}.")
            shared.add(picture)
    return sorted(shared)


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model",
    run_as_future: bool = False,
) -> Any:
    """Push what `shared_files` names to a repository of the Hub, in one commit; the card's snippet loads from there.

    Args:
        folder: Of a run.
        repo_id: `user/name`, or a name under the user of the token.
        private: Whether a new repository is private; None leaves it to the Hub. One that is there stays as it is.
        token: Token that may write; None means that of `HF_TOKEN` or of `hf auth login`.
        revision: Branch, made if there is none; None means `main`.
        commit_message: Of the commit.
        run_as_future: Return at once, and push in the background.

    Returns:
        A `huggingface_hub.CommitInfo`, whose `oid` pins the revision; with `run_as_future` a future of it.

    Raises:
        FileNotFoundError: If the folder holds no whole model, or a picture of the card is not in it.
        PermissionError: If the token may not write there.
        ValueError: If the folder, or the repository, holds pickled weights.
    """
    files = shared_files(folder)
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        refuse_pickles(repo_id, api.list_repo_files(repo_id, revision=revision))
        content: dict[str, Path | bytes] = {name: Path(folder, name) for name in files}
        if "README.md" in content:
            content["README.md"] = card_of(repo_id, Path(folder, "README.md").read_text(encoding="utf-8")).encode()
        return api.create_commit(  # type: ignore[call-overload]
            repo_id,
            [CommitOperationAdd(path_in_repo=name, path_or_fileobj=found) for name, found in content.items()],
            commit_message=commit_message,
            revision=revision,
            run_as_future=run_as_future,
        )
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 403):
            raise
        raise PermissionError(
            f"{repo_id} cannot be written with the token that was used, if any: log in by `hf auth login`, or set "
            f"HF_TOKEN to a token with write permission there ({error.response.status_code})."
        ) from error


def push(args: PushArguments) -> dict[str, Any]:
    """Do what `scripts/push_to_hub.py` does, and print how the model is loaded from there.

    Args:
        args: What is pushed, and where.

    Returns:
        `repo_id`, `revision` (the commit's hash) and `files`.
    """
    files = shared_files(args.model)
    commit = push_folder(
        args.model,
        args.repo_id,
        private=args.private or None,
        token=args.hub_token,
        revision=args.revision,
        commit_message=args.commit_message,
    )
    repo_id = commit.repo_url.repo_id
    print(f"{len(files)} files of {args.model} are at {commit.commit_url}:\n{json.dumps(files)}")
    print(f'AutoModel.from_pretrained("{repo_id}", revision="{commit.oid}", trust_remote_code=True)')
    return {"repo_id": repo_id, "revision": commit.oid, "files": files}
