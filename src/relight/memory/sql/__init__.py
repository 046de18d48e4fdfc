"""Named statements of the journal and of the pgvector store."""
