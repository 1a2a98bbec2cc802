"""Command-line arguments that say where examples come from; every script has them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hf_multimodal.data.checks import (
    POLICIES,
    BadSample,
    BadSamplesError,
    check_splits,
    first_reasons,
    write_bad_samples,
)
from hf_multimodal.data.counts import presence
from hf_multimodal.data.labels import PROBLEM_TYPES
from hf_multimodal.data.loading import LoadedData, load_data
from hf_multimodal.data.value_ranges import ValueRanges
from hf_multimodal.models.processing_multimodal import check_value_range
from hf_multimodal.validation import check_choice

logger = logging.getLogger(__name__)


@dataclass
class SourceArguments:
    """Where the examples come from, and how they are read and split."""

    data: str | None = field(
        default=None,
        metadata={
            "help": "A CSV, TSV, JSONL or Parquet table; a folder (with metadata.csv, with train.csv and test.csv, in "
            "the sidecar-text layout, or saved by datasets); a Hub data set; or controlled:<task>."
        },
    )
    image_column: str | None = field(
        default=None, metadata={"help": "Column of image paths. Default: image, image_path or file_name."}
    )
    text_column: str | None = field(
        default=None, metadata={"help": "Column of texts. Default: text; of pairs, caption first."}
    )
    label_column: list[str] | None = field(
        default=None,
        metadata={"help": "Column of labels. Default: label. Several columns are one of 0 and 1 for each label."},
    )
    id_column: str | None = field(
        default=None, metadata={"help": "Column of ids. Default: id or guid, else the row number."}
    )
    image_root: str | None = field(default=None, metadata={"help": "Folder that image paths are relative to."})
    encoding: str | None = field(default=None, metadata={"help": "Encoding of the texts. Default: found out."})
    data_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    problem_type: str | None = field(
        default=None, metadata={"help": f"One of {', '.join(PROBLEM_TYPES)}. Default: from the labels."}
    )
    split_seed: int = field(default=42, metadata={"help": "Seed of the splits that are made."})
    no_stratify: bool = field(
        default=False, metadata={"help": "Test split as scikit-learn's plain train_test_split over the table's order."}
    )
    group_duplicates: bool = field(
        default=False, metadata={"help": "Keep equal images and equal texts on one side of a split."}
    )
    on_bad_sample: str = field(
        default="error", metadata={"help": f"One of {', '.join(POLICIES)}: what happens to an unreadable one."}
    )
    max_predict_samples: int | None = field(default=None, metadata={"help": "Use only the first N test examples."})

    def __post_init__(self) -> None:
        check_choice("on_bad_sample", self.on_bad_sample, POLICIES)
        if self.problem_type is not None:
            check_choice("problem_type", self.problem_type, PROBLEM_TYPES)

    def load(self, **options: Any) -> LoadedData:
        """Load the data.

        Args:
            options: Further arguments of `load_data`.

        Returns:
            The data as the source gives them, neither split further nor checked.

        Raises:
            ValueError: If no data were named.
        """
        if self.data is None:
            raise ValueError("data is needed: a table, a folder, a Hub data set, or controlled:<task>.")
        if self.max_predict_samples is not None:
            wanted = options.get("splits") or ["test"]  # of a controlled task; the others are cut later
            options |= {f"{split}_size": self.max_predict_samples for split in wanted}
        return load_data(
            self.data,
            image_column=self.image_column,
            text_column=self.text_column,
            label_column=self.label_column,
            id_column=self.id_column,
            image_root=self.image_root,
            encoding=self.encoding,
            config_name=self.data_config,
            **{"problem_type": self.problem_type, **options},
        )

    def check(
        self,
        data: LoadedData,
        modality: str,
        listing: Path | None,
        *,
        prediction: bool = False,
        refuse: bool = True,
        image_value_range: Any = None,
    ) -> tuple[LoadedData, list[BadSample]]:
        """Check all rows under the policy `on_bad_sample`.

        Args:
            data: As loaded and split.
            modality: `both`, `image` or `text`; files of a modality that is not read are not opened.
            listing: File that lists all bad samples if the policy refuses some; None lists none.
            prediction: Check for prediction, which needs no label.
            refuse: Whether errors are raised; if not, their rows are left out.
            image_value_range: Of the processor that will read the images.

        Returns:
            The checked data, whose report says under `image_values` what is odd about the images' ranges, and the
            bad samples that the policy let pass.

        Raises:
            BadSamplesError: If the policy refuses some; the message names the first of them.
            ValueError: If it lets bad samples pass and not one of several images was found, or a split is left
                without rows; the message names the first of them.
        """
        try:
            ranges = ValueRanges(check_value_range(image_value_range))
            options: dict[str, Any] = {"prediction": prediction, "refuse": refuse, "value_ranges": ranges}
            checked, samples = check_splits(data, policy=self.on_bad_sample, modality=modality, **options)
        except BadSamplesError as error:
            raise _listed(error, error.samples, listing) from None
        gone = [
            sample.value
            for sample in samples
            if (sample.action, sample.column) == ("missing", data.columns.get("image"))
            and sample.reason.endswith("there is no such file")
        ]
        if len(gone) > 1 and not any(presence(rows)[:, 0].any() for rows in checked.splits.values()):
            message = (
                f"{self.data}: none of its {len(gone)} images was found, such as {gone[0]!r}: name the "
                f"folder that the paths are relative to with --image_root.{first_reasons(samples)}"
            )
            raise _listed(ValueError(message), samples, listing)
        for split, rows in checked.splits.items():
            if not len(rows):
                reasons = first_reasons(samples, data.splits[split], data.sources.get(str(split)))
                message = f"{self.data}: no usable row is left in the split {str(split)!r}.{reasons}"
                raise _listed(ValueError(message), samples, listing)
        if ranges.warning is not None:
            checked = replace(checked, report={**checked.report, "image_values": ranges.warning})
            if refuse:  # a dry run has it in its report
                logger.warning("%s", ranges.warning)
        return checked, samples

    @property
    def split_options(self) -> dict[str, Any]:
        """The arguments of `complete_splits`."""
        return {
            "seed": self.split_seed,
            "stratify": not self.no_stratify,
            "group_duplicates": self.group_duplicates,
        }


def _listed(error: ValueError, samples: Sequence[BadSample], listing: Path | None) -> ValueError:
    """The error, whose bad samples are all written to a file where one is named."""
    if listing is not None:
        listing.parent.mkdir(parents=True, exist_ok=True)
        write_bad_samples(listing, samples)
        error.add_note(f"All are listed in {listing}.")
    return error
