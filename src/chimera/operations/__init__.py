"""Operations: kill switches, stuck shards, attempts of unknown outcome, and the outbox."""
