"""What `segment_documents` changes of a package's task: nothing that was not given."""

from __future__ import annotations

import dataclasses

from jobs.segment_documents import TASK_SETTINGS, SegmentDocuments
from pipeline.text.reconstruction import PARAGRAPHS


def test_settings_that_are_not_given_stay_those_of_the_package() -> None:
    settings = SegmentDocuments(source="inbox", sink="sink")
    assert [getattr(settings, name) for name in TASK_SETTINGS] == [None] * len(TASK_SETTINGS)
    for task in PARAGRAPHS:
        assert {*TASK_SETTINGS} <= {field.name for field in dataclasses.fields(task)}
