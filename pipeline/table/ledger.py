"""The ledger: which results a table already has, so that a run computes only the others."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.source.keys import KeySet


@dataclass(frozen=True, kw_only=True)
class TableContents:
    """The keys of all rows of a table, as a run with one model and its settings needs them. Every row has a key."""

    inputs: KeySet
    """All rows, by `INPUT_KEY`."""
    sound: KeySet
    """Rows of the run's model and settings without an error, by `VERSION_KEY`."""
    failed: KeySet
    """Rows of the run's model and settings with an error, by `VERSION_KEY`."""
    others: dict[tuple[str, str], KeySet]
    """Rows of other models or settings, by `VERSION_KEY`, for each (model, settings)."""

    def done(self, retry_errors: bool) -> KeySet:
        """The versions of inputs that a run need not process."""
        if retry_errors or not len(self.failed):
            return self.sound
        return KeySet([self.sound.keys, self.failed.keys])

    def outdated(self, listed: KeySet, pending: int) -> bool:
        """Whether the table will have rows that are not current, after the pending inputs have got new rows.

        ``listed`` (`INPUT_KEY`) has each input once, and ``pending`` is the number of those to process. A listed input
        that is not pending has its current row in the table. So if the listed inputs have more rows than that, some
        row is an older one: of another version, model or settings, or of an error that is retried.
        """
        return int(listed.contains(self.inputs.keys).sum()) != len(listed) - pending
