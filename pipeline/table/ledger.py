"""Ledger: what a table holds already, so that a run works on the rest."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.source.keys import KeySet


@dataclass(frozen=True, kw_only=True)
class TableContents:
    """What one scan of a table found, seen from a run's model and settings. Every row has its own key in the sets."""

    inputs: KeySet
    """All rows (`INPUT_KEY`)."""
    sound: KeySet
    """Rows of the run's model and settings that are no errors (`VERSION_KEY`)."""
    failed: KeySet
    """Rows of the run's model and settings that are errors (`VERSION_KEY`)."""
    others: dict[tuple[str, str], KeySet]
    """Rows of other models or settings (`VERSION_KEY`), by their model and settings."""

    def done(self, retry_errors: bool) -> KeySet:
        """The versions that a run need not work on."""
        if retry_errors or not len(self.failed):
            return self.sound
        return KeySet([self.sound.keys, self.failed.keys])

    def outdated(self, listed: KeySet, pending: int) -> bool:
        """Whether a row found here is not current any more once the pending inputs among the ``listed`` have new rows.

        ``listed`` (`INPUT_KEY`) has each input once. One that is not pending has its current row here, so every row
        beyond one for each of those is an older one: of another version, model or settings, or of a retried error.
        """
        return int(listed.contains(self.inputs.keys).sum()) != len(listed) - pending
