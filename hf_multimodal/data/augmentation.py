"""Light image augmentation that is a pure function of (seed, epoch, example index)."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from hf_multimodal.models.processing_multimodal import upright


@dataclass(frozen=True)
class ImageAugmentation:
    """Random resized crop, horizontal flip and light colour jitter of one image.

    No generator is kept and no global one is touched: the same (seed, epoch, index) gives the same image in any
    worker, on any rank and after a resume. Colour is changed in RGB and grey images only; the other modes
    (palette, alpha, 16 bit) are cropped and flipped, and left to the processor's conversion otherwise.

    Args:
        seed: Seed of the run.
        min_area: Smallest share of the image's area that a crop keeps.
        max_aspect: Largest change of the aspect ratio by the crop; 1.33 means between 3:4 and 4:3 of the original.
        flip_probability: Share of the images that are mirrored. Set it to 0 where left and right carry the label.
        colour: Brightness, contrast and saturation are each multiplied by a factor from [1 - colour, 1 + colour].

    Example:

    >>> augment = ImageAugmentation(seed=0)
    >>> image = Image.effect_noise((32, 24), 64)
    >>> first, again, later = (augment(image, epoch, index=7) for epoch in (0, 0, 1))
    >>> first.tobytes() == again.tobytes(), first.tobytes() == later.tobytes()
    (True, False)
    """

    seed: int = 42
    min_area: float = 0.6
    max_aspect: float = 4 / 3
    flip_probability: float = 0.5
    colour: float = 0.2

    def __call__(self, image: Image.Image, epoch: int, index: int) -> Image.Image:
        """Augment an image; its size stays as it was.

        Args:
            image: A loaded image of any mode.
            epoch: Number of the epoch, from 0.
            index: Position of the example in its source.

        Returns:
            A new image of the same mode and, after EXIF rotation, of the same size.
        """
        draw = np.random.default_rng([self.seed, epoch, index])
        image = upright(image)  # before the crop, which drops the EXIF tag
        width, height = image.size
        area = draw.uniform(self.min_area, 1.0)
        stretch = math.exp(draw.uniform(-1, 1) * math.log(self.max_aspect) / 2)
        crop_width = max(1, min(width, round(width * math.sqrt(area) * stretch)))
        crop_height = max(1, min(height, round(height * math.sqrt(area) / stretch)))
        left = int(draw.integers(0, width - crop_width + 1))
        top = int(draw.integers(0, height - crop_height + 1))
        flip = draw.random() < self.flip_probability
        brightness, contrast, saturation = draw.uniform(1 - self.colour, 1 + self.colour, size=3)

        smooth = InterpolationMode.NEAREST if image.mode in ("1", "P") else InterpolationMode.BILINEAR
        image = F.resized_crop(image, top, left, crop_height, crop_width, size=[height, width], interpolation=smooth)
        if flip:
            image = F.horizontal_flip(image)
        if image.mode in ("RGB", "L"):
            image = F.adjust_brightness(image, brightness)
            image = F.adjust_contrast(image, contrast)
            image = F.adjust_saturation(image, saturation) if image.mode == "RGB" else image
        return image
