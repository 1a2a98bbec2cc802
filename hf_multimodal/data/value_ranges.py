"""What the values of the images of a data set say of the range that they are scaled from."""

from dataclasses import dataclass, field

from hf_multimodal.models.processing_multimodal import ImageValues


@dataclass
class ValueRanges:
    """Keep images' lowest and highest values, and find a range that is too wide or has no use.

    Args:
        stated: The `image_value_range` that was stated.

    Example:

    >>> ranges = ValueRanges()
    >>> ranges.add("scan.png", ImageValues(12, 4011, 0, 65535))
    >>> print(ranges.warning)
    1 of 1 images that are not of 8 bits use under a tenth of their range: their values are 12 to 4011, their range \
is 0 to 65535, such as 'scan.png'. They come out nearly of one grey. If fewer bits are in use, state so in training: \
--image_value_range 0 4095 (image_value_range of the processor).
    """

    stated: tuple[float, float] | None = None
    images: int = 0
    in_range: int = 0
    narrow: dict[str, ImageValues] = field(default_factory=dict)

    def add(self, name: str, values: ImageValues | None) -> None:
        """Take note of an image.

        Args:
            name: What it is called.
            values: From `verify_image`; None for one of 8 bits.
        """
        self.images += 1
        self.in_range += values is not None
        if values is not None and values.is_narrow:
            self.narrow[name] = values

    @property
    def warning(self) -> str | None:
        """What is odd, with the remedy; None if nothing is."""
        if self.narrow:
            found = list(self.narrow.values())
            lowest, highest = min(values.lowest for values in found), max(values.highest for values in found)
            first = next(iter(self.narrow))
            low, high = found[0].low, found[0].high
            whole = all(float(end).is_integer() for end in (lowest, highest))
            remedy = f"0 {2 ** int(highest).bit_length() - 1}" if whole and 0 <= lowest < highest else "LOWEST HIGHEST"
            return (
                f"{len(found)} of {self.in_range} images that are not of 8 bits use under a tenth of their range: "
                f"their values are {lowest:.8g} to {highest:.8g}, their range is {low:.8g} to {high:.8g}, such as "
                f"{first!r}. They come out nearly of one grey. If fewer bits are in use, state so in training: "
                f"--image_value_range {remedy} (image_value_range of the processor)."
            )
        if self.stated is not None and self.images and not self.in_range:
            low, high = self.stated
            return (
                f"image_value_range {low:.8g} to {high:.8g} has no effect: all {self.images} images are of 8 bits, "
                "which always span 0 to 255."
            )
        return None
