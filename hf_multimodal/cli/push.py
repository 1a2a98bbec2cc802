"""hf-multimodal push --model runs/unique --repo_id me/unique

Push a run's folder to the Hub.
"""

import json
from typing import Any

from transformers import AutoModel, PreTrainedConfig

from hf_multimodal.cli.command_line import CommandLine
from hf_multimodal.cli.commands import COMMANDS
from hf_multimodal.hub.files import shared_files
from hf_multimodal.hub.upload import push_folder


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run the command, and print how the model is loaded from there.

    Args:
        argv: Flags; None means those of the process.

    Returns:
        `repo_id`, `revision` (the commit's hash) and `files`.

    Raises:
        ValueError: If the weights are not those that the configuration asks for; nothing is pushed.
    """
    args = CommandLine(COMMANDS["push"], argv).parse().push
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
