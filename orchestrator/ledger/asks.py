"""Records the points that searches ask, round by round, before they are dispatched; a later launch reads them again.

Each round is one file, `<root>/asks/search=S/round-<k>-<driver>.parquet`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from orchestrator.ledger import schema as rules
from orchestrator.ledger.parts import bad_part, read_or_name
from orchestrator.ledger.sealed_parquet import SealedParquet, seal
from orchestrator.ledger.storage import Storage


class Asks:
    """The asks of all searches in a ledger's storage; `driver_id` names the writer."""

    def __init__(self, storage: Storage, driver_id: str) -> None:
        self._storage, self._driver_id = storage, driver_id

    def put(self, search_id: str, round_number: int, params: Sequence[Mapping[str, float]]) -> None:
        """Record the points that a search asks in a round, before any of them is dispatched."""
        rows = [{"search_id": search_id, "round": round_number, "position": i, **p} for i, p in enumerate(params)]
        sink = pa.BufferOutputStream()
        marked = pa.Table.from_pylist(rows).replace_schema_metadata(rules.asks_marker())
        pq.write_table(marked, sink, write_page_checksum=True)
        self._storage.write(
            f"{self._folder(search_id)}/round-{round_number:04d}-{self._driver_id}.parquet",
            seal(sink.getvalue()),
        )

    def rounds(self, search_id: str) -> dict[int, list[dict[str, float]]]:
        """The recorded points of each round of a search; if two drivers recorded a round, the earlier driver's."""
        rounds: dict[int, list[dict[str, float]]] = {}
        for part in self._storage.list(self._folder(search_id), pafs.FileType.File):
            if not part.endswith(".parquet"):
                continue
            table = read_or_name(self._storage, part, SealedParquet.read)
            if fault := rules.fault_of_marker(table.schema.metadata, rules.ASKS):
                raise bad_part(part, fault)
            rows = table.sort_by("position").drop_columns(["search_id", "position"]).to_pylist()
            number = rows[0].pop("round")
            rounds.setdefault(number, [{k: v for k, v in row.items() if k != "round"} for row in rows])
        return rounds

    def _folder(self, search_id: str) -> str:
        return f"{self._storage.path}/{rules.ASKS}/search={search_id}"
