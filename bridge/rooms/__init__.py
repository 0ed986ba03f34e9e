"""Matrix rooms: the imperative shell around the engine, one file per verb."""
