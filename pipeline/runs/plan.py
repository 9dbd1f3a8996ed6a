"""What a run is to do: its settings, and all that they decide."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.config import check, number_range, to_dict
from pipeline.package import Package
from pipeline.runs.cluster import ClusterConfig
from pipeline.runs.settings import described_settings, settings_digest
from pipeline.source.fetch import FetchConfig
from pipeline.source.selection import Selection
from pipeline.table.schema import TableSchema
from pipeline.task import Task


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    limit: int | None = None
    """Largest number of inputs to process, not counting those that the table already has; null: all."""
    retry_errors: bool = False
    """Also process inputs whose row in the table is an error."""
    max_error_rate: float = 0.1
    """Stop if a larger fraction of the inputs processed so far has failed, and more than error_floor of them."""
    error_floor: int = 50
    """Number of failed inputs up to which a run is never stopped."""
    superseded: Literal["remove", "keep"] = "remove"
    """Whether older rows of the inputs that this run listed are removed from the table at the end, or kept."""
    compact: Literal["auto", "never"] = "auto"
    """auto: at the end, join small files of the table if the model has 100 or more below 32 MiB, to files of up to 128
    MiB. The command compact does the same at any time."""
    lease_s: float = 30.0
    """Seconds without renewal after which the lease of a run on another machine counts as abandoned."""
    commit_s: float = 5.0
    """Seconds between commits to the table."""
    time_limit_s: float | None = None
    """Seconds after which the run stops cleanly, with exit code 5, and leaves the rest to the next one; null: no
    limit."""
    stall_timeout_s: float = 900.0
    """Seconds without a finished part file after which the run fails."""

    def __post_init__(self) -> None:
        check(self, "limit", self.limit is None or self.limit >= 1, "be at least 1, or null")
        check(self, "max_error_rate", 0 <= self.max_error_rate <= 1, "be in [0, 1]")
        check(self, "error_floor", self.error_floor >= 0, "not be negative")
        check(self, "lease_s", self.lease_s > 0, "be positive")
        check(self, "commit_s", self.commit_s >= 0, "not be negative")
        check(self, "time_limit_s", self.time_limit_s is None or self.time_limit_s > 0, "be positive, or null")
        check(self, "stall_timeout_s", self.stall_timeout_s > 0, "be positive")


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device on which models run; auto: GPUs if the cluster has any or can get any, otherwise CPUs."""
    actors: str | int | None = None
    """Largest number of actors with a model, or MIN:MAX (in YAML "MIN:MAX", with the quotes): at least MIN are asked
    for. null: as many as the cluster has GPUs, or CPUs, and nodes that join are used, too."""
    gpus_per_actor: float = 1.0
    """GPUs that an actor takes, at most 1. With 0.5 two actors share a GPU, and one computes while the other waits."""
    gpu_wait_s: float = 600.0
    """For device auto: seconds without any GPU after which CPUs are used until a GPU joins."""
    engine: Literal["float32", "bfloat16", "auto"] = "float32"
    """Precision of the network: float32; bfloat16, which new processors and GPUs compute faster; auto: bfloat16 if on
    the first inputs it is faster and keeps the masks, and what earlier runs of the sink took with this model."""
    engine_tolerance: float = 0.005
    """For engine auto: largest share of the pixels that may get another class than with float32."""
    batch_rows: int = 16
    """Number of rows in one forward pass of the model. Results do not depend on it."""
    block_rows: int = 128
    """Largest number of rows in one block, and so in one part file."""
    block_bytes: int = 64 << 20
    """Largest number of bytes in one block, by the sizes in the listing."""
    deadline_s: float = 120.0
    """Seconds that one stage after the download may take for one input. If it takes longer, its worker is killed, and
    the input fails as timeout."""
    fetch: FetchConfig = field(default_factory=FetchConfig)
    """Settings of downloads."""

    def __post_init__(self) -> None:
        for name in ("batch_rows", "block_rows", "block_bytes"):
            check(self, name, getattr(self, name) >= 1, "be at least 1")
        check(self, "gpu_wait_s", self.gpu_wait_s >= 0, "not be negative")
        check(self, "engine_tolerance", 0 <= self.engine_tolerance <= 1, "be in [0, 1]")
        check(self, "deadline_s", self.deadline_s > 0, "be positive")
        rule = "be a number or MIN:MAX, at least 1, or null"
        check(self, "actors", self.actors is None or number_range(self.actors) is not None, rule)
        check(self, "gpus_per_actor", 0 < self.gpus_per_actor <= 1, "be in (0, 1]")

    def actor_range(self) -> tuple[int, int | None]:
        """The least and the largest number of actors; None: as many as there is room for."""
        if self.actors is None:
            return 1, None
        found = number_range(self.actors)
        assert found is not None, "checked above"
        return found if ":" in str(self.actors) else (1, found[1])


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run is to do. It does not change during the run."""

    task: Task
    package: Package
    sources: tuple[str, ...]
    sink: str
    config: RunConfig
    stream: StreamConfig
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    selection: Selection = field(default_factory=Selection)
    """Which of the listed inputs the run takes."""

    @property
    def settings(self) -> str:
        """The digest of the settings, which all rows of the run carry."""
        return settings_digest(self.task, self.stream.fetch.max_bytes, self.stream.engine)

    @property
    def schema(self) -> TableSchema:
        """The schema of the table for this version of the task."""
        task = self.task
        return TableSchema.of(
            task.schema,
            result=task.result,
            huggingface_features=task.huggingface_features,
            stored_as_is=task.stored_as_is,
            description={"kind": task.kind, "model": self.package.digest, **task.description},
        )

    def described(self) -> dict[str, Any]:
        """The content of the run's ``config.json``."""
        assert self.stream.engine != "auto", "see `pipeline.distributed.engine_trial.decided`"
        return {
            "run": to_dict(self.config),
            "stream": to_dict(self.stream),
            "task": to_dict(self.task),
            "results": self.task.results,
            "package": self.package.uri,
            "digest": self.package.digest,
            "settings": self.settings,
            "source": list(self.sources),
            **({"selection": True} if self.selection.is_partial else {}),
        }

    def described_settings(self) -> dict[str, Any]:
        """All settings behind the digest."""
        return described_settings(self.task, self.stream.fetch.max_bytes, self.stream.engine)
