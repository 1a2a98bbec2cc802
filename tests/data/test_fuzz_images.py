"""A few hundred of the mutated images that `fuzz_images.py` draws without end."""

from fuzz_images import fuzz


def test_mutated_images_open_or_are_refused_by_a_documented_error() -> None:
    counts = fuzz(seconds=120, seed=0, most=300)
    assert counts["mutations"] == 300
    assert min(counts[name] for name in ("result", "truncated", "not an image", "out of range")) > 5


def test_the_same_seed_meets_the_same_mutations() -> None:
    assert fuzz(seconds=120, seed=7, most=20) == fuzz(seconds=120, seed=7, most=20)
