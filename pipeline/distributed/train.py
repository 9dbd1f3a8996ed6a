"""Distributed training: `pipeline.training.trainer` on Ray Train, with workers, checkpoints, resuming and progress.

Everything is stored below ``out``: the model package, ``checkpoints/``, ``prepared/`` samples, ``tensorboard/``,
``history.jsonl`` (losses of each step), ``metrics.jsonl`` (of each evaluation) and ``training.json``. The latter
describes the training, so that the same command resumes it and another command is refused. A checkpoint is one
safetensors file, which is written atomically; nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch
from ray.train.v2._internal.execution.context import get_train_context
from torch import Tensor, nn

from pipeline import config as settings_of
from pipeline import models, package, storage
from pipeline.config import check, number_range
from pipeline.distributed.places import PlaceNotShared, UnfitNode, mark, unfit_node
from pipeline.distributed.preparation import Prepared
from pipeline.distributed.progress import AT_WORK, FINISHED, Receiver, Sender
from pipeline.distributed.session import capacity, cluster_size, described_cluster, release_actors
from pipeline.errors import RequestError
from pipeline.json_text import to_json
from pipeline.package import Package
from pipeline.runs.cluster import ClusterConfig
from pipeline.runs.life import read_json, store_json
from pipeline.runs.settings import differences
from pipeline.storage.fsspec_store import filesystem_of
from pipeline.table.lease import check_place
from pipeline.task import Task
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.trainer import Progress, TrainConfig, Trainer
from pipeline.training.workers import Workers

_LOSSES, _METRICS = "history.jsonl", "metrics.jsonl"
#: What each worker asks for. It does not depend on the nodes that are there when the training begins, since more may
#: come, or there may be none yet. Less than a whole CPU leaves room for Ray's other tasks on a machine with one.
_CPUS_PER_WORKER = 0.9
_RESIZE_S = 60.0  # from one look at whether there is room for more workers to the next
#: What Ray believes of the nodes is up to 20 s old. If a node is gone meanwhile, it waits so long for the missing room
#: before it looks again, by default a minute.
_ROOM_S = "10"
_LEAVING_S = 5.0  # from one checkpoint to the next, from the notice that a node leaves until it does
_ANY_CLUSTER = ClusterConfig(address="auto")
_SILENCE_S = 30.0  # without a sign of the workers, until the driver says what the training waits for


@dataclass(frozen=True, kw_only=True)
class DistributedTrainConfig(TrainConfig):
    workers: str | int = 1
    """Number of workers that share each batch, or MIN:MAX (in YAML "MIN:MAX", with the quotes): as many as the nodes
    have room for, so the training goes on when nodes leave, and takes in those that come. The result does not depend
    on it."""
    gpu: bool | None = None
    """Whether each worker uses a GPU; null: yes if the cluster has enough GPUs for the least number of workers, or
    can get them."""
    threads: int | None = None
    """Number of threads of each worker on CPUs; null: an equal share of the CPUs of its node. With more threads than
    free cores the threads wait for each other."""
    checkpoint_s: float = 60.0
    """Seconds between checkpoints. There is also one after every evaluation that is better than all before."""
    max_failures: int = 8
    """Number of restarts after failures of workers; with more failures the job gives up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = "be a number or MIN:MAX, at least 1 and at most batch_rows"
        found = number_range(self.workers)
        check(self, "workers", found is not None and found[1] <= self.batch_rows, rule)
        check(self, "threads", self.threads is None or self.threads >= 1, "be null or at least 1")
        check(self, "checkpoint_s", self.checkpoint_s >= 0, "not be negative")
        check(self, "max_failures", self.max_failures >= 0, "not be negative")

    def worker_range(self) -> tuple[int, int]:
        """The least and the largest number of workers."""
        found = number_range(self.workers)
        assert found is not None, "checked above"
        return found


@dataclass(frozen=True, kw_only=True)
class CopyWeights:
    """Starts a model from the weights of a package, by ``copy(model, package's model)``. It is sent to the workers."""

    package_uri: str
    package_digest: str
    copy: Callable[[nn.Module, nn.Module], list[str]]
    """Returns the names of the copied tensors."""
    rate: float = 1.0
    """Factor on the learning rate of the copied tensors. With 0 training does not change them."""
    names: tuple[str, ...] = ()
    """The copied tensors, if the factor is not 1. A training that is resumed does not read the package again."""

    @classmethod
    def of(
        cls,
        found: Package,
        copy: Callable[[nn.Module, nn.Module], list[str]],
        *,
        into: nn.Module | None = None,
        rate: float = 1.0,
    ) -> CopyWeights:
        """Load the package once: `RequestError` if its weights are incomplete or of another version.

        ``into`` is a model with the settings of the training. The weights are copied to it once, so that what does not
        fit is a `RequestError` here, and not in a worker. A ``rate`` other than 1 needs it.
        """
        loaded = found.model()
        names = () if into is None else tuple(copy(into, loaded))
        assert names or rate == 1
        names = names if rate != 1 else ()
        return cls(package_uri=found.uri, package_digest=found.digest, copy=copy, rate=rate, names=names)

    def __call__(self, model: nn.Module) -> None:
        found = package.load(self.package_uri)
        if found.digest != self.package_digest:
            raise RequestError(f"model package at {self.package_uri} has changed since the training began")
        self.copy(model, found.model())

    def __repr__(self) -> str:
        rate = "" if self.rate == 1 else f", rate {self.rate}"  # digests of trainings without it stay as they were
        return f"CopyWeights({self.package_digest}, {self.copy.__name__}{rate})"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training, as it is sent to the workers."""

    task: Task
    model_name: str
    model_config: dict[str, Any]
    copies: tuple[CopyWeights, ...]
    """Packages from which the model's weights are copied, one after the other, before training."""
    train: Prepared
    validation: Prepared
    config: DistributedTrainConfig
    out: str
    card: dict[str, Any]

    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on: without workers, threads, checkpoints and devices."""
        config = settings_of.identity(self.config)
        for name in ("workers", "gpu", "threads", "checkpoint_s", "max_failures"):
            config.pop(name, None)
        weights = {"weights": list(self.train.weights)} if len(set(self.train.weights)) > 1 else {}
        return weights | {
            "task": settings_of.identity(self.task),
            "model": [self.model_name, models.identity_of(self.model_name, self.model_config)],
            "copies": repr(self.copies),
            "samples": [Path(self.train.uri).name, Path(self.validation.uri).name],
            "config": config,
        }

    def fingerprint(self) -> str:
        """Digest of the `identity`."""
        return settings_of.digest(self.identity())


def claim(out: str) -> None:
    """`RequestError` if ``out`` cannot be written, or contains a model package that was not trained there."""
    check_place(out, "out")
    if storage.exists(storage.join(out, "config.json")) and not storage.exists(storage.join(out, "training.json")):
        raise RequestError(f"out {out!r} holds a model package that was not trained there; choose another")


def finished(plan: Plan) -> dict[str, Any] | None:
    """The summary of this training if it is finished, else None. `RequestError` if ``out`` has another training."""
    found = read_json(storage.join(plan.out, "training.json"))
    if found is None:
        return None
    if found["fingerprint"] != plan.fingerprint():
        changes = "; ".join(_changes(found, plan)) or "its data or its settings"
        raise RequestError(f"out {plan.out!r} holds another training; choose another. What differs: {changes}")
    labels = found.get("labels")
    if labels != _labels(plan) if labels is not None else plan.train.outdated or plan.validation.outdated:
        raise RequestError(
            f"out {plan.out!r} holds another training; choose another. What differs: label files have changed since"
        )
    summary = found.get("summary")
    if summary is None or not _has_package(plan.out):
        return None
    return summary | {"resumed_from_step": summary["steps"]}


def _has_package(out: str) -> bool:
    """Whether the package is whole. If a power cut has taken a file of it, the training makes it again."""
    try:
        package.load(out).weights()
    except RequestError:
        return False
    return True


def fit(
    plan: Plan,
    say: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
    *,
    cluster: ClusterConfig = _ANY_CLUSTER,
) -> dict[str, Any]:
    """Do a training and return its summary. A training that was interrupted is resumed; a finished one is not repeated.

    The model package is then at ``out``. ``check`` is called twice a second; an exception from it, such as `LeaseLost`,
    ends the training. ``cluster``: the settings of the open session. If it is this machine alone, and for this job
    alone, all workers fit on it, whatever their number. Elsewhere they wait until there are nodes for them.
    """
    done = finished(plan)
    if done is not None:
        return done
    release_actors()
    store_json(storage.join(plan.out, "training.json"), _described(plan))
    config = plan.config
    least, most = config.worker_range()
    gpu = _use_gpus(config, cluster, say)
    cpus = _cpus(least, cluster.is_own)
    storage_path, filesystem = _run_storage(plan.out)
    places = mark(plan.out)
    wanted = f"{least} worker{'s' * (least > 1)} with {cpus:.3g} CPUs{' and a GPU' * gpu} each"
    watch = _Watch(f"at least {wanted}" if least < most else wanted, say)
    receiver = Receiver(watch.hear)
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"plan": plan, "progress": receiver.sender, "places": places},
        scaling_config=ray.train.ScalingConfig(
            num_workers=(least, most) if least < most else most,
            use_gpu=gpu,
            resources_per_worker={"CPU": cpus} | ({"GPU": 1} if gpu else {}),
            elastic_resize_monitor_interval_s=_RESIZE_S,
        ),
        run_config=ray.train.RunConfig(
            name=f"attempt-{int(time.time() * 1000)}",
            storage_path=storage_path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            callbacks=[_Losses(receiver.sender)],
        ),
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if gpu else "gloo"),
    )

    if least < most:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _ROOM_S)

    def check_all() -> None:
        watch.check()
        check()

    try:
        _fit_apart(trainer, check_all)
    finally:
        places.remove()
        receiver.close()
    return json.loads(storage.read(storage.join(plan.out, "training.json")))["summary"]


def _use_gpus(config: DistributedTrainConfig, cluster: ClusterConfig, say: Callable[[str], None]) -> bool:
    """Whether each worker gets a GPU: as the setting says, or if the cluster has enough, or can get them."""
    least, _ = config.worker_range()
    if config.gpu is not None:
        return config.gpu
    has = cluster_size("GPU")
    if has >= least:
        return True
    can_have = capacity(cluster)
    if (can_have.gpus or 0) < least:
        return False
    say(f"training on GPUs: {has:g} are there, and the cluster can have {can_have.gpus:g} ({can_have.source})")
    return True


def _cpus(workers: int, own_cluster: bool) -> float:
    """The CPUs that each worker asks for. Less than usual only where so many workers would never fit otherwise."""
    if not own_cluster:
        return _CPUS_PER_WORKER
    return _CPUS_PER_WORKER * min(1.0, cluster_size("CPU") / workers)


def _fit_apart(trainer: ray.train.torch.TorchTrainer, check: Callable[[], None]) -> None:
    """Run ``trainer.fit`` in a thread. In the main thread it would replace the job's handler of SIGINT."""
    outcome: list[BaseException] = []

    def work() -> None:
        try:
            trainer.fit()
        except BaseException as reason:
            outcome.append(reason)

    thread = threading.Thread(target=work, name="fit", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
        check()
    if outcome:
        raise unfit_node(outcome[0]) or outcome[0]


class _Watch:
    """Hears what the workers tell, and says what the training waits for while none of them is at work."""

    def __init__(self, wanted: str, say: Callable[[str], None]) -> None:
        self._wanted, self._say = wanted, say
        self._blind: UnfitNode | None = None
        self._finished = False
        self._heard = self._said = time.monotonic()

    def hear(self, item: Any) -> None:
        self._heard, self._finished = time.monotonic(), item == FINISHED
        if isinstance(item, UnfitNode):
            self._blind = item
        elif item not in (AT_WORK, FINISHED):
            self._say(item)

    def check(self) -> None:
        """Raises the `UnfitNode` of a worker. Ray Train would only start that worker again."""
        if self._blind is not None:
            raise self._blind
        now = time.monotonic()
        if now - max(self._heard, self._said) >= _SILENCE_S and not self._finished:
            self._said = now
            self._say(
                f"no worker at work for {now - self._heard:.0f} s: the training waits for {self._wanted}; "
                f"{described_cluster()}"
            )


class _Losses(ray.train.UserCallback):
    """Tells which workers were lost. Ray Train calls it in its own process, for the same loss more than once."""

    def __init__(self, progress: Sender) -> None:
        self._progress = progress
        self._told: set[str] = set()

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        for rank, reason in sorted(worker_exceptions.items()):
            if (known := f"{rank} {reason}") not in self._told:
                self._told.add(known)
                self._progress.put(f"worker {rank} of the training has failed: {type(reason).__name__}")


def _described(plan: Plan) -> dict[str, Any]:
    """The content of ``training.json`` when a training begins."""
    known = {"fingerprint": plan.fingerprint(), "identity": plan.identity(), "card": plan.card}
    return known | {"labels": _labels(plan)}


def _labels(plan: Plan) -> list[str | None]:
    """The digests of the labels' versions. Apart from the identity: see `pipeline.distributed.preparation`."""
    return [plan.train.labels, plan.validation.labels]


def _changes(found: dict[str, Any], plan: Plan) -> list[str]:
    """The settings in which the training stored at ``out`` differs from this one."""
    mine = _named(plan.identity())
    if "identity" in found:
        return differences(_named(found["identity"]), mine)
    # Earlier versions did not store the identity, but the model card has the settings of the optimiser.
    known = found["card"].get("training", {})
    return differences({"train": {name: known.get(name) for name in mine["train"]}}, {"train": mine["train"]})


def _named(identity: dict[str, Any]) -> dict[str, Any]:
    """The parts of an identity, by the names of the options that set them."""
    (architecture, model), (training, validation) = identity["model"], identity["samples"]
    return {
        "architecture": architecture,
        "model": model,
        "task": identity["task"],
        "train": identity["config"],
        "init and novelty": identity["copies"],
        "weights": identity.get("weights"),
        "training inputs": training,
        "validation inputs": validation,
    }


def _run_storage(out: str) -> tuple[str, Any]:
    """Where Ray Train stores its own state: a path and an Arrow filesystem."""
    import pyarrow.fs

    folder = storage.join(out, "ray")
    if storage.is_local(out):  # without a filesystem, Ray would take the path for a URL
        return folder, pyarrow.fs.LocalFileSystem()
    fs, path = filesystem_of(folder)
    return path, pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))


class _Group(Workers):
    """The workers of a training, connected by a torch process group."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank, self.size = context.get_world_rank(), context.get_world_size()

    def wrap(self, module: nn.Module) -> nn.Module:
        if self.size == 1:
            return module
        return ray.train.torch.prepare_model(module, parallel_strategy_kwargs={"broadcast_buffers": False})

    def sum(self, tensor: Tensor) -> Tensor:
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor


def _worker(loop_config: dict[str, Any]) -> None:
    plan: Plan = loop_config["plan"]
    progress: Sender = loop_config["progress"]
    try:
        loop_config["places"].check()
    except PlaceNotShared as reason:
        progress.deliver(reason)  # the driver ends the training; Ray Train would try again
        raise
    workers = _Group()
    if workers.rank:
        _train(plan, workers, progress)
        return
    with progress.at_work():
        _train(plan, workers, progress)
    progress.put(FINISHED)


def _train(plan: Plan, workers: _Group, progress: Sender) -> None:
    torch.set_num_threads(plan.config.threads or _share_of_node())
    torch.manual_seed(plan.config.seed)
    model, samples = models.build(plan.model_name, plan.model_config), plan.train.load()
    checkpoints = Checkpoints(storage.join(plan.out, "checkpoints"), plan.fingerprint())
    # One worker chooses for all. A shared disk may show a file to one machine earlier than to another.
    found = checkpoints.newest() if workers.rank == 0 else None
    checkpoint = ray.train.collective.broadcast_from_rank_zero(found)
    if checkpoint is None:
        plan.task.start(model, samples.shuffled(plan.config.seed, plan.config.batch_rows))
        for copy in plan.copies:
            copy(model)
    device = ray.train.torch.get_device()
    rates = {name: copy.rate for copy in plan.copies for name in copy.names}
    trainer = Trainer(plan.task, model, plan.config, samples, plan.validation.load(), device, workers, rates)
    history, metrics = (_History(plan.out, name) for name in (_LOSSES, _METRICS))
    if checkpoint is not None:
        checkpoints.restore(trainer, checkpoint)
    history.load(trainer.step)
    metrics.load(trainer.step)
    first_worker = None
    if workers.rank == 0:
        for damaged in checkpoints.skipped:
            on = f"training goes on from {checkpoint}" if checkpoint else "training begins anew"
            progress.put(f"checkpoint {damaged} is damaged, so {on}")
        first_worker = _FirstWorker(plan, trainer, checkpoints, history, metrics, progress)
    for step in trainer.run():
        if first_worker is not None:
            first_worker.after_step(step)
    if first_worker is not None:
        first_worker.finish()
    # Once, in the end: a report waits until Ray Train's controller asks for it, every two seconds.
    ray.train.report({"step": trainer.step, **trainer.best_metrics})


def _share_of_node() -> int:
    """The number of threads of a worker: an equal share of the CPUs of its node for each worker there."""
    here = ray.get_runtime_context().get_node_id()
    cpus = sum(node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["NodeID"] == here)
    return max(1, int(cpus / ray.train.get_context().get_local_world_size()))


def _notice() -> bool:
    """Whether a node of the training is draining: its cloud or the autoscaler will take it away.

    Ray Train tells each worker so. `ray.train.get_preemption_info` would wait in each call until all workers call it.
    """
    return get_train_context().preemption_context.preemption_info is not None


def save_package(
    plan: Plan,
    model: nn.Module,
    task: Task,
    metrics: dict[str, float],
    *,
    samples: tuple[int, int],
    steps: int,
    resumed: int,
    seconds: float,
) -> dict[str, Any]:
    """Write the package of a trained model, and return the summary of its training.

    ``task``: as it was calibrated; ``samples``: numbers of training and of validation samples; ``seconds``: how long
    the training took.
    """
    card = {**plan.card, "metrics": {f"validation {name}": round(value, 6) for name, value in metrics.items()}}
    card |= {"columns": task.remarks} if task.remarks else {}
    written = package.save(plan.out, model_name=plan.model_name, model=model, task=task, card=card)
    return {
        "status": "done",
        "package": written.uri,
        "digest": written.digest,
        "kind": written.kind,
        "steps": steps,
        "resumed_from_step": resumed,
        "train_samples": samples[0],
        "validation_samples": samples[1],
        "failed_inputs": {"train": plan.train.failed, "validation": plan.validation.failed},
        "missing_classes": {
            "train": plan.train.missing_classes(),
            "validation": plan.validation.missing_classes(),
        },
        "metrics": metrics,
        "columns": task.remarks,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "training_seconds": round(seconds, 3),
    }


def conclude(plan: Plan, summary: dict[str, Any]) -> None:
    """Note that a training is finished; from now on `finished` returns its summary."""
    store_json(storage.join(plan.out, "training.json"), _described(plan) | {"summary": summary})


class _FirstWorker:
    """What only the first worker does: progress, checkpoints, TensorBoard, and the package at the end."""

    def __init__(
        self,
        plan: Plan,
        trainer: Trainer,
        checkpoints: Checkpoints,
        history: _History,
        metrics: _History,
        progress: Sender,
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._plan, self._trainer, self._checkpoints = plan, trainer, checkpoints
        self._history, self._metrics = history, metrics
        self._resumed, self._progress = trainer.step, progress
        self._started = self._last_word = self._last_checkpoint = time.monotonic()
        self._checkpoint_s, self._noticed = plan.config.checkpoint_s, False
        self._logs = tempfile.TemporaryDirectory()
        self._board = SummaryWriter(self._logs.name, purge_step=trainer.step + 1 if trainer.step else None)
        begins = f"resuming after step {trainer.step} of" if trainer.step else "training begins, steps:"
        size = trainer.workers.size
        progress.put(f"{begins} {trainer.steps}, with {size} worker{'s' * (size > 1)}")

    def after_step(self, progress: Progress) -> None:
        self._history.add({"step": progress.step, **progress.losses})
        if progress.metrics is not None:
            self._metrics.add({"step": progress.step, **progress.metrics})
        for name, value in progress.losses.items():
            self._board.add_scalar(f"train/{name}", value, progress.step)
        self._board.add_scalar("train/learning_rate", progress.learning_rate, progress.step)
        for name, value in (progress.metrics or {}).items():
            self._board.add_scalar(f"validation/{name}", value, progress.step)
        now = time.monotonic()
        if progress.metrics is not None or now - self._last_word >= 10:
            self._progress.put(self._line(progress))
            self._last_word = now
        if progress.best or self._is_leaving(progress.step) or now - self._last_checkpoint >= self._checkpoint_s:
            # Logs first: lines of steps after the checkpoint are left out when training goes on, lines of before stay.
            self._store_logs()
            self._checkpoints.write(self._trainer)
            self._last_checkpoint = time.monotonic()

    def _is_leaving(self, step: int) -> bool:
        """Whether Ray has just learned that a node of the training will be taken away."""
        if self._noticed or not _notice():
            return False
        self._noticed = True
        self._checkpoint_s = min(self._checkpoint_s, _LEAVING_S)
        self._progress.put(f"a node will be taken away: checkpoint after step {step}, and from now on more often")
        return True

    def finish(self) -> None:
        seconds = time.monotonic() - self._started
        trainer = self._trainer
        model = trainer.best_model()
        summary = save_package(
            self._plan,
            model,
            trainer.calibrated_task(model),
            trainer.best_metrics,
            samples=(len(trainer.train), len(trainer.validation)),
            steps=trainer.step,
            resumed=self._resumed,
            seconds=seconds,
        )
        self._store_logs()
        conclude(self._plan, summary)

    def _line(self, progress: Progress) -> str:
        left = (progress.steps - progress.step) * self._trainer.batch_rows / max(progress.samples_per_s, 1e-9)
        shown = {**progress.losses, **{k: v for k, v in (progress.metrics or {}).items() if "/" not in k}}
        values = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        return (
            f"epoch {progress.epoch:.2f}/{self._plan.config.epochs}  step {progress.step}/{progress.steps}  {values}  "
            f"{progress.samples_per_s:.1f} samples/s  {left / 60:.1f} min left"
        )

    def _store_logs(self) -> None:
        self._history.store()
        self._metrics.store()
        self._board.flush()
        for file in Path(self._logs.name).iterdir():
            storage.write(storage.join(self._plan.out, "tensorboard", file.name), file.read_bytes())


class _History:
    """Numbers of steps, stored as lines of JSON: the losses of each, or the metrics of each evaluation."""

    def __init__(self, out: str, name: str) -> None:
        self._uri = storage.join(out, name)
        self._lines: list[dict[str, float]] = []

    def load(self, until_step: int) -> None:
        if until_step and storage.exists(self._uri):
            try:
                lines = [json.loads(line) for line in storage.read(self._uri).splitlines()]
            except ValueError:  # cut by a power cut: the losses of before are lost
                return
            self._lines = [line for line in lines if line["step"] <= until_step]

    def add(self, line: dict[str, float]) -> None:
        self._lines.append(line)

    def store(self) -> None:
        storage.write(self._uri, "".join(to_json(line) + "\n" for line in self._lines).encode())
