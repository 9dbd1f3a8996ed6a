"""What `segment_documents` changes of a package's task: nothing that was not given."""

from __future__ import annotations

import dataclasses

from jobs.segment_documents import SegmentDocuments
from pipeline.text.reconstruction import PARAGRAPHS
from pipeline.text.task import DECODING


def test_settings_that_are_not_given_stay_those_of_the_package() -> None:
    settings = SegmentDocuments(source="inbox", sink="sink")
    assert [getattr(settings, name) for name in DECODING] == [None] * len(DECODING)
    for task in PARAGRAPHS:
        assert {*DECODING} <= {field.name for field in dataclasses.fields(task)}
