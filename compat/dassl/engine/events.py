"""TensorBoard events."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from promptbias.utils.errors import UserError

__all__ = ["EventWriter"]


class EventWriter:
    """Writes scalars to a new event file in `log_dir`; like torch's `SummaryWriter`, but without a thread.

    A thread that cannot write prints a traceback of its own, while the run continues.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, log_dir: str):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorBoard imports TensorFlow if it is installed
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.event, self.summary = Event, Summary
        name = f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self.path = os.path.join(log_dir, name)
        self.file = open(self.path, "wb")  # noqa: SIM115
        self.records = RecordWriter(self.file)
        self._write(file_version="brain.Event:2")

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        value = self.summary.Value(tag=tag, simple_value=float(scalar_value))
        self._write(step=global_step, summary=self.summary(value=[value]))

    def _write(self, **fields: Any) -> None:
        with self._explained():
            self.records.write(self.event(wall_time=time.time(), **fields).SerializeToString())

    def flush(self) -> None:
        with self._explained():
            self.file.flush()

    def close(self) -> None:
        with self._explained():
            self.file.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with contextlib.suppress(OSError):
                self.file.close()
            raise UserError(f"cannot write {self.path} ({error.strerror}); free some disk space") from error
