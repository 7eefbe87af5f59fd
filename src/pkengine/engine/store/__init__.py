"""The engine's database: its tables, migrations and queries.

The modules `hosts`, `clusters`, `events` and `jobs` hold plain functions that take an open
connection; `Store` runs them in threads, each call in one transaction.
"""

from pkengine.engine.store.database import Store, open_database
from pkengine.engine.store.sealing import Seal

__all__ = ["Seal", "Store", "open_database"]
