"""What a training sends to the Hub."""

import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress

from hf_multimodal.hub.files import shared_files
from hf_multimodal.hub.storage import replaced_files
from hf_multimodal.hub.upload import push_folder


class SharingTrainer(Trainer):
    """A `Trainer` whose `push_to_hub` sends what `shared_files` names, and nothing else of the folder.

    The card that stands in the folder goes with it; the token stays here.
    """

    push_in_progress: PushInProgress | None

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository, unless its checkpoints would have to be pushed as they are."""
        allowed = ["end", "every_save"] if isinstance(self.model, PreTrainedModel) else ["end"]
        if self.args.hub_strategy not in allowed:
            raise ValueError(
                f"hub_strategy must be one of {allowed}, got {HubStrategy(self.args.hub_strategy).value!r}: "
                "checkpoints hold optimizer states, which are pickles and not shared, and with LoRA no whole model."
            )
        super().init_hf_repo(token, private)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Draft a card as `Trainer` does, unless one that is not such a draft stands in the folder."""
        card = Path(self.args.output_dir, "README.md")
        if not card.is_file() or "generated_from_trainer" in card.read_text(encoding="utf-8"):
            super().create_model_card(*args, **kwargs)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save and push model, processor and card, as `Trainer` does, and nothing else of the folder.

        Args:
            commit_message: Of the commit.
            blocking: Return only when all is pushed.
            token: Token that may write; None means `args.hub_token`.
            revision: Branch; None means `args.hub_revision`.
            private: Whether a new repository is private; None means `args.hub_private_repo`.
            kwargs: Of `create_model_card`.

        Returns:
            A `huggingface_hub.CommitInfo`, or a future of it; None on all ranks but the first.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**{"model_name": self.hub_model_id.split("/")[-1], **kwargs})
        self._finish_current_push()
        return self._push(commit_message or "End of training", not blocking, token, revision)

    def _push(self, message: str, in_background: bool, token: str | None = None, revision: str | None = None) -> Any:
        return push_folder(
            self.args.output_dir,
            self.hub_model_id,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            commit_message=message,
            run_as_future=in_background,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push the model of a checkpoint in the background, from a copy: the checkpoint may soon be removed."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            return
        self._finish_current_push()
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        with replaced_files(str(self.args.output_dir), last="config.json") as new:
            for name in shared_files(checkpoint_folder):
                shutil.copy2(Path(checkpoint_folder, name), new)
        push = self._push(f"Training in progress, step {self.state.global_step}", in_background=True)
        self.push_in_progress = PushInProgress([push])
