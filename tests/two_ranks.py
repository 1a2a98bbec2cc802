"""Run by `torchrun` in test_distributed.py: a training run, then a look at what the workers of each rank saw."""

import json
import sys
from pathlib import Path

import torch
from PIL import Image
from transformers import TrainerCallback

from hf_multimodal import MultimodalCollator, MultimodalTrainingArguments
from hf_multimodal.cli.train_fusion import main as train
from hf_multimodal.inference.prediction import load_model
from hf_multimodal.synthetic.classification import make_controlled
from hf_multimodal.training.trainer import MultimodalTrainer


def paint(image: Image.Image, epoch: int, index: int) -> Image.Image:
    """Show a worker's epoch and example as a colour; the images of the tests are not normalised."""
    return Image.new("RGB", (32, 32), (epoch, index, 0))


class Watch(TrainerCallback):
    """Keep the colours of every batch."""

    def __init__(self) -> None:
        self.seen: list[list[list[int]]] = []

    def on_epoch_begin(self, *args: object, **kwargs: object) -> None:
        self.seen.append([])


class WatchingTrainer(MultimodalTrainer):
    watch = Watch()

    def training_step(self, model, inputs, *args, **kwargs):  # type: ignore[no-untyped-def]
        colours = (inputs["pixel_values"][:, :2, 0, 0] * 255).round().long()
        self.watch.seen[-1] += colours.tolist()
        return super().training_step(model, inputs, *args, **kwargs)


def look(folder: str, output_dir: str) -> None:
    """Train three epochs with workers that live on; write down which epoch and examples this rank's workers saw."""
    model, processor = load_model(folder)
    args = MultimodalTrainingArguments(
        output_dir,
        use_cpu=True,
        num_train_epochs=3,
        per_device_train_batch_size=4,
        dataloader_num_workers=2,
        dataloader_persistent_workers=True,
        remove_unused_columns=False,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = WatchingTrainer(
        model=model,
        args=args,
        data_collator=MultimodalCollator(processor, augment=paint),
        train_dataset=make_controlled("unique", size=24),
        callbacks=[WatchingTrainer.watch],
    )
    trainer.train()
    report = {"world_size": args.world_size, "seen": WatchingTrainer.watch.seen}
    Path(output_dir, f"rank_{args.process_index}.json").write_text(json.dumps(report))


if __name__ == "__main__":
    output, *flags = sys.argv[1:]
    train([*flags, "--output_dir", f"{output}/run"])
    torch.distributed.barrier()
    Path(output, "look").mkdir(exist_ok=True)
    look(f"{output}/run", f"{output}/look")
    torch.distributed.destroy_process_group()
