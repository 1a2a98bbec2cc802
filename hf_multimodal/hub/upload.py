"""The push of a run's folder to the Hub: which commit is made, and what is removed there."""

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError

from hf_multimodal.hub.eval_results import EVAL_RESULTS
from hf_multimodal.hub.files import WEIGHTS, read_card, shared_files
from hf_multimodal.hub.pickles import refuse_pickles

# The line of a card's snippet that names where it loads the model from; its other lines name the same.
LOADING = re.compile(r"""^model = AutoModel\w*\.from_pretrained\(("(?:[^"\\]|\\.)*"), trust_remote""", re.MULTILINE)
# What stands behind the snippet of a card whose name is that of a folder alone.
FOLDER_NOTE = re.compile(r"(?<=and pillow\.) .+ is the folder of this card: give its path\.")


def card_of(repo_id: str, card: str) -> str:
    """A run's card whose snippets load from the repository, whichever folder or repository they named.

    Example:

    >>> card_of("me/mine", 'model = AutoModel.from_pretrained("runs/a", trust_remote_code=True)')
    'model = AutoModel.from_pretrained("me/mine", trust_remote_code=True)'
    """
    named = LOADING.findall(card)
    for name in dict.fromkeys(named):
        card = card.replace(f"from_pretrained({name}", f'from_pretrained("{repo_id}"')
        card = card.replace(f"model={name}", f'model="{repo_id}"')
    return FOLDER_NOTE.sub("", card) if named else card


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

    Weights and evaluation results that were pushed there earlier and are not pushed now, as the shards of a larger
    model, are removed in that commit.

    Args:
        folder: Folder of a run.
        repo_id: `user/name`, or a name under the user of the token.
        private: Whether a new repository is private; None leaves it to the Hub. One that is there stays as it is, and
            is refused if it is public and True is asked for.
        token: Token that may write; None means that of `HF_TOKEN` or of `hf auth login`.
        revision: Branch, made if there is none; None means `main`.
        commit_message: Message of the commit.
        run_as_future: Return at once, and push in the background.

    Returns:
        A `huggingface_hub.CommitInfo`, whose `oid` pins the revision; with `run_as_future` a future of it.

    Raises:
        FileNotFoundError: If the folder holds no whole model, or an image of the card is not in it.
        PermissionError: If the token may not write there.
        ValueError: If `shared_files` refuses the folder; if the repository holds pickled weights, or is public where
            a private one is asked for.
    """
    files = shared_files(folder)
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if private and not api.model_info(repo_id).private:
            raise ValueError(
                f"{repo_id} is there and public, and a private one is asked for: nothing was pushed. Make it private "
                "in its settings, or push to another."
            )
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        there = api.list_repo_files(repo_id, revision=revision)
        refuse_pickles(repo_id, there)
        content: dict[str, Path | bytes] = {name: Path(folder, name) for name in files}
        if "README.md" in content:
            content["README.md"] = card_of(repo_id, read_card(folder)).encode()
        # A whole file of weights would be loaded before shards that come to lie beside it.
        replaced = (*WEIGHTS, EVAL_RESULTS)
        old = [name for name in there if name not in content and any(fnmatch(name, kind) for kind in replaced)]
        return api.create_commit(  # type: ignore[call-overload]
            repo_id,
            [
                *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=found) for name, found in content.items()),
                *(CommitOperationDelete(path_in_repo=name) for name in old),
            ],
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
