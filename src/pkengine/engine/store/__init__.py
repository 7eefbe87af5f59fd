"""The engine's database: schema, migrations and queries."""
