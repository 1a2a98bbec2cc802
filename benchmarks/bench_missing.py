"""python benchmarks/bench_missing.py [--rows 64] [--repeats 9]

What a training step of the robust classifier costs when 70 % of its examples lack their image or their text, beside
the same step on complete examples and the share of vision and text work that is really there. Models of the sizes of
DeiT-tiny and MiniLM-L6 with random weights; the two kinds of step are measured in turn in one process.
"""

import argparse
import statistics
import time

import torch
from transformers import BertConfig, ViTConfig

from hf_multimodal import RobustFusionConfig, RobustFusionForImageTextClassification
from hf_multimodal.data.presence import MissingRate, ModalityDropout

VISION = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
TEXT = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    torch.manual_seed(0)
    config = RobustFusionConfig(vision_config=ViTConfig(**VISION), text_config=BertConfig(**TEXT), num_labels=4)
    model = RobustFusionForImageTextClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    batch = {
        "pixel_values": torch.randn(args.rows, 3, 224, 224),
        "input_ids": torch.randint(1000, 30000, (args.rows, 32)),
        "attention_mask": torch.ones(args.rows, 32, dtype=torch.long),
        "labels": torch.randint(0, 4, (args.rows,)),
    }
    complete = torch.ones(args.rows, 2, dtype=torch.long)
    present = torch.from_numpy(MissingRate("both", 0.7).draw(args.rows, seed=0)).long()
    modality_dropout = ModalityDropout(seed=0)

    def step(mask: torch.Tensor) -> float:
        start = time.perf_counter()
        fusion_mask = modality_dropout(0, torch.arange(args.rows), mask)
        model(**batch, modality_mask=mask, fusion_mask=fusion_mask).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    def work(image: bool) -> float:
        """Seconds of the forward and backward pass of one inner model over all rows."""
        start = time.perf_counter()
        inputs = {"pixel_values": batch["pixel_values"]} if image else {"input_ids": batch["input_ids"]}
        inner = model.vision_model if image else model.text_model
        inner(**inputs).last_hidden_state.mean().backward()
        optimizer.zero_grad()
        return time.perf_counter() - start

    measured: dict[str, list[float]] = {"complete": [], "incomplete": [], "vision": [], "text": []}
    for repeat in range(args.repeats + 1):
        seconds = {
            "complete": step(complete),
            "incomplete": step(present),
            "vision": work(image=True),
            "text": work(image=False),
        }
        if repeat:  # the first warms up
            for name, value in seconds.items():
                measured[name].append(value)
    vision, text = statistics.median(measured["vision"]), statistics.median(measured["text"])
    image_rate, text_rate = present.float().mean(dim=0).tolist()
    share = (image_rate * vision + text_rate * text) / (vision + text)
    ratios = [b / a for a, b in zip(measured["complete"], measured["incomplete"], strict=True)]
    ratio = statistics.median(ratios)
    print(f"images in {image_rate:.1%}, texts in {text_rate:.1%} of {args.rows} rows")
    print(f"share of the vision and text work that is there: {share:.3f}")
    print(f"step on incomplete rows / on complete rows: {ratio:.3f} (from {min(ratios):.3f} to {max(ratios):.3f})")
    print(f"over the share: {ratio / share:.3f}, at most 1.08")


if __name__ == "__main__":
    main()
