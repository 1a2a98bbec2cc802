"""Push a run's folder to the Hub, as `scripts/push_to_hub.py` does."""

import json
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoModel, PreTrainedConfig

from hf_multimodal.hub.files import shared_files
from hf_multimodal.hub.upload import push_folder


@dataclass
class PushArguments:
    """What is pushed, and where."""

    model: str = field(metadata={"help": "Folder of the run."})
    repo_id: str = field(metadata={"help": "Name on the Hub: user/name. The repository is made if there is none."})
    private: bool = field(
        default=False, metadata={"help": "Make the repository private; one that is there and public is refused."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, made if there is none. Default: main."})
    commit_message: str = field(default="Upload model", metadata={"help": "Message of the commit."})
    hub_token: str | None = field(
        default=None,
        repr=False,
        metadata={"help": "Token that may write. Default: that of HF_TOKEN or of `hf auth login`, which is safer."},
    )


def push(args: PushArguments) -> dict[str, Any]:
    """Do what `scripts/push_to_hub.py` does, and print how the model is loaded from there.

    Args:
        args: What is pushed, and where.

    Returns:
        `repo_id`, `revision` (the commit's hash) and `files`.

    Raises:
        ValueError: If the weights are not those that the configuration asks for; nothing is pushed.
    """
    files = shared_files(args.model)
    model_type = PreTrainedConfig.get_config_dict(args.model)[0].get("model_type", "")
    if model_type.startswith("multimodal_"):
        AutoModel.from_pretrained(args.model)  # refuses weights that are missing, left over or not finite
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
