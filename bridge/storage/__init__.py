"""Storage: SQLAlchemy Core over SQLite or PostgreSQL. Plain functions, the transaction first."""
