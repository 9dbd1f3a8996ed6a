"""Convert labels in colours, masks of 0 and 255, or numbered instances to 8-bit class ids."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from jobs.cli import main
from jobs.console import say
from jobs.failures import name_failures
from pipeline import storage
from pipeline.config import check
from pipeline.errors import InputError, RequestError
from pipeline.images.conversion import Form, convert_label
from pipeline.images.labels import LabelRules, read_classes
from pipeline.rows import FailedInput, by_code
from pipeline.storage import StorageConfig


@dataclass(frozen=True, kw_only=True)
class ConvertLabels:
    """Convert labels in colours, masks of 0 and 255, or numbered instances to 8-bit class ids."""

    labels: str
    """Folder of label files: all PNG files in it and below it."""
    out: str
    """Folder for the converted labels, which get the same names; neither it nor labels may be in the other."""
    form: Form
    """What pixels are: rgb, the colour of their class; mask, 0 or 255 for class 0 or 1; instances, 0 for class 0 or the
    number of an instance for class 1."""
    classes: str | None = None
    """Labelled folder whose classes.json names the classes and their colours. Needed for rgb; null: black and white."""
    storage: StorageConfig = field(default_factory=StorageConfig)

    def __post_init__(self) -> None:
        check(self, "classes", self.classes is not None or self.form != "rgb", "be given for labels in colours")
        # What is written must neither be listed as a label nor replace one.
        apart = not storage.is_within(self.out, self.labels) and not storage.is_within(self.labels, self.out)
        check(self, "out", apart, "be another folder than labels, neither in the other")


def work(settings: ConvertLabels) -> dict[str, Any]:
    rules = None if settings.classes is None else LabelRules(**read_classes(settings.classes))
    if rules is not None:
        rules = dataclasses.replace(rules, labels="rgb")
        rules.check()
    if settings.form != "rgb" and rules is not None and len(rules.classes) != 2:
        raise RequestError(f"form {settings.form!r} gives two classes, but classes.json has {len(rules.classes)}")
    if not storage.is_folder(settings.labels):
        raise RequestError(f"labels {settings.labels!r}: no such folder")
    above, written, failed = storage.canonical(settings.labels), 0, []
    for page in storage.walk(settings.labels):
        for uri in page["uri"].to_pylist():
            if not uri.lower().endswith(".png"):
                continue
            try:
                data = convert_label(storage.fetch(uri, storage.Read(max_bytes=1 << 30)), settings.form, rules)
            except InputError as reason:
                failed.append(FailedInput(uri=uri, member=None, label=None, code=reason.code, message=reason.message))
                continue
            storage.write(storage.join(settings.out, uri.removeprefix(above).lstrip("/")), data)
            written += 1
    if not written:
        first = f": {failed[0]}" if failed else ", there is no PNG file"
        raise RequestError(f"labels {settings.labels!r}: none could be converted{first}")
    if failed:
        say(f"{len(failed)} labels could not be converted: {by_code(failed)}")
        name_failures([("labels", item) for item in failed], settings.out)
    out = storage.canonical(settings.out)
    return {"status": "done", "labels": above, "out": out, "converted": written, "failed": by_code(failed)}


if __name__ == "__main__":
    main(ConvertLabels, work)
