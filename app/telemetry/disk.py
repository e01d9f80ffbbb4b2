"""Room on the disk that holds `LEPO_VAR_DIR`, where checkpoints are written: read at each scrape.

Server and worker share that directory, so a server speaks for both. Leaves out Postgres's disk, which may be elsewhere.
"""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class DiskCollector(Collector):
    """Asks the file system.

    Args:
        directory: on the disk in question.
        prefix: of every name, with its colon.

    """

    def __init__(self, directory: Path, prefix: str) -> None:
        self._directory = directory
        self._prefix = prefix

    def describe(self) -> Iterable[Metric]:
        """Name nothing beforehand: the directory may not be there yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Write what is free and what there is; nothing while the directory is not there."""
        try:
            room = shutil.disk_usage(self._directory)
        except OSError:
            return
        words = "Bytes {} on the disk of LEPO_VAR_DIR."
        yield GaugeMetricFamily(f"{self._prefix}disk_free_bytes", words.format("free"), value=room.free)
        yield GaugeMetricFamily(f"{self._prefix}disk_size_bytes", words.format("in all"), value=room.total)
